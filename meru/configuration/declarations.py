"""Declares every key of configs/train.yaml, its groups and configs/evaluate.yaml: kind, range, unit, fixed or not.

A new key in configs/ needs a line here. The comment beside a key in configs/ explains it; without one, `meaning` does.
"""

from __future__ import annotations

from meru.configuration.declared_captions import CAPTIONS
from meru.configuration.declared_losses import DISCOVERY, LOSS
from meru.configuration.declared_training import LOGGER, OPTIM, TRAINER
from meru.configuration.key import Key, fixed
from meru.configuration.kinds import (
    Architecture,
    Choice,
    Either,
    FilePath,
    Flag,
    ListOf,
    Number,
    Plain,
    Section,
    Text,
    Whole,
)
from meru.configuration.own_data import OWN_DATA
from meru.configuration.ranges import (
    FILE,
    FOLDER,
    NAMES,
    POSITIVE,
    PROPER_SHARE,
    RGB,
    RGB_SPREAD,
    SEED,
    SHARE,
    TARGET,
    TEMPERATURE,
    TEMPLATES,
    TEXTS,
)
from meru.configuration.targets import names_in

_GENERAL = {
    "name": fixed(Text(), meaning="part of the run folder's path, and of the run's name in Weights & Biases"),
    "seed": fixed(SEED),
    "output": fixed(FOLDER),
    "folder": fixed(FOLDER, null=True),
    "resume": Key(FOLDER, null=True),
    "task": fixed(Choice(("discovery",))),
}
FIGURES = ("disk", "norms", "traversal", "neighbours", "curves")
_EVALUATION = {
    "captions_per_image": Key(Whole(1, 10_000), "captions", null=True),
    "templates": Key(TEMPLATES, null=True),
    "batch_size": Key(Whole(1, 65_536), "images", "images per batch in evaluation"),
    "pointing": Key(Flag()),
    "attention_pictures": Key(Whole(0, 10_000), "captions"),
    "figures": Key(ListOf(Choice(FIGURES), "[disk,norms]", different=True), null=True),
}
# Arguments of the loaders in meru/data, passed on from data.load and data.load_discovery.
LAYOUTS = ("cuhk_pedes", "icfg_pedes", "rstpreid", "coco", "flickr30k")
_SOURCE = {
    "_target_": fixed(TARGET, meaning="the function that reads the data"),
    "root": Key(FOLDER, meaning="folder of the data"),
    "captions": Key(FOLDER, meaning="folder of the captions", null=True),
    "validation_fraction": fixed(Number(0, 1, below=True), "share", "training images for validation"),
    "seed": fixed(SEED, meaning="choice of validation images, and of synthetic ones"),
    "layout": fixed(Choice(LAYOUTS), meaning="the data set's annotation format"),
    "images_per_species": fixed(Whole(2, 10_000), "images", "synthetic birds of each species"),
    "image_size": fixed(Whole(32, 4096), "pixels", "side of the synthetic images"),
    "identities": fixed(Whole(6, 1_000_000), "persons", "synthetic persons"),
    "images_per_identity": fixed(Whole(1, 10_000), "images", "synthetic images of each person"),
    "download": Key(Flag(), meaning="download the data to root if they are missing"),
    "data_set": fixed(Text("the name of a data set"), meaning="which of the data sets in that layout", null=True),
    "families": Key(Choice(("last_word", "file")), meaning="as data.families", null=True),
    "old_classes": fixed(NAMES, meaning="class folders that are old", null=True),
    "old_share": fixed(PROPER_SHARE, "share", "classes that are old", null=True),
    "labelled_files": fixed(FILE, meaning="list of the labelled images", null=True),
    "unlabelled": fixed(FOLDER, meaning="folder of images whose classes are not known", null=True),
    "labelled_fraction": fixed(Number(0, 1, above=True), "share", "labelled images of old classes", null=True),
    "split_seed": fixed(SEED, meaning="which images are labelled"),
}
FAMILY = Choice(names_in("meru.data.corruptions.families.FAMILIES"))
_DATA = {
    "validation_fraction": fixed(Number(0, 1, below=True), "share"),
    "split_seed": fixed(SEED),
    "batch_size": fixed(Whole(1, 65_536), "images"),
    "batch_size_per_gpu": fixed(Whole(1, 65_536), "images", null=True),
    "workers": Key(Whole(0, 512), "processes"),
    "on_error": Key(Choice(("raise", "skip"))),
    "timeout": Key(Number(0, 1e6), "seconds"),
    "maximum_pixels": Key(Whole(1, 10**10), "pixels"),
    "crop_scale": Key(ListOf(Number(0, 1, above=True), "[0.5,1.0]", least=2, most=2, ascending=True), "shares"),
    "flip": Key(Flag(), meaning="mirror half of the training images"),
    "squash": Key(Flag()),
    "image_augmentation": Key(Section(), null=True),
    "image_augmentation.interpolation": Key(Choice(("bilinear", "bicubic"))),
    "image_augmentation.picks": Key(Whole(0, 1000), "operations"),
    "image_augmentation.pool": Key(
        ListOf(Choice(("colour", "rotation", "crop", "grey", "flip", "erasing")), "[colour,crop,flip]"),
        meaning="the operations to pick from",
    ),
    "corruptions": Key(ListOf(FAMILY, "[night,fog]", least=1, different=True), null=True),
    "corruption_share": Key(SHARE, "share"),
    "text_augmentation": Key(Section(), null=True),
    "text_augmentation.word_deletion": Key(SHARE, "probability"),
    "text_augmentation.back_translation": Key(SHARE, "probability"),
    "cached_views": fixed(Whole(0, 1000, step=2), "views"),
    "image_cache": fixed(Whole(16, 4096), "pixels", null=True),
    "cache": Key(FOLDER, null=True),
    "decode": fixed(Choice(("exact", "scaled"))),
    "augment_on": Key(Choice(("cpu", "device"))),
    "prompts": Key(TEMPLATES, null=True),
    "whole": fixed(Text(), null=True),
    "part_words": fixed(Section(), null=True),
    "part_words.*": fixed(TEXTS, meaning="the words that name that part"),
    "families": Key(Choice(("last_word", "file")), null=True),
    "parents": Key(FILE, null=True),
    "monitor": Key(Text("a figure of the validation split"), null=True),
    "root": Key(FOLDER, meaning="folder of the data"),
    "captions": Key(FOLDER, null=True),
    "old_classes": fixed(NAMES, null=True),
    "old_share": fixed(PROPER_SHARE, "share", null=True),
    "labelled_files": fixed(FILE, null=True),
    "unlabelled": fixed(FOLDER, null=True),
    "labelled_fraction": fixed(Number(0, 1, above=True), "share", null=True),
    "label_noise": fixed(SHARE, "share"),
    "label_noise_kind": fixed(Choice(("symmetric", "nearest"))),
    "download": Key(Flag()),
    **OWN_DATA,
    **CAPTIONS,
    **{f"load.{name}": key for name, key in _SOURCE.items()},
    **{f"load_discovery.{name}": key for name, key in _SOURCE.items()},
    **{f"load_labelled.{name}": key for name, key in _SOURCE.items()},
    **{f"load_label_sets.{name}": key for name, key in _SOURCE.items()},
}
_ENCODER = {
    "image._target_": fixed(TARGET, meaning="the function that makes the image tower"),
    "image.name": fixed(Text(), meaning="timm's or open_clip's name of the network"),
    "image.image_size": fixed(
        Either((Whole(8, 4096), ListOf(Whole(8, 4096), "[384,128]", least=2, most=2))),
        "pixels",
        "side of the tower's square input, or its height and width; null: that of the weights",
        null=True,
    ),
    "image.pretrained": fixed(Either((Flag(), Text("a tag of open_clip"))), null=True),
    "image.weights": fixed(FILE, null=True),
    "image.arguments": fixed(Section(), meaning="arguments of timm.create_model", null=True),
    "image.arguments.*": fixed(Plain(), meaning="an argument of timm.create_model", null=True),
    "image.pixel_mean": fixed(RGB, "red, green, blue", "null: that of the weights", null=True),
    "image.pixel_std": fixed(RGB_SPREAD, "red, green, blue", "null: that of the weights", null=True),
    "image.norm_epsilon": fixed(Number(0, 1, above=True), "", "epsilon of every layer norm; null: timm's", null=True),
    "image.fixed_positions": fixed(Flag(), meaning="fixed sine–cosine positions instead of learned ones"),
    "image.train_last_blocks": fixed(Whole(0, 10_000), "blocks", null=True),
    "image.train_final_layers": fixed(Flag(), null=True),
    "image.freeze_batch_norm": fixed(Flag(), meaning="fix the gains, biases and statistics of batch norms"),
    "image.gradient_checkpointing": Key(Flag(), meaning="trade a second forward pass for memory"),
    "image.patch_level": fixed(Whole(0, 10_000), null=True),
    "image.random_weights": fixed(Flag(), meaning="load no weights, whatever the other keys say"),
    "image.lora_rank": fixed(
        Whole(0, 1024), meaning="rank of LoRA's updates; null or 0: the tower's own weights are trained", null=True
    ),
    "image.lora_alpha": fixed(POSITIVE, meaning="scale of the updates, times the rank; null: the rank", null=True),
    "image.lora_norms": fixed(Flag(), meaning="train the layer norms beside the updates"),
    "text._target_": fixed(TARGET, meaning="the function that makes the text tower"),
    "text.name": fixed(Text(), meaning="open_clip's name of the network"),
    "text.pretrained": fixed(Either((Flag(), Text("a tag of open_clip"))), "", "that of encoder.image", null=True),
    "text.weights": fixed(FILE, meaning="that of encoder.image.weights", null=True),
    "text.architecture": fixed(Architecture(), meaning="layers, width and attention heads"),
    "text.context_length": fixed(Whole(3, 8192), "tokens", "longest caption, including both special tokens"),
    "text.dropout": Key(Number(0, 1, below=True), "share"),
    "text.gradient_checkpointing": Key(Flag(), meaning="trade a second forward pass for memory"),
    "text.random_weights": fixed(Flag(), meaning="load no weights, whatever the other keys say"),
    "text.lora_rank": fixed(
        Whole(0, 1024), meaning="rank of LoRA's updates; null or 0: the tower's own weights are trained", null=True
    ),
    "text.lora_alpha": fixed(POSITIVE, meaning="scale of the updates, times the rank; null: the rank", null=True),
    "text.lora_norms": fixed(Flag(), meaning="train the layer norms beside the updates"),
    "embedding_dimension": fixed(Whole(2, 65_536), "dimensions", "of the space of images and captions"),
    "initial_radius": fixed(POSITIVE, null=True),
    "init": fixed(FilePath("the path of a file or folder"), null=True),
}
_MODEL = {
    "_target_": fixed(TARGET, meaning="the model's class"),
    "embedding_dimension": fixed(Whole(2, 65_536), "dimensions", "of the space of images and captions"),
    "logit_scale": fixed(POSITIVE, null=True),
    "maximum_logit_scale": fixed(POSITIVE, meaning="upper bound of the inverse temperature"),
    "part_logit_scale": fixed(POSITIVE, meaning="initial inverse temperature of part images and part texts"),
    "part_whole_logit_scale": fixed(POSITIVE, meaning="initial inverse temperature of parts and wholes"),
    "local_logit_scale": fixed(POSITIVE, meaning="initial inverse temperature of words and patches"),
    "curvature": fixed(Number(0, 10_000, above=True), meaning="c > 0; MERU learns it from this start"),
    "learn_curvature": fixed(Flag(), meaning="whether the curvature is learned"),
    "norm_exponent": fixed(SHARE),
    "initial_radius": fixed(POSITIVE, null=True),
    "space": fixed(
        Choice(names_in("meru.geometry.spaces.SPACES")),
        meaning="hyperboloid: MERU; euclidean: flat, as in EuCLIP; sphere: cosines, without cones (GAHR without HRL)",
    ),
    "projection_width": fixed(Whole(1, 1_000_000), "units", "hidden layers of the projection head", null=True),
    "score": fixed(Choice(("distance", "squared_distance"))),
    "projection_dimension": fixed(Whole(2, 65_536), "dimensions", "of the features for the contrastive terms"),
    "temperature": fixed(TEMPERATURE),
    "clip": fixed(POSITIVE),
    "feature_scale": fixed(POSITIVE),
    "distance_share": Key(SHARE),
    "distance_epochs": Key(Whole(1, 100_000), "epochs"),
    "angle_temperature_scale": Key(POSITIVE),
    "merge": fixed(Whole(1, 1000), "patches"),
    "top": Key(Whole(1, 10_000), "patches"),
    "grid": fixed(Whole(1, 64), "cells"),
    "activation": Key(Choice(("sigmoid", "softmax"))),
    "word_window": fixed(Whole(1, 1000), "tokens", null=True),
    "class_token": fixed(Flag()),
}
_PARTS = {
    "crops": Key(ListOf(Choice(("box", "parts")), "[box,parts]", least=1, most=2, different=True)),
    "window": Key(
        ListOf(Number(0, 1, above=True), "[0.3,0.5]", least=2, most=2, ascending=True), "shares of the box"
    ),
}


def _all(**sections: dict[str, Key]) -> dict[str, Key]:
    return {f"{section}.{name}": key for section, keys in sections.items() for name, key in keys.items()}


TRAIN = {
    **_GENERAL,
    **_all(trainer=TRAINER, evaluation=_EVALUATION, data=_DATA, encoder=_ENCODER, model=_MODEL, loss=LOSS),
    **_all(parts=_PARTS, discovery=DISCOVERY, optim=OPTIM, logger=LOGGER),
}
EVALUATE = {
    "run": Key(FOLDER),
    "split": Key(Choice(("test", "validation", "train")), "", "null: test; of a discovery run, train too", null=True),
    "suite": Key(Choice(names_in("meru.evaluation.suites.SUITES")), null=True),
    "root": Key(FOLDER, null=True),
    **{name: key for name, key in _EVALUATION.items() if name not in ("attention_pictures", "figures")},
    "corruptions": Key(ListOf(FAMILY, "[night,fog]", different=True), null=True),
    "severities": Key(ListOf(Whole(1, 5), "[1,3,5]", least=1, different=True)),
    "probe_features": Key(Choice(("tower", "tangent"))),
    "prior_adjustment": Key(SHARE, null=True),
    "workers": Key(Whole(0, 512), "processes", "that read images"),
    "output": Key(FILE, null=True),
    "data": Key(Section(), meaning="other keys of the section data for this evaluation"),
    **{name: key for name, key in TRAIN.items() if name.startswith("data.")},
}
DECLARED = {"train": TRAIN, "evaluate": EVALUATE}

"""Declares every key of configs/train.yaml, its groups and configs/evaluate.yaml: kind, range, unit, fixed or not.

A new key in configs/ needs a line here. The comment beside a key in configs/ explains it; without one, `meaning` does.
"""

from __future__ import annotations

from meru.configuration.key import Key, fixed, weight
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
    Template,
    Text,
    Whole,
)
from meru.configuration.own_data import OWN_DATA
from meru.configuration.targets import names_in

FOLDER, FILE = FilePath("the path of a folder"), FilePath("the path of a file")
SHARE = Number(0, 1)
SEED = Whole(0, 2**32 - 1)
POSITIVE = Number(0, 1e6, above=True)
AT_LEAST_0 = Number(0, 1e6)
TARGET = Text("the dotted path of a class or function")
TEMPLATES = ListOf(Template(), '["a photo of a {}."]', least=1, most=10_000)
RGB = ListOf(Number(-10, 10), "[0.5,0.5,0.5]", least=3, most=3)
RGB_SPREAD = ListOf(Number(0, 10, above=True), "[0.5,0.5,0.5]", least=3, most=3)
TEXTS = ListOf(Text(), '["one","2"]')
NAMES = Either((TEXTS, FILE))
PROPER_SHARE = Number(0, 1, above=True, below=True)
TEMPERATURE = Number(0, 1000, above=True)

_GENERAL = {
    "name": fixed(Text(), meaning="part of the run folder's path, and of the run's name in Weights & Biases"),
    "seed": fixed(SEED),
    "output": fixed(FOLDER),
    "folder": fixed(FOLDER, null=True),
    "resume": Key(FOLDER, null=True),
    "task": fixed(Choice(("discovery",))),
}
_TRAINER = {
    "epochs": Key(Whole(1, 100_000), "epochs", "passes over the training images"),
    "accumulate": fixed(Whole(1, 10_000), "batches"),
    "warmup_epochs": Key(Number(0, 100_000), "epochs", "linear growth of the learning rate from 0; may be fractional"),
    "final_learning_rate": Key(SHARE, "share of the highest", "learning rate at the end"),
    "rate_changes": Key(Choice(("step", "epoch"))),
    "clip_gradient_norm": Key(AT_LEAST_0, meaning="upper bound on the gradient's norm; null: none", null=True),
    "precision": Key(Choice(("auto", "bf16", "fp32"))),
    "tf32": Key(Flag()),
    "ema_decay": Key(Number(0, 1, below=True)),
    "compile": Key(Flag(), meaning="compile the model with torch.compile"),
    "evaluate_every": Key(Whole(1, 100_000), "epochs", "epochs between validations"),
    "monitor": Key(Text("a figure of the validation split"), null=True),
    "log_every": Key(Whole(1, 10**9), "steps", "steps between logged lines"),
    "checkpoint_every": Key(Whole(0, 10**9), "steps"),
    "diagnose_every": Key(Whole(0, 10**9), "steps"),
}
_EVALUATION = {
    "captions_per_image": Key(Whole(1, 10_000), "captions", null=True),
    "templates": Key(TEMPLATES, null=True),
    "batch_size": Key(Whole(1, 65_536), "images", "images per batch in evaluation"),
    "pointing": Key(Flag()),
    "attention_pictures": Key(Whole(0, 10_000), "captions"),
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
    "old_classes": fixed(NAMES, meaning="class folders that are old", null=True),
    "old_share": fixed(PROPER_SHARE, "share", "classes that are old", null=True),
    "labelled_files": fixed(FILE, meaning="list of the labelled images", null=True),
    "unlabelled": fixed(FOLDER, meaning="folder of images whose classes are not known", null=True),
    "labelled_fraction": fixed(Number(0, 1, above=True), "share", "labelled images of old classes", null=True),
    "split_seed": fixed(SEED, meaning="which images are labelled"),
}
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
    "text_augmentation": Key(Section(), null=True),
    "text_augmentation.word_deletion": Key(SHARE, "probability"),
    "text_augmentation.back_translation": Key(SHARE, "probability"),
    "cached_views": fixed(Whole(0, 1000, step=2), "views"),
    "cache": Key(FOLDER, null=True),
    "prompts": Key(TEMPLATES, null=True),
    "whole": fixed(Text(), null=True),
    "part_words": fixed(Section(), null=True),
    "part_words.*": fixed(TEXTS, meaning="the words that name that part"),
    "families": Key(Choice(("last_word", "file")), null=True),
    "monitor": Key(Text("a figure of the validation split"), null=True),
    "root": Key(FOLDER, meaning="folder of the data"),
    "captions": Key(FOLDER, null=True),
    "old_classes": fixed(NAMES, null=True),
    "old_share": fixed(PROPER_SHARE, "share", null=True),
    "labelled_files": fixed(FILE, null=True),
    "unlabelled": fixed(FOLDER, null=True),
    "labelled_fraction": fixed(Number(0, 1, above=True), "share", null=True),
    "download": Key(Flag()),
    **OWN_DATA,
    "load.prompts": Key(TEMPLATES, meaning="data.prompts", null=True),
    **{f"load.{name}": key for name, key in _SOURCE.items()},
    **{f"load_discovery.{name}": key for name, key in _SOURCE.items()},
    **{f"load_labelled.{name}": key for name, key in _SOURCE.items()},
}
_ENCODER = {
    "image._target_": fixed(TARGET, meaning="the function that makes the image tower"),
    "image.name": fixed(Text(), meaning="timm's or open_clip's name of the network"),
    "image.image_size": fixed(Whole(8, 4096), "pixels", "side of the tower's square input"),
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
    "text._target_": fixed(TARGET, meaning="the function that makes the text tower"),
    "text.name": fixed(Text(), meaning="open_clip's name of the network"),
    "text.pretrained": fixed(Either((Flag(), Text("a tag of open_clip"))), "", "that of encoder.image", null=True),
    "text.weights": fixed(FILE, meaning="that of encoder.image.weights", null=True),
    "text.architecture": fixed(Architecture(), meaning="layers, width and attention heads"),
    "text.context_length": fixed(Whole(3, 8192), "tokens", "longest caption, including both special tokens"),
    "text.dropout": Key(Number(0, 1, below=True), "share"),
    "text.gradient_checkpointing": Key(Flag(), meaning="trade a second forward pass for memory"),
    "text.random_weights": fixed(Flag(), meaning="load no weights, whatever the other keys say"),
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
_LOSS = {
    "contrastive.weight": weight("weight of the contrast of images and captions"),
    "contrastive.kind": fixed(Choice(("softmax", "sigmoid"))),
    "contrastive.bias": fixed(Number(-1000, 1000), meaning="start of the learned bias of kind=sigmoid"),
    "contrastive.positives": Key(Choice(("pair", "image", "class"))),
    "semantic_margin.weight": weight("weight of SMS"),
    "semantic_margin.margin": Key(Number(0, 100), meaning="λ"),
    "semantic_margin.margin_source": Key(Choice(("intra", "cross")), meaning="intra: paper | cross: released code"),
    "semantic_margin.soft_label": Key(SHARE, "share", "weight of the model's own predictions in the targets"),
    "semantic_margin.soft_label_epochs": Key(Number(0, 100_000, above=True), "epochs", "growth of soft_label from 0"),
    "category.weight": weight("weight of HCL"),
    "category.temperature": Key(TEMPERATURE, meaning="of the classes' probabilities"),
    "category.smoothing": Key(Number(0, 1, below=True), "share", "of the targets that goes to the other classes"),
    "category.riemannian": Key(Flag()),
    "category.start_epoch": Key(Whole(0, 100_000), "epochs"),
    "category.confidence": Key(Number(0, 1, below=True), "probability"),
    "hierarchy.weight": weight("weight of LHL"),
    "hierarchy.neighbours": Key(Whole(1, 65_536), "views", "nearest neighbours of a point, including itself"),
    "hierarchy.triplets": Key(Whole(1, 100_000), "triplets", "sampled per point"),
    "hierarchy.margin": Key(AT_LEAST_0, meaning="δ"),
    "hierarchy.ancestors": fixed(
        Choice(("batch", "midpoint", "proxies")),
        meaning="batch: the points themselves; midpoint: Einstein midpoints; proxies: learned points, in HypGCD only",
    ),
    "hierarchy.proxies": fixed(Whole(2, 1_000_000), "points", "learned points, for ancestors=proxies"),
    "hierarchy.temperature": Key(TEMPERATURE),
    "hierarchy.exclude_members": Key(Flag()),
    "entailment.weight": weight("weight of cones of captions around images"),
    "entailment.kind": Key(Choice(("cone", "argent"))),
    "entailment.minimum_radius": Key(Number(0, 100, above=True)),
    "entailment.apex_floor": Key(Either((Number(0, 0), Number(1, 1000, above=True)))),
    "entailment.across_aperture": Key(Number(0, 100, above=True)),
    "entailment.within_aperture": Key(Number(0, 100, above=True)),
    "entailment.slope": Key(AT_LEAST_0, meaning="share of the angle that also counts inside the cone"),
    "entailment.calibration": Key(AT_LEAST_0, meaning="α: weight of what teaches a part its uncertainty"),
    "norm.weight": weight("weight of the regulariser of norms"),
    "reverse_contrastive.weight": weight("weight of R-ITC"),
    "reverse_contrastive.smoothing": Key(Number(0, 1, above=True, below=True)),
    "cyclic.weight": weight("weight of C-ITC"),
    "cyclic.within": Key(Number(0, 1e9)),
    "cyclic.across": Key(Number(0, 1e9)),
    "word_grounding.weight": weight("weight of the attention of words to their own image"),
    "word_grounding.exclude_class": Key(Flag()),
    "word_contrast.weight": weight("weight of BAI's term on words"),
    "word_contrast.scope": Key(Choice(("caption", "batch"))),
    "word_contrast.exclude_class": Key(Flag()),
    "patch_agreement.weight": weight("weight of BAI's term on patches"),
    "part_entailment.weight": weight("weight of cones of parts around images"),
    "part_entailment.apex_floor": Key(
        Either((Number(0, 0), Number(1, 1000, above=True))),
        meaning="as entailment.apex_floor; 0: the published cones, which parts at the origin satisfy trivially",
    ),
    "late_interaction.weight": weight("weight of the contrast by words and their nearest patches"),
    "caption_hierarchy.weight": weight("weight of the caption hierarchy"),
    "caption_hierarchy.pooling": fixed(Choice(("query", "mean"))),
    "caption_hierarchy.order": Key(Choice(("image_below_query", "reversed"))),
    "caption_hierarchy.parents": Key(Choice(("caption", "shuffled"))),
    "supervised_contrastive.weight": weight("weight of the contrast of labelled images"),
    "supervised_contrastive.temperature": Key(TEMPERATURE, meaning="of that contrast"),
    "supervised_classification.weight": weight("weight of the labelled images' cross-entropy"),
    "view_contrastive.weight": weight("weight of the contrast of two views of an image"),
    "view_contrastive.temperature": Key(TEMPERATURE, meaning="of that contrast"),
    "self_distillation.weight": weight("weight of one view's prediction as the target of the other"),
    "self_distillation.entropy": Key(AT_LEAST_0),
    "self_distillation.start": Key(TEMPERATURE),
    "self_distillation.end": Key(TEMPERATURE),
    "self_distillation.epochs": Key(Whole(1, 100_000), "epochs"),
}
_DISCOVERY = {
    "num_classes": fixed(Either((Whole(2, 1_000_000), Choice(("estimate",)))), "classes", null=True),
    "asked_num_classes": fixed(
        Either((Whole(2, 1_000_000), Choice(("estimate",)))),
        "classes",
        "in run folders: the requested num_classes",
        null=True,
    ),
    "sampler": fixed(Choice(("weighted", "uniform", "neighbours"))),
    "neighbours": fixed(Whole(1, 65_536), "images"),
    "validation": fixed(Flag()),
    "maximum_classes": fixed(Whole(2, 1_000_000), "classes", null=True),
}
_OPTIM = {
    "optimizer._target_": fixed(TARGET, meaning="a class of torch.optim"),
    "optimizer._partial_": fixed(Flag(), meaning="true: the program adds the parameters later"),
    "optimizer.betas": Key(
        ListOf(Number(0, 1, below=True), "[0.9,0.98]", least=2, most=2), meaning="decay of Adam's averages"
    ),
    "optimizer.eps": Key(Number(0, 1), meaning="added to Adam's denominator"),
    "optimizer.momentum": Key(Number(0, 1, below=True), meaning="of SGD and RMSprop"),
    "optimizer.dampening": Key(SHARE, meaning="of SGD's momentum"),
    "optimizer.nesterov": Key(Flag(), meaning="Nesterov's momentum"),
    "optimizer.alpha": Key(SHARE, meaning="of RMSprop and ASGD"),
    "optimizer.rho": Key(SHARE, meaning="of Adadelta"),
    "optimizer.fused": Key(Flag(), meaning="one kernel for all parameters", null=True),
    "optimizer.foreach": Key(Flag(), meaning="all parameters in one call", null=True),
    "optimizer.amsgrad": Key(Flag(), meaning="the AMSGrad variant of Adam"),
    "optimizer.maximize": Key(Choice(("false",)), meaning="the loss can only be minimised"),
    "optimizer.*": Key(Plain(), meaning="any other argument of the class", null=True),
    "learning_rate": Key(Number(0, 1000), meaning="the highest"),
    "batch_of_rate": Key(Number(0, 1e9, above=True), "images", null=True),
    "weight_decay": Key(Number(0, 1000)),
    "multipliers": Key(Section(), null=True),
    "multipliers.*": Key(AT_LEAST_0, meaning="factor on the learning rate of that module or parameter"),
}
_LOGGER = {
    "_target_": Key(TARGET, meaning="the logger used besides metrics.jsonl"),
    "also": Key(
        ListOf(Choice(("wandb", "swanlab", "tensorboard")), "[tensorboard]", different=True),
        meaning="other loggers for the same figures",
    ),
    "project": Key(Text(), meaning="the project in Weights & Biases or SwanLab", null=True),
    "entity": Key(Text(), meaning="the user or team in Weights & Biases", null=True),
    "workspace": Key(Text(), meaning="the user or organisation in SwanLab", null=True),
    "mode": Key(Choice(("auto", "online", "offline", "disabled"))),
    "tags": Key(TEXTS, meaning="of the run in Weights & Biases or SwanLab", null=True),
    "group": Key(Text(), meaning="of the run in Weights & Biases or SwanLab", null=True),
}


def _all(**sections: dict[str, Key]) -> dict[str, Key]:
    return {f"{section}.{name}": key for section, keys in sections.items() for name, key in keys.items()}


TRAIN = {
    **_GENERAL,
    **_all(trainer=_TRAINER, evaluation=_EVALUATION, data=_DATA, encoder=_ENCODER, model=_MODEL, loss=_LOSS),
    **_all(parts=_PARTS, discovery=_DISCOVERY, optim=_OPTIM, logger=_LOGGER),
}
EVALUATE = {
    "run": Key(FOLDER),
    "split": Key(Choice(("test", "validation", "train")), "", "null: test; of a discovery run, train too", null=True),
    "suite": Key(Choice(names_in("meru.evaluation.suites.SUITES")), null=True),
    "root": Key(FOLDER, null=True),
    **{name: key for name, key in _EVALUATION.items() if name != "attention_pictures"},
    "workers": Key(Whole(0, 512), "processes", "that read images"),
    "output": Key(FILE, null=True),
    "data": Key(Section(), meaning="other keys of the section data for this evaluation"),
    **{name: key for name, key in TRAIN.items() if name.startswith("data.")},
}
DECLARED = {"train": TRAIN, "evaluate": EVALUATE}

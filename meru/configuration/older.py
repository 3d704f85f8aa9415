"""Old names of keys and targets, and values for configurations that predate a key.

Run folders of older versions are read under the new names; for an old name on the command line, the error says the new.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import yaml
from omegaconf import DictConfig, OmegaConf

from meru.configuration.facts import PERSONS
from meru.configuration.targets import arguments_of
from meru.files import CONFIGS

Names: TypeAlias = tuple  # path of a key; a name may itself contain a dot, such as the multiplier of `local.predictor`

# Old module of a `_target_` → its present name.
MOVED_MODULES = {
    "meru.data.birds": "meru.data.synthetic.birds.load",
    "meru.data.cub": "meru.data.datasets.cub",
    "meru.data.discovery_fine_grained": "meru.data.datasets.fine_grained",
    "meru.data.discovery_generic": "meru.data.datasets.generic",
    "meru.data.pedestrians": "meru.data.synthetic.pedestrians.load",
    "meru.data.person_search": "meru.data.datasets.person_search",
}
# Old `_target_` whose module was divided → its present name.
MOVED_TARGETS = {
    "meru.training.loggers.NoLogger": "meru.training.loggers.base.NoLogger",
    "meru.training.loggers.WandbLogger": "meru.training.loggers.wandb_logger.WandbLogger",
}
# Old key, or section with all its keys → its present name.
RENAMED_KEYS: dict[str, str] = {
    "data.discovery": "data.load_discovery",
    "discovery.cached_views": "data.cached_views",
    "space": "model.space",
    "sms": "loss.semantic_margin",
    "bai.weight": "loss.word_contrast.weight",
    "bai.scope": "loss.word_contrast.scope",
    "bai.class_token": "model.class_token",
    "patches.crops": "parts.crops",
    "patches.window": "parts.window",
    "patches": "model",
}
# Old keys without a single replacement → what to write instead.
REPLACED_KEYS = {
    "space": "model.space (hyperboloid for lorentz, sphere for cosine)",
    "bai.weight": "loss.word_contrast.weight and loss.patch_agreement.weight",
    "patches.mode": "the model: model=meru_patches for tokens, model=hycoclip for crops, model=meru_grid for grid",
    "model.mode": "the model: model=meru_patches for tokens, model=hycoclip for crops, model=meru_grid for grid",
    "model.released": "a model of its own: model=hypgcd_released",
    "loss.part_entailment.weight_of_mode": "loss.part_entailment.weight",
}
SPACES = {"lorentz": "hyperboloid", "cosine": "sphere"}
# Class with a mode or a switch → the class and the file in configs/model that replaced it.
NEW_MODELS = {
    ("meru.models.meru_patches.MERUPatches", "crops"): ("meru.models.hycoclip.HyCoCLIP", "hycoclip"),
    ("meru.models.meru_patches.MERUPatches", "grid"): ("meru.models.meru_grid.MERUGrid", "meru_grid"),
    ("meru.models.hypgcd.HypGCD", True): ("meru.models.hypgcd_released.HypGCDReleased", "hypgcd_released"),
}
# Arguments of all models with the section `patches`, whether or not their mode used them.
OF_PATCHES = ("merge", "top", "grid", "activation", "word_window", "class_token", "local_logit_scale")
# Values for all data sets from before each had its own prompts, words for parts and families.
ONCE_FOR_ALL = CONFIGS / "data" / "_birds.yaml"
FAMILIES_BY_NAME = ("load_cub_discovery", "load_birds_discovery")

# Later key → a key that the same files had, and the value with which nothing changes.
LATER_KEYS: dict[str, tuple[str, object]] = {
    "trainer.diagnose_every": ("trainer.epochs", 0),
    "trainer.micro_batch_size": ("trainer.epochs", None),
    "trainer.parallel": ("trainer.epochs", "ddp"),
    "trainer.figures_every": ("trainer.epochs", 0),
    "evaluation.figures": ("evaluation.batch_size", None),
    "data.cached_views": ("data.batch_size", 0),
    "data.corruptions": ("data.batch_size", None),
    "data.corruption_share": ("data.batch_size", 0.5),
    "data.cache": ("data.batch_size", None),
    "data.image_cache": ("data.batch_size", None),
    "data.decode": ("data.batch_size", "exact"),
    "data.augment_on": ("data.batch_size", "cpu"),
    "data.captions_from": ("data.batch_size", None),
    "data.captions_mode": ("data.batch_size", "add"),
    "data.generated_share": ("data.batch_size", 0.5),
    "data.evaluate_generated": ("data.batch_size", False),
    "data.caption_noise": ("data.batch_size", 0.0),
    "data.caption_noise_kind": ("data.batch_size", "symmetric"),
    "encoder.image.train_final_layers": ("encoder.image.freeze_batch_norm", None),
    "model.score": ("model.norm_exponent", "distance"),
    "model.feature_scale": ("loss.hierarchy.exclude_members", 1.0),
    "loss.contrastive.kind": ("loss.contrastive.weight", "softmax"),
    "loss.contrastive.bias": ("loss.contrastive.weight", -10.0),
    "loss.contrastive.robust_exponent": ("loss.contrastive.weight", 0.0),
    "loss.contrastive.robust_epochs": ("loss.contrastive.weight", 3.0),
    "loss.semantic_margin.robust_epochs": ("loss.semantic_margin.soft_label", 3.0),
    "loss.semantic_margin.robust_exponent": ("loss.semantic_margin.soft_label", 0.0),
    "loss.entailment.kind": ("loss.entailment.weight", "cone"),
    "loss.norm.weight": ("loss.entailment.weight", 0.0),
    "loss.caption_hierarchy.weight": ("loss.word_grounding.weight", 0.0),
    "loss.caption_hierarchy.pooling": ("loss.word_grounding.weight", "query"),
    "loss.caption_hierarchy.order": ("loss.word_grounding.weight", "image_below_query"),
    "loss.caption_hierarchy.parents": ("loss.word_grounding.weight", "caption"),
    "loss.supervised_classification.robust": ("loss.supervised_classification.weight", 0.0),
    "loss.category.start_epoch": ("loss.hierarchy.exclude_members", 0),
    "loss.category.confidence": ("loss.hierarchy.exclude_members", 0.0),
    "discovery.validation": ("discovery.neighbours", False),
    "discovery.stages": ("discovery.neighbours", 1),
    "discovery.first_share": ("discovery.neighbours", 0.5),
    "discovery.earlier_images": ("discovery.neighbours", "all"),
    "discovery.kept_share": ("discovery.neighbours", 0.1),
    "discovery.old_share": ("discovery.neighbours", None),
    "discovery.imbalance": ("discovery.neighbours", None),
    "discovery.prior_adjustment": ("discovery.neighbours", 0.0),
    "data.label_noise": ("data.labelled_fraction", 0.0),
    "data.label_noise_kind": ("data.labelled_fraction", "symmetric"),
}


def new_target(target: object) -> object:
    """The present name of a `_target_`; unchanged if it was not renamed."""
    module, _, name = str(target).rpartition(".")
    moved = f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target
    return MOVED_TARGETS.get(str(moved), moved)


def new_key(key: str) -> str | None:
    """The present name of a renamed key; None for other keys."""
    section, rest = key, ""
    while section:
        if section in RENAMED_KEYS:
            return RENAMED_KEYS[section] + rest
        section, _, last = section.rpartition(".")
        rest = f".{last}{rest}"
    return None


def replacement(key: str) -> str | None:
    """What replaced a key of an older version, as text for the user; None for other keys."""
    section = key
    while section and section not in REPLACED_KEYS:
        section = section.rpartition(".")[0]
    return REPLACED_KEYS.get(section) or new_key(key)


def modernised(config: DictConfig) -> DictConfig:
    """Translate the configuration of a run of any version to the present names; interpolations are kept.

    Args:
        config: The configuration as read from a file of a run folder.
    """
    values = _with_new_models(dict(_leaves(OmegaConf.to_container(config, resolve=False))))
    values = {key: _with_new_names(value) for key, value in values.items()} | _heads_of_text(values)
    return OmegaConf.create(_nested(_with_later_keys(_with_new_keys(values))))


def _heads_of_text(values: Mapping[Names, object]) -> dict[Names, object]:
    """The architecture of a text tower with its heads, which were once guessed for widths that 64 does not divide."""
    place = ("encoder", "text", "architecture")
    form = re.fullmatch(r"(L\d+_W(\d+))", str(values.get(place)))
    return {place: f"{form[1]}_A{int(form[2]) // 64}"} if form and int(form[2]) % 64 and int(form[2]) > 64 else {}


def _with_later_keys(values: dict[Names, object]) -> dict[Names, object]:
    """Add to the leaves the values that applied before later keys existed."""
    values = _with_later_keys_of_data(_with_space(values))
    for later, (neighbour, value) in LATER_KEYS.items():
        for place in ((), ("model",)) if later.startswith("loss.") else ((),):
            path = (*place, *later.split("."))
            if path not in values and (*place, *neighbour.split(".")) in values:
                values[path] = value
    return values


def _with_space(values: dict[Names, object]) -> dict[Names, object]:
    target = str(values.get(("model", "_target_")))
    taken = arguments_of(target) if target.startswith("meru.models.") else None
    if taken is None or "space" not in taken.names:
        return values
    return {("model", "space"): "hyperboloid"} | values


def _with_later_keys_of_data(values: dict[Names, object]) -> dict[Names, object]:
    if not any(path[0] == "data" and len(path) > 1 for path in values) or ("data", "prompts") in values:
        return values
    if str(values.get(("data", "load", "_target_"))).startswith(PERSONS):
        held = dict.fromkeys((*_held_for_all(), "families"))  # persons have no classes to name, and no parts
    else:
        loader = str(values.get(("data", "load_discovery", "_target_"))).rpartition(".")[2]
        held = _held_for_all() | {"families": "last_word" if loader in FAMILIES_BY_NAME else "file"}
    return values | {("data", name): value for name, value in held.items()}


@functools.cache
def _held_for_all() -> dict[str, object]:
    section = yaml.safe_load(ONCE_FOR_ALL.read_text(encoding="utf-8"))
    return {name: section[name] for name in ("prompts", "whole", "part_words")}


def _with_new_models(values: Mapping[Names, object]) -> dict[Names, object]:
    """Replace a mode or a switch in the leaves by the new model, without the arguments that it lacks."""
    values, target = dict(values), values.get(("model", "_target_"))
    of_model, of_patches = (values.pop((section, "mode"), None) for section in ("model", "patches"))
    mode = of_patches if of_model in (None, "${patches.mode}") else of_model
    released = values.pop(("model", "released"), False)
    if became := NEW_MODELS.get((target, released or mode)):
        target, choice = became
        values[("model", "_target_")] = target
        if ("choices", "model") in values:
            values[("choices", "model")] = choice
    for place in (("space",), ("model", "space")):
        if place in values:
            values[place] = SPACES.get(values[place], values[place])
    weights = {key: values.pop(key) for key in list(values) if "weight_of_mode" in key}
    part_entailment = ("loss", "part_entailment")
    if "weight_of_mode" in str(values.get((*part_entailment, "weight"))):
        values[(*part_entailment, "weight")] = weights.get((*part_entailment, "weight_of_mode", mode), 0.0)
    unused = {(section, name) for section in ("model", "patches", "bai") for name in _not_taken(target)}
    if target != "meru.models.hycoclip.HyCoCLIP":
        unused |= {("patches", "crops"), ("patches", "window")}
        if mode is not None:  # the file of every mode had it
            unused |= {(*place, "entailment", "across_aperture") for place in (("loss",), ("model", "loss"))}
    return {key: value for key, value in values.items() if key not in unused}


def _not_taken(target: object) -> set[str]:
    taken = arguments_of(str(target))
    return set() if taken is None or taken.others else set(OF_PATCHES) - taken.names


def _with_new_keys(values: Mapping[Names, object]) -> dict[Names, object]:
    """Move leaves to their present keys; an old key's value applies if the new one was interpolated from it."""
    renamed = {path: tuple(new.split(".")) for path in values if (new := new_key(".".join(path)))}
    kept = {path: value for path, value in values.items() if path not in renamed}
    for old, new in renamed.items():
        to_itself = f"${{{'.'.join(new)}}}"
        if kept.get(new, to_itself) == to_itself:
            kept[new] = values[old]
    return kept


def _with_new_names(value: object) -> object:
    """Translate interpolations in a value, or a target, to the present names."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"\$\{([\w.]+)\}", lambda form: f"${{{new_key(form[1]) or form[1]}}}", value)
    return new_target(value)


def _leaves(section: Mapping, prefix: Names = ()) -> Iterator[tuple[Names, object]]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _nested(values: Mapping[Names, object]) -> dict:
    nested: dict = {}
    for path, value in values.items():
        section = nested
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
    return nested

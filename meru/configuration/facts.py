"""Checks of keys that depend on each other, as far as possible before the data are read."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from meru.configuration.targets import timm_models
from meru.errors import UserError

RANKING = ("recall@1", "recall@5", "recall@10", "mean_average_precision", "mean_inverse_negative_penalty")
DIRECTIONS = ("text_to_image", "image_to_text")
LEAST_RATE_FROM_SCRATCH = 1e-4  # lower rates are too low to train towers from scratch
PERSONS = (
    "meru.data.datasets.person_search.", "meru.data.datasets.person_list.", "meru.data.synthetic.pedestrians.load.",
)  # fmt: skip


def validation_figures(*, kind: str, pointing: bool = True) -> tuple[str, ...]:
    """Names of validation figures that can select a model, higher being better; see `meru.reports.tables`.

    Args:
        kind: `class`, `identity` for data sets of persons, or `image` for images without classes.
        pointing: Whether to include figures of the pointing game.
    """
    rows = {"class": ("class", "image"), "identity": ("identity", "identity_cosine"), "image": ("image",)}[kind]
    names = [f"{direction}/{row}/{metric}" for direction in DIRECTIONS for row in rows for metric in RANKING]
    if kind == "class":
        rows = ("zero_shot", "zero_shot/class_mean", "class_captions", "class_captions/class_mean")
        names += [f"{row}/accuracy@{k}" for row in rows for k in (1, 5)]
        if pointing:
            names += ["pointing/accuracy@1", "pointing/mean_of_parts/accuracy@1"]
    return tuple(names)


def check_facts(plain: dict) -> None:
    """Raise an error for keys that contradict each other.

    Args:
        plain: The resolved configuration; those of older versions may lack some keys.
    """
    discovering = plain.get("task") == "discovery"
    require_loader(plain.get("data") or {}, discovering=discovering)
    if not discovering:
        _check_monitor(plain)
    _check_tower(plain)
    _check_low_rank(plain)
    _check_weights(plain)
    _check_neighbours(plain)
    _check_images(plain.get("data") or {})
    _check_captions(plain.get("data") or {}, discovering=discovering)
    _check_label_noise(plain.get("data") or {}, discovering=discovering)


def require_loader(data: Mapping, *, discovering: bool) -> None:
    """Raise an error if the section `data` has no loader for this kind of training."""
    if discovering and "load_discovery" not in data:
        raise UserError("this data set has no split for discovery: choose another, such as data=cub or data=birds")
    if not discovering and "load" not in data and "load_discovery" not in data:
        raise UserError(
            "this data set has labels and no captions: it is for suites, such as python scripts/evaluate.py run=<run "
            "folder> suite=zero_shot data=<this data set>"
        )
    if not discovering and "load" not in data:
        raise UserError("this data set has no captions, only classes to discover: choose model=simgcd, hypgcd or hypcd")


def notes(config: Mapping) -> list[str]:
    """Notes, one line each, on settings that are valid but probably not intended."""
    trainer, optim, encoder = (config.get(section) or {} for section in ("trainer", "optim", "encoder"))
    found = []
    epochs, warmup = trainer.get("epochs"), trainer.get("warmup_epochs", 0)
    if epochs and warmup > epochs:
        found.append(
            f"trainer.warmup_epochs={warmup} with trainer.epochs={epochs}: the learning rate never reaches "
            "optim.learning_rate"
        )
    image, rate = encoder.get("image") or {}, optim.get("learning_rate")
    loaded = encoder.get("init") or any(image.get(key) for key in ("pretrained", "weights", "random_weights"))
    if rate and rate < LEAST_RATE_FROM_SCRATCH and not loaded:
        found.append(
            f"optim.learning_rate={rate:g} is meant for fine-tuning, but {image.get('name')} starts from scratch: "
            "set, for instance, optim.learning_rate=5e-4, or load weights with encoder.image.weights or encoder.init"
        )
    return found


def _check_monitor(plain: dict) -> None:
    monitor = (plain.get("trainer") or {}).get("monitor")
    target = str((plain["data"].get("load") or {}).get("_target_"))
    kinds = ("identity",) if target.startswith(PERSONS) else ("class",)
    if not target.startswith("meru."):
        kinds = ("class", "identity")
    pointing = bool((plain.get("evaluation") or {}).get("pointing"))
    names = [name for kind in kinds for name in validation_figures(kind=kind, pointing=pointing)]
    if monitor is None or monitor in names:
        return
    near = get_close_matches(monitor, names, n=3, cutoff=0.5) or names[:3]
    raise UserError(
        f"trainer.monitor={monitor}: give a figure of the validation split whose highest value is best, such as "
        f"{', '.join(near)} (all: docs/keys.md)"
    )


def _check_tower(plain: dict) -> None:
    image = (plain.get("encoder") or {}).get("image") or {}
    name, target = str(image.get("name")), str(image.get("_target_"))
    base = name.partition(".")[0]  # `vit_base_patch16_224` of `vit_base_patch16_224.dino`
    if target != "meru.encoders.image.timm_image_encoder" or ":" in name or not timm_models():
        return
    if base not in timm_models():
        near = get_close_matches(base, sorted(timm_models()), n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise UserError(f"encoder.image.name={name}: timm has no such network; {advice}")


def _check_low_rank(plain: dict) -> None:
    encoder = plain.get("encoder") or {}
    for key in ("image", "text"):
        tower = encoder.get(key) or {}
        if not (rank := tower.get("lora_rank")):
            if tower.get("lora_alpha") is not None or tower.get("lora_norms"):
                raise UserError(
                    f"encoder.{key}.lora_alpha and lora_norms do nothing without a rank: set "
                    f"encoder.{key}.lora_rank, say to 4"
                )
            continue
        if (blocks := tower.get("train_last_blocks")) is not None:
            raise UserError(
                f"encoder.{key}.lora_rank={rank} freezes the tower's own weights, and encoder.{key}.train_last_blocks="
                f"{blocks} trains some of them: set one of the two to null"
            )
        if key == "image" and (plain.get("data") or {}).get("cached_views"):
            raise UserError(
                f"encoder.image.lora_rank={rank} trains every block, so there is no frozen output to cache: set "
                "data.cached_views=0"
            )


def _check_weights(plain: dict) -> None:
    weights = [
        term["weight"] for term in (plain.get("loss") or {}).values() if isinstance(term, dict) and "weight" in term
    ]
    if weights and not any(weights):
        raise UserError("every loss.….weight is 0, so there is nothing to learn: set one of them above 0")


def _check_neighbours(plain: dict) -> None:
    discovery, data = plain.get("discovery") or {}, plain.get("data") or {}
    neighbours, batch = discovery.get("neighbours"), data.get("batch_size")
    if discovery.get("sampler") != "neighbours" or data.get("batch_size_per_gpu") is not None:
        return
    if neighbours and batch and neighbours > batch:
        raise UserError(
            f"discovery.neighbours={neighbours}: give at most data.batch_size={batch}, because an image and its "
            "neighbours share a batch"
        )


def _check_images(data: Mapping) -> None:
    """Refuse ways to faster images that do nothing beside another key."""
    if (views := data.get("cached_views")) and (side := data.get("image_cache")):
        raise UserError(
            f"data.image_cache={side}: data.cached_views={views} reads every image only once; set one of the two, "
            "data.image_cache=null or data.cached_views=0"
        )
    if data.get("augment_on") != "device":
        return
    if views:
        raise UserError(
            f"data.augment_on=device: with data.cached_views={views}, images are not augmented during training; set "
            "data.augment_on=cpu"
        )
    if data.get("corruptions"):
        raise UserError(
            "data.augment_on=device: the GPU crops and mirrors, but does not do data.corruptions; set "
            "data.augment_on=cpu or data.corruptions=null"
        )
    if data.get("image_augmentation"):
        raise UserError(
            "data.augment_on=device: the GPU crops and mirrors, but does not do data.image_augmentation; set "
            "data.augment_on=cpu or data.image_augmentation=null"
        )


def _check_captions(data: Mapping, *, discovering: bool) -> None:
    """Refuse other captions where training has none, or where nothing would come of them."""
    if discovering:
        for key in ("captions_from", "caption_noise"):
            if value := data.get(key):
                raise UserError(f"data.{key}={value}: category discovery trains without captions; leave it out")
    if data.get("evaluate_generated") and not data.get("captions_from"):
        raise UserError("data.evaluate_generated=true: there is no file of captions; set data.captions_from=<file>")


def _check_label_noise(data: Mapping, *, discovering: bool) -> None:
    """Refuse wrong labels in a run that reads none."""
    if (noise := data.get("label_noise")) and not discovering:
        raise UserError(
            f"data.label_noise={noise}: a run of images and captions reads no labels, only category discovery does; "
            "set it to 0"
        )

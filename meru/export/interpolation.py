"""Interpolation between fine-tuned weights and those that the fine-tuning began with: `scripts/interpolate.py`.

WiSE-FT: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1: θ = (1 − α)·θ₀ + α·θ₁, every
weight by itself. Curvature, scales and temperatures are stored as logarithms and interpolated as such. The share α is
chosen on validation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from meru import distributed
from meru.assemble import build
from meru.configuration import absolute_paths
from meru.configuration.saved import change
from meru.errors import UserError, require
from meru.export.folders import appearing, free_folder
from meru.export.hub import write_model
from meru.export.origins import origins
from meru.files import user_path
from meru.reports.tables import ROWS
from meru.runs.folder import require_data
from meru.sources.opened import Opened
from meru.sources.opening import open_source
from meru.tasks.contract import Figures, Task
from meru.tasks.kinds import task_of

log = logging.getLogger("meru")

SPLITS = ("validation", "test")
_TOWERS = ("visual.", "textual.")
# Weights that fit by name and shape mean something else under another value.
_OF_IMAGE = (
    "encoder.image._target_", "encoder.image.name", "encoder.image.arguments", "encoder.image.norm_epsilon",
)  # fmt: skip
_OF_TEXT = ("encoder.text._target_", "encoder.text.name", "encoder.text.architecture")
_SHOWN = ("recall@1", "accuracy@1", "accuracy")  # metrics in the table of shares


def interpolate(given: Mapping[str, str]) -> str:
    """Interpolate, evaluate and write models; returns a line about what was written.

    Args:
        given: The user's arguments: `run`, `shares`, at least one of `output` and `split`, and `start` and `root`.

    Raises:
        UserError: for missing or unsuitable arguments, and for models that do not fit.
    """
    if missing := [key for key in ("run", "shares") if key not in given]:
        raise UserError(f"{missing[0]}= is missing; see --help")
    shares = read_shares(given["shares"])
    split, output = given.get("split"), given.get("output")
    if split is None and output is None:
        raise UserError("give output=<folder> to write models, split=validation to evaluate them, or both")
    if split is not None:
        require(split, SPLITS, key="split")
    elif "root" in given:
        raise UserError("root=: only with split=validation")
    folder = free_folder(output) if output else None
    run = open_source(given["run"])
    task = _task(run, split, given.get("root")) if split else None
    model = run.pretrained.model.cpu()
    begin, name = _start(run, given.get("start"))
    tuned = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    figures = {}
    if task:
        for share in shares:
            model.load_state_dict(mixed(begin, tuned, share))
            figures[share] = task.evaluate(run.pretrained.to(task.device), split=split).figures
            model.cpu()
        log.info("%s", _table(figures, run.config, split=split))
    if folder is None:
        return f"nothing written; to write a model: shares={_best(figures, run.config)} output=<folder>"
    with appearing(folder) as filled:
        for share in shares:
            model.load_state_dict(mixed(begin, tuned, share))
            place = filled if len(shares) == 1 else filled / f"{share:g}"
            place.mkdir(exist_ok=True)
            write_model(place, run.config, model, interpolation={"start": name, "share": share})
    places = "" if len(shares) == 1 else f", a folder for each share: {', '.join(f'{share:g}' for share in shares)}"
    return f"written to {folder}{places}"


def read_shares(words: str) -> list[float]:
    """Shares α of the fine-tuned weights from words such as `0,0.5,1`.

    Raises:
        UserError: unless they are different numbers in [0, 1].
    """
    shares = []
    for word in words.strip("[]()").split(","):
        try:
            share = float(word)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise UserError(f"shares={words}: '{word.strip()}': give numbers from 0, the start, to 1, the run: 0,0.5,1")
        shares.append(share)
    if len({f"{share:g}" for share in shares}) < len(shares):
        raise UserError(f"shares={words}: a share is given twice")
    return shares


def mixed(begin: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 − α)·`begin` + α·`tuned`, computed in float64; exactly one of the two at α = 0 and 1.

    Names that `begin` lacks, and counters and masks, are those of `tuned`.
    """
    result = {}
    for name, end in tuned.items():
        if name in begin and end.is_floating_point():
            value = (1 - share) * begin[name].double() + share * end.double()
            result[name] = value.to(end.dtype)
        else:
            result[name] = end
    return result


def shared_weights(begin: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, what: str) -> dict[str, Tensor]:
    """The weights of `begin` that the other model has too, by name.

    Args:
        begin, tuned: State dicts.
        what: The key and name of `begin`, for messages.

    Raises:
        UserError: if no tower agrees, or one only in part; the message names the first difference.
    """
    common = {name: begin[name] for name in tuned if name in begin and begin[name].shape == tuned[name].shape}
    towers = [t for t in _TOWERS if any(n.startswith(t) for n in tuned) and any(n.startswith(t) for n in begin)]
    for name in {**tuned, **begin}:
        if not name.startswith(tuple(towers)) or name in common:
            continue
        if name in begin and name in tuned:
            shapes = f"{tuple(begin[name].shape)} there and {tuple(tuned[name].shape)} in the run"
            raise UserError(f"{what} does not fit: {name} has shape {shapes}")
        raise UserError(f"{what} does not fit: only {'it' if name in begin else 'the run'} has {name}")
    if not towers:
        raise UserError(f"{what} does not fit: it has no tower in common with the run")
    for name in ("pixel_mean", "pixel_std"):
        if "visual." in towers and name in common and not torch.allclose(common[name], tuned[name], atol=1e-3):
            raise UserError(f"{what} does not fit: its images are normalised by another {name}")
    kept = sorted({name.partition(".")[0] for name in tuned if name not in common})
    if kept:
        log.info("of the run alone, not interpolated: %s", ", ".join(kept))
    return common


def _start(run: Opened, given: str | None) -> tuple[dict[str, Tensor], str]:
    """The weights to start from and a name for them."""
    tuned = run.pretrained.model.state_dict()
    if given is not None:
        start = open_source(given)
        what = f"start={given}"
        theirs = start.pretrained.model.state_dict()
        _require_same_towers(start.config, run.config, tuned, theirs, what=what)
        return shared_weights(theirs, tuned, what=what), start.name
    init = run.config.encoder.get("init")
    if not run.has_data or not (init or origins(run.config)):
        raise UserError(f"run={run.name} names no pretrained weights that it began with: give start=<run or weights>")
    torch.manual_seed(run.config.seed)  # parts without pretrained weights begin as in the run
    begun = build(run.config)
    theirs = begun.model.state_dict()
    if getattr(begun.model, "initial_radius", None):  # the run set them from its data before the first step
        theirs = {name: tensor for name, tensor in theirs.items() if name not in ("visual_alpha", "textual_alpha")}
    name = Path(init).name if init else " and ".join(origin.what for origin in origins(run.config))
    log.info("start: %s", name)
    return shared_weights(theirs, tuned, what=f"the start of run={run.name}"), name


def _require_same_towers(
    start: DictConfig, run: DictConfig, tuned: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, what: str
) -> None:
    for tower, keys in zip(_TOWERS, (_OF_IMAGE, _OF_TEXT), strict=True):
        if not all(any(name.startswith(tower) for name in weights) for weights in (tuned, theirs)):
            continue
        for key in keys:
            there, ours = (OmegaConf.select(config, key) for config in (start, run))
            if there != ours:
                raise UserError(f"{what} does not fit: it has {key}={there}, and the run {ours}")


def _task(run: Opened, split: str, root: str | None) -> Task:
    """The task of the run with its data.

    Raises:
        UserError: if the source has no data, they are missing, or have no such split.
    """
    if not run.has_data:
        raise UserError(f"run={run.name} does not say what data to evaluate on: leave split= out")
    config = run.config
    if root:
        change(config, "data.root", str(user_path(root)))
    absolute_paths(config)
    require_data(config, key="root")
    kind = task_of(config)
    task = kind(config, device=distributed.start())
    task.require_images(split)
    return task


def _table(figures: Mapping[float, Figures], config: DictConfig, *, split: str) -> str:
    """A line a share with the figures of its model in percent."""
    monitor = config.trainer.monitor
    names = [name for name in next(iter(figures.values())) if name == monitor or _is_shown(name)][:6]
    lines = [f"{split} split, percent; share of the fine-tuned weights"]
    lines.append("share  " + "  ".join(names))
    best = _best(figures, config)
    for share, of_share in figures.items():
        cells = [_percent(of_share.get(name)).rjust(len(name)) for name in names]
        mark = f"  <- best by {monitor}" if f"{share:g}" == best and monitor in of_share else ""
        lines.append(f"{share:<7g}" + "  ".join(cells) + mark)
    return "\n".join(lines)


def _is_shown(name: str) -> bool:
    row, _, metric = name.rpartition("/")
    return metric in _SHOWN and row in {*ROWS, "discovery/all"}


def _percent(figure: float | None) -> str:
    return "–" if figure is None else f"{100 * figure:.1f}"


def _best(figures: Mapping[float, Figures], config: DictConfig) -> str:
    """The share with the highest monitored figure."""
    monitor = config.trainer.monitor
    return f"{max(figures, key=lambda share: figures[share].get(monitor) or 0.0):g}"

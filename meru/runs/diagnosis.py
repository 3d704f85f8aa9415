"""Why a loss term does what it does: geometry of a finished model, gradients of its terms; scripts/diagnose.py."""

from __future__ import annotations

import glob
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from meru import distributed
from meru.assemble import Pretrained, load_run
from meru.configuration import absolute_paths
from meru.configuration.saved import change, read_config
from meru.data.discovery.loading import discovery_evaluation_loader
from meru.data.parts import PartWords
from meru.errors import UserError
from meru.evaluation.geometry import discovery_geometry, evaluate_geometry
from meru.files import user_path
from meru.metrics.zero_shot import class_prompts
from meru.optional_part import optional
from meru.reports.attention import save_figure
from meru.reports.geometry import geometry_table, gradients_figure, radii_figure
from meru.reports.hints import hints
from meru.reports.tables import finite_figures, write_json
from meru.run_layout import CONFIG, DIAGNOSIS, GRADIENTS, MODEL
from meru.runs.folder import require_data
from meru.tasks.contract import Figures
from meru.tasks.discovery import Discovery
from meru.tasks.image_text import ImageText
from meru.tasks.kinds import task_of
from meru.training.precision import allow_tf32

log = logging.getLogger("meru")

GRADIENT_FIGURES = re.compile(r"(weighted|cosine_to_total)/[\w.-]+|gradient_norm/[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Measurable:
    """A finished run that can be measured.

    Attributes:
        run: Its folder.
        task: Its data, with the settings of this measurement.
        split: `train`, `validation` or `test`.
        lines: The lines of `diagnosis.jsonl`.
    """

    run: Path
    task: Discovery | ImageText
    split: str
    lines: list[Figures]


@dataclass(frozen=True)
class Diagnosis:
    """What is measured of one run.

    Attributes:
        run: Its folder.
        images: What the split is called.
        figures: Geometry, and means of the gradients' figures over the recorded steps, by name.
        lines: The lines of `diagnosis.jsonl`.
        hints: Sentences about what stands out.
    """

    run: Path
    images: str
    figures: Figures
    lines: list[Figures] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def diagnose(run: str, *, split: str | None = None, root: str | None = None, workers: int = 2) -> str:
    """Measure finished runs, write the results into their folders, and return the table and the hints.

    All runs are checked before the first is measured, and the results of each are written as soon as it is measured.

    Args:
        run: Run folders, separated by commas; each may be a pattern such as `runs/birds_meru/*`, of whose matches those
            that cannot be measured are left out with a message.
        split: `validation`, `test` or `train`; None: the validation images of an image–text run, or its training images
            if it has none, and the training images of a discovery run.
        root: Folder of the data if it has moved since the training.
        workers: Processes that read images.

    Raises:
        UserError: if a named folder is no finished run, its data are missing, or it has no images of that split, or if
            none of the matches of patterns can be measured.
    """
    found = []
    for each in _measurable(run, split=split, root=root, workers=workers):
        found.append(measure(each))
        save(found[-1])
    names = _names([each.run for each in found])
    title = f"{', '.join(dict.fromkeys(each.images for each in found))} of {', '.join(names)}"
    parts = [geometry_table({name: each.figures for name, each in zip(names, found, strict=True)}, title)]
    for name, each in zip(names, found, strict=True):
        shown = each.hints or ["nothing stands out by these measures"]
        of = f" in {name}" if len(found) > 1 else ""
        parts.append("\n".join([f"What stands out{of}:", *(f"- {hint}" for hint in shown)]))
        if not each.lines:
            parts.append(f"No gradients were recorded{of}: train with trainer.diagnose_every=100.")
        parts.append(f"written: {each.run / DIAGNOSIS}")
    return "\n\n".join(parts)


def _measurable(text: str, **settings) -> list[Measurable]:
    """Check the runs that a word names, with the settings of `check`; see `diagnose`."""
    found, left_out = [], []
    for folder, named in run_folders(text).items():
        try:
            found.append(check(folder, **settings))
        except UserError as error:
            if named:
                raise
            left_out.append(f"{folder.name} ({error if (folder / MODEL).is_file() else 'not finished'})")
    if not found:
        raise UserError(f"run={text}: no run can be measured: {'; '.join(left_out)}")
    if left_out:
        log.warning("left out: %s", "; ".join(left_out))
    return found


def run_folders(text: str) -> dict[Path, bool]:
    """The run folders that a text names by paths or patterns, separated by commas, and whether by its own path.

    Other matches of a pattern are left out with a message.

    Raises:
        UserError: if there is none, or a pattern matches none.
    """
    words = [text] if user_path(text).exists() else [word for word in text.split(",") if word.strip()]
    folders: dict[Path, bool] = {}
    for word in words:
        path = user_path(word)
        if path.exists() or not glob.has_magic(word):
            folders[path] = True
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]
        runs = [match for match in matches if (match / CONFIG).is_file()]
        if not runs:
            raise UserError(f"run={word}: no run folder matches")
        if others := [match.name for match in matches if match not in runs]:
            log.info("left out, not run folders: %s", ", ".join(others))
        for match in runs:
            folders.setdefault(match, False)
    if not folders:
        raise UserError(f"run={text}: name at least one run folder")
    return folders


def check(folder: Path, *, split: str | None, root: str | None, workers: int) -> Measurable:
    """Check all that measuring a run needs; see `diagnose`. The model is only tried, so that many runs fit in memory.

    Raises:
        UserError: see `diagnose`.
    """
    config = read_config(folder)
    kind = task_of(config)
    if kind is Discovery:
        asked = {"suite": None, "captions_per_image": None, "templates": None, "split": split}
        kind.check_question(OmegaConf.create(asked), name=folder.name)
    lines = read_gradients(folder / GRADIENTS)
    load_run(folder)
    if root:
        change(config, "data.root", str(user_path(root)))
    absolute_paths(config)
    require_data(config, key="root")
    config.data.workers = workers
    task = kind(config, device=distributed.start())
    if split is None:
        split = "train" if kind is Discovery or not task.records("validation") else "validation"
    task.require_images(split)
    return Measurable(folder, task, split, lines)


def measure(run: Measurable) -> Diagnosis:
    """Load a run and compute all its figures."""
    task, split = run.task, run.split
    pretrained = load_run(run.run)
    pretrained.model.to(task.device)
    allow_tf32(task.config.trainer.get("tf32", False), device=task.device)
    log.info("%s: %s", run.run.name, images := _images(task, split))
    geometry = geometry_of_discovery if isinstance(task, Discovery) else geometry_of_pairs
    figures = finite_figures(geometry(task, pretrained, split) | means_of_gradients(run.lines))
    return Diagnosis(run.run, images, figures, run.lines, hints(figures, loss=pretrained.model.loss))


def _images(task: Discovery | ImageText, split: str) -> str:
    return "training images" if (isinstance(task, Discovery) and split == "train") else task.name_of(split)


def geometry_of_pairs(task: ImageText, pretrained: Pretrained, split: str) -> Figures:
    """Geometry of an image–text model on a split, with phrases about parts and prompts of the classes, if any."""
    config, records = task.config, task.records(split)
    words = PartWords.of(config.data)
    found = (words.phrases(caption).items() for record in records for caption in record.captions)
    phrases = sorted({phrase for each in found for part, phrase in each if part != words.whole})
    texts = {"part_phrase": phrases}
    templates = config.evaluation.templates or config.data.prompts
    if templates and task.data.class_kind == "class":
        texts["class_name"] = [prompts[0] for prompts in class_prompts(task.data.class_names, templates)]
    return evaluate_geometry(
        pretrained.model,
        lambda _: task.images_of(records, pretrained),
        captions=[record.captions for record in records],
        tokenizer=pretrained.tokenizer.batch,
        device=task.device,
        captions_per_image=config.evaluation.captions_per_image,
        texts=texts,
    )


def geometry_of_discovery(task: Discovery, pretrained: Pretrained, split: str) -> Figures:
    """Geometry of a discovery model on the training or the test images."""
    images = discovery_evaluation_loader(
        task.data.train if split == "train" else task.data.test,
        transform=pretrained.transforms.evaluation,
        batch_size=task.config.evaluation.batch_size,
        **task.reading(),
    )
    return discovery_geometry(pretrained.model, images, num_old=task.data.num_old, device=task.device)


def read_gradients(path: Path) -> list[Figures]:
    """The lines of `diagnosis.jsonl`, with `step` and figures about gradients; none if the file is missing.

    Figures that are missing (null), not finite, or of another name are left out, and so is an incomplete last line, of
    a killed process.

    Raises:
        UserError: for a damaged file.
    """
    if not path.is_file():
        return []
    *complete, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, line in enumerate([*complete, *([last] if last.endswith("}") else [])], start=1):
        try:
            values = {name: None if value is None else float(value) for name, value in json.loads(line).items()}
            if not math.isfinite(values["step"]):
                raise ValueError("the step is not finite")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise UserError(f"{path}, line {number} has no figures of a step: remove the line") from None
        lines.append({name: value for name, value in values.items() if _is_usable(name, value)})
    return lines


def _is_usable(name: str, value: float | None) -> bool:
    of_gradients = GRADIENT_FIGURES.fullmatch(name) and not (name.startswith("gradient_norm/") and (value or 0) < 0)
    return value is not None and math.isfinite(value) and bool(name == "step" or of_gradients)


def means_of_gradients(lines: Sequence[Figures]) -> Figures:
    """Mean of each figure about gradients over the lines that have it."""
    means: Figures = {}
    for name in dict.fromkeys(name for line in lines for name in line if name != "step"):
        values = [line[name] for line in lines if name in line]
        means[name] = sum(values) / len(values)
    return means


def save(found: Diagnosis) -> None:
    """Write `diagnosis.json` and the plots to the run's folder `diagnosis`; a plot that fails is left out."""
    folder = found.run / DIAGNOSIS
    content: Mapping = {"images": found.images, "figures": found.figures, "hints": found.hints}
    write_json(folder / "diagnosis.json", content)
    title = f"{found.images} of {found.run.name}"
    with optional("the plot radii.png"):
        save_figure(radii_figure({"": found.figures}, title), folder / "radii.png")
    if found.lines:
        with optional("the plot gradients.png"):
            save_figure(gradients_figure(found.lines, f"gradients of {found.run.name}"), folder / "gradients.png")


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of run folders, with their parents' where names repeat."""
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return names

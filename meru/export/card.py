"""The model card of a Hub folder, filled from the run: what the model is, what it was trained on, how well it does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import yaml
from omegaconf import DictConfig

from meru.assemble import is_discovery
from meru.export.card_data import data_line, data_name, is_own
from meru.export.origins import Origin, command_of, common_licence, origins
from meru.reports.tables import COLUMNS, ROWS, is_share, markdown_table
from meru.run_layout import FIGURES
from meru.runs.folder import commit
from meru.sources.hub_folder import LIBRARY, without_paths
from meru.sources.opened import Opened

# First parts of names of figures that say nothing of a model as a whole.
_ASIDE = ("box_centre", "pointing")
# Another mean of the same discovery figures.
_DETAIL = re.compile(r"^discovery_balanced/")
_HEADLINES = ("recall@1", "accuracy@1", "mean_average_precision", "accuracy")


def model_card(opened: Opened, *, repository: str | None = None, licence: str | None = None) -> str:
    """A README.md with the Hub's YAML at its head.

    Args:
        opened: The source of the model.
        repository: Its name on the Hub, `organisation/name`, if it is uploaded.
        licence: Its licence; None: that of all weights that it started from.
    """
    config, started = opened.config, origins(opened.config)
    figures = figures_of(opened)
    title = without_paths(repository.partition("/")[2] if repository else str(config.get("name") or opened.name))
    parts = [
        _head(opened, title, figures, licence or common_licence(started)),
        f"# {title}",
        _description(opened),
        "## Use",
        _use(config, repository),
        "## Training",
        _training(opened, started),
        "## Figures",
        _figures(opened, figures),
        "## Limits",
        _limits(opened, started, licence),
    ]
    return "\n\n".join(parts) + "\n"


def figures_of(opened: Opened) -> dict[str, float]:
    """The figures in the run's `test.json`; empty if there are none."""
    path = opened.folder / FIGURES if opened.folder else None
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(found, Mapping):
        return {}
    return {name: figure for name, figure in found.items() if isinstance(figure, int | float)}


def figure_rows(opened: Opened, figures: Mapping[str, float]) -> list[tuple[str, str, float, float | None]]:
    """Row, metric, value and chance level of the shares that describe the model as a whole."""
    columns = {metric for names in COLUMNS.values() for metric in names}
    attends = getattr(opened.pretrained.model, "has_word_attention", False)
    chosen = []
    for name, value in figures.items():
        row, _, metric = name.rpartition("/")
        aside = row.partition("/")[0] in _ASIDE and not (attends and row == "pointing")
        if metric.startswith("chance_") or aside or not is_share(name) or _DETAIL.search(name):
            continue
        if metric == "accuracy" if is_discovery(opened.config) else (row in ROWS and metric in columns):
            chosen.append((row, metric, value, figures.get(f"{row}/chance_{metric}" if row else f"chance_{metric}")))
    return chosen


def _head(opened: Opened, title: str, figures: Mapping[str, float], licence: str | None) -> str:
    config = opened.config
    discovers = is_discovery(config)
    tags = list(dict.fromkeys([LIBRARY, type(opened.pretrained.model).__name__.lower()]))
    tags += ["category-discovery"] if discovers else ["image-text", "zero-shot"]
    tags += ["hyperbolic"] if _curvature(opened) is not None else []
    head: dict[str, object] = {"library_name": LIBRARY}
    if licence:
        head["license"] = licence
    head["tags"] = tags
    head["pipeline_tag"] = "image-classification" if discovers else "zero-shot-image-classification"
    data = data_name(opened)
    if data and not is_own(opened):
        head["datasets"] = [data]
    metrics = [
        {"type": f"{row}/{metric}", "value": round(value, 4), "name": f"{ROWS.get(row, row)}, {metric}"}
        for row, metric, value, _ in figure_rows(opened, figures)
        if metric in _HEADLINES
    ]
    if metrics and data:
        result = {"task": {"type": head["pipeline_tag"]}, "dataset": {"name": data, "type": data}, "metrics": metrics}
        head["model-index"] = [{"name": title, "results": [result]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---"


def _description(opened: Opened) -> str:
    config, model = opened.config, opened.pretrained.model
    kind = type(model).__name__
    curvature = _curvature(opened)
    size = model.image_size
    pixels = f"{size} × {size}" if isinstance(size, int) else " × ".join(map(str, size))
    number = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    towers = f"image tower {config.encoder.image.get('name')}, {pixels} pixels; {number:.1f} million parameters"
    if is_discovery(config):
        where = "" if curvature is None else f" in the Poincaré ball of curvature −{curvature:.3g}"
        return f"{kind}: sorts images into {model.num_classes} known and new classes{where}; {towers}."
    names = {"Sphere": "the unit sphere", "Euclidean": "flat space"}
    where = names.get(type(model.space).__name__, "a space") if curvature is None else "the hyperboloid"
    of = "" if curvature is None else f" of curvature −{curvature:.3g}"
    return (
        f"{kind}: embeds images and captions as points of {where}{of}, {model.visual_proj.out_features} dimensions; "
        f"{towers}."
    )


def _use(config: DictConfig, repository: str | None) -> str:
    source = repository or "<this folder>"
    lines = ["import meru", "", f'pretrained = meru.load("{source}")']
    if is_discovery(config):
        lines += ['images = pretrained.transform("image.jpg")[None]', "logits = pretrained.model.predict(images)"]
    else:
        lines += [
            'image = pretrained.encode_image("image.jpg")',
            'text = pretrained.encode_text(["a photo of a bird", "a photo of a dog"])',
            "scores = pretrained.similarity(text, image)  # (texts, images); larger is more similar",
        ]
    return "\n".join(["```python", *lines, "```"])


def _training(opened: Opened, started: list[Origin]) -> str:
    config = opened.config
    began = "; ".join(f"{each.what} ({each.licence or 'see the licence there'})" for each in started)
    rows = [("started from", began or ("random weights" if opened.folder else "see where this model was taken from"))]
    if data := data_line(opened):
        rows.append(("data", data))
    if opened.has_data:
        trainer = config.get("trainer") or {}
        rows += [("epochs", str(trainer.get("epochs"))), ("batch size", str(config.data.get("batch_size")))]
        rows += [("seed", str(config.get("seed"))), ("seed of the splits", str(config.data.get("split_seed")))]
    if opened.folder and (command := command_of(opened.folder, config)):
        rows.append(("command", f"`{command}`"))
    rows.append(("commit", f"{commit()} (of the export)"))
    return markdown_table(("", ""), rows)


def _figures(opened: Opened, figures: Mapping[str, float]) -> str:
    cells: dict[str, dict[str, str]] = {}
    columns = {metric: column for column, names in COLUMNS.items() for metric in names}
    for row, metric, value, chance in figure_rows(opened, figures):
        beside = "" if chance is None else f" ({100 * chance:.1f})"
        cells.setdefault(ROWS.get(row, row), {})[columns.get(metric, metric)] = f"{100 * value:.1f}{beside}"
    if not cells:
        return "None are known: the source has no evaluation on a test split."
    header = list(dict.fromkeys(column for of_row in cells.values() for column in of_row))
    table = markdown_table(["", *header], ([row, *(of.get(each, "") for each in header)] for row, of in cells.items()))
    split = "unlabelled training images; inductive: test images" if is_discovery(opened.config) else "the test split"
    return f"Percent (chance level in brackets) of one run, on {split}.\n\n{table}"


def _limits(opened: Opened, started: list[Origin], licence: str | None) -> str:
    data = data_name(opened)
    lines = [
        f"Meant for research on images like those of {data}; other images were not evaluated."
        if data
        else "Meant for research; nothing is known of its figures on your images.",
        "Errors and biases of the training data and of the weights it started from remain in the model.",
    ]
    if unknown := [each.what for each in started if each.licence is None]:
        lines.append(f"The licence of {' and '.join(unknown)} applies to this model too; check it before you share it.")
    elif not licence and not started and opened.folder:
        lines.append("Trained from random weights; terms of the training data may apply.")
    return "\n".join(f"- {line}" for line in lines)


def _curvature(opened: Opened) -> float | None:
    model = opened.pretrained.model
    if is_discovery(opened.config):
        return getattr(model, "curvature", None)
    return model.space.curvature.item() if model.space.curved else None

"""Formats figures as tables, and writes them as JSON.

A figure is a float with a name `<row>/<metric>`; its chance level, the expectation under a random order, is
`<row>/chance_<metric>`. Shares are in 0 … 1.

    text_to_image/image/recall@1          R@1 if only the text's own image is relevant
    text_to_image/class/recall@1          R@1 if every image of the class is relevant
    text_to_image/class/chance_recall@1   its chance level
    text_to_image/identity/recall@1       Rank-1 of person search: every image of the person is relevant
    text_to_image/identity_cosine/…       the same ranked by the cosine of the embeddings
    image_to_text/…/mean_average_precision, …/mean_inverse_negative_penalty
    …/queries, …/queries_without_match    counts; a query without a match scores 0, also in the chance level
    zero_shot/accuracy@1                  top-1 over all images
    zero_shot/class_mean/accuracy@1       top-1 of each class, averaged over the classes
    class_captions/accuracy@1             top-1 if a class is the average of its images' captions
    pointing/accuracy@1                   share of words that attend most to the patch of their part
    box_centre/accuracy@1                 the same for a fixed guess, the centre of the bounding box
    …/mean_of_parts/…, …/<part>/…         the same averaged over parts, and for one part
    discovery/new_as_old/share            of category discovery: see `meru.metrics.discovery` and `meru.evaluation.bias`

`zero_shot_metrics` and `retrieval_metrics` return bare metrics; the caller adds the row as prefix.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from meru.files import make_folder_of, write_text

log = logging.getLogger("meru")

ROWS = {
    "text_to_image/image": "text → image, same image",
    "text_to_image/class": "text → image, same class",
    "image_to_text/image": "image → text, same image",
    "image_to_text/class": "image → text, same class",
    "text_to_image/identity": "text → image, same person",
    "text_to_image/identity_cosine": "text → image, by cosine",
    "image_to_text/identity": "image → text, same person",
    "image_to_text/identity_cosine": "image → text, by cosine",
    "zero_shot": "zero-shot (top-1, top-5)",
    "zero_shot/class_mean": "zero-shot, mean of classes",
    "class_captions": "class by captions (top-1, top-5)",
    "class_captions/class_mean": "class by captions, mean of classes",
    "pointing": "pointing",
    "pointing/mean_of_parts": "pointing, mean of parts",
    "box_centre": "box centre",
    "box_centre/mean_of_parts": "box centre, mean of parts",
}
ERRORS = ("tree_induced_error", "lowest_common_ancestor")  # in edges of the class tree; the lowest value is best
# Figures in a unit of their own, by the last part of their names; all others are shares.
NOT_SHARES = {
    *ERRORS,
    *("images", "queries", "queries_without_match", "num_classes", "true_num_classes", "classes", "offset"),
}
POINTING = ("pointing", "box_centre")  # rows of single parts are only in the JSON file
COLUMNS = {
    "R@1": ("recall@1", "accuracy@1"),
    "R@5": ("recall@5", "accuracy@5"),
    "R@10": ("recall@10",),
    "mAP": ("mean_average_precision",),
    "mINP": ("mean_inverse_negative_penalty",),
}


def is_share(name: str) -> bool:
    """Whether a figure is a share in 0 … 1, which tables print in percent."""
    return name.rpartition("/")[2].removeprefix("chance_") not in NOT_SHARES


def format_table(metrics: Mapping[str, float | None], title: str, *, pointing: bool = True) -> str:
    """A plain-text table in percent, with the chance level of each figure in brackets.

    Args:
        metrics: Figures by name. The rows of `ROWS` come first, in that order; others follow under their own
            names. Metrics without a column are only in the JSON file.
        title: First line.
        pointing: Whether to show the rows of the pointing game, which are meaningless for a model without attention of
            words to patches.
    """
    columns = {metric: column for column, names in COLUMNS.items() for metric in names}
    cells: dict[str, dict[str, str]] = {}
    for name, figure in metrics.items():
        row, _, metric = name.rpartition("/")
        of_pointing = row.partition("/")[0] in POINTING
        if metric in columns and (not of_pointing or (pointing and row in ROWS)):
            chance = metrics.get(f"{row}/chance_{metric}" if row else f"chance_{metric}")
            beside = "" if chance is None else f"({_percent(chance)})"
            cells.setdefault(row, {})[columns[metric]] = f"{_percent(figure):>6} {beside:<7}"

    rows = [row for row in ROWS if row in cells] + [row for row in cells if row not in ROWS]
    width = max(len(ROWS.get(row, row)) for row in ["", *rows])
    used = [column for column in COLUMNS if any(column in of_row for of_row in cells.values())]
    lines = [" " * width + "".join(f"{column:>6}{'':8}" for column in used)]
    for row in rows:
        line = ROWS.get(row, row).ljust(width) + "".join(cells[row].get(column, " " * 14) for column in used)
        if missing := metrics.get(f"{row}/queries_without_match"):
            line += f"  {missing:.0f} of {metrics[f'{row}/queries']:.0f} queries have no match and score 0"
        lines.append(line)
    return "\n".join([f"{title}: percent (chance level)", *(line.rstrip() for line in lines)])


def format_rows(
    metrics: Mapping[str, float | None], title: str, *, rows: Mapping[str, str], columns: Mapping[str, str]
) -> str:
    """A plain-text table in percent of the figures `<row's name>/<column's name>`, with chance levels in brackets.

    Args:
        metrics: Figures by name.
        title: First line.
        rows: Label → first part of the name; rows without figures are left out.
        columns: Label → the rest of the name, `…/<metric>`; its chance level is `…/chance_<metric>`.
    """
    lines = {}
    for printed, row in rows.items():
        cells = []
        for column in columns.values():
            figure = metrics.get(f"{row}/{column}")
            before, _, metric = f"{row}/{column}".rpartition("/")
            chance = metrics.get(f"{before}/chance_{metric}")
            beside = "" if chance is None else f"({_percent(chance)})"
            cells.append(" " * 14 if figure is None else f"{_percent(figure):>6} {beside:<7}")
        if any(cell.strip() for cell in cells):
            lines[printed] = "".join(cells)
    width = max(map(len, ["", *lines]))
    header = " " * width + "".join(f"{column:>6}{'':8}" for column in columns)
    body = [f"{printed:<{width}}{cells}".rstrip() for printed, cells in lines.items()]
    return "\n".join([f"{title}: percent (chance level)", header.rstrip(), *body])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped, line breaks become spaces."""
    cells = [[" ".join(cell.replace("|", "\\|").split("\n")) for cell in line] for line in (header, *rows)]
    head, *body = ("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in cells)
    return "\n".join([head, "|" + "---|" * len(header), *body])


def finite_figures(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """The figures with None for those that are NaN or infinite, which one log line names."""
    odd = [name for name, figure in figures.items() if figure is not None and not math.isfinite(figure)]
    if odd:
        log.warning("not finite, left out: %s", ", ".join(odd))
    return {name: None if name in odd else figure for name, figure in figures.items()}


def write_json(path: str | Path, metrics: Mapping[str, float | None]) -> None:
    """Write figures to `path` atomically: in any case, either the old or the new file exists.

    Raises:
        ValueError: if a figure is NaN or infinite.
        UserError: if the file cannot be written; an existing file is untouched.
    """
    text = json.dumps(dict(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    make_folder_of(Path(path))
    write_text(Path(path), text, advice="free space or choose another folder")


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "<0.1" if 0 < share < 0.0005 else f"{100 * share:.1f}"

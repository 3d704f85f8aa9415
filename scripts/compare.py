"""Mean and spread over seeds, as Markdown: `python scripts/compare.py runs/cub_clip/* runs/cub_meru/*`.

Runs that differ in nothing but the seed stand in one row, as mean ± standard deviation (of the sample); percent.
Image–text runs, runs on persons and runs of category discovery have a table each, with the figures that at least one
of its runs has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from meru.command_line import argument, one_line_errors
from meru.configuration.declarations import FOLDER
from meru.configuration.kinds import Text
from meru.configuration.saved import read_yaml
from meru.errors import UserError
from meru.files import user_path

# Tables, a figure's title and its name.
TABLES = {
    "image–text": {
        "text→image class R@1": "text_to_image/class/recall@1",
        "text→image image R@10": "text_to_image/image/recall@10",
        "image→text class R@1": "image_to_text/class/recall@1",
        "zero-shot top-1": "zero_shot/accuracy@1",
        "class by captions top-1": "class_captions/accuracy@1",
        "pointing": "pointing/accuracy@1",
        "pointing, mean of parts": "pointing/mean_of_parts/accuracy@1",
        "box centre": "box_centre/accuracy@1",
        "box centre, mean of parts": "box_centre/mean_of_parts/accuracy@1",
    },
    "persons": {
        "text→image R@1": "text_to_image/identity/recall@1",
        "text→image R@5": "text_to_image/identity/recall@5",
        "text→image R@10": "text_to_image/identity/recall@10",
        "text→image mAP": "text_to_image/identity/mean_average_precision",
        "image→text R@1": "image_to_text/identity/recall@1",
    },
    "discovery": {
        "All": "discovery/all/accuracy",
        "Old": "discovery/old/accuracy",
        "New": "discovery/new/accuracy",
        "k-means All": "kmeans/all/accuracy",
        "k-means Old": "kmeans/old/accuracy",
        "k-means New": "kmeans/new/accuracy",
        "test All": "inductive/all/accuracy",
        "test Old": "inductive/old/accuracy",
        "test New": "inductive/new/accuracy",
        "tree purity": "tree/dendrogram_purity",
        "feature tree purity": "feature_tree/dendrogram_purity",
    },
}
NOT_COMPARED = ("seed", "folder", "resume", "output", "logger")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=argument(FOLDER, user_path), metavar="RUN", help="folders of finished runs"
    )
    parser.add_argument(
        "--figures",
        default="test.json",
        type=argument(Text("the name of a file in a run folder")),
        help="which figures of each run (default test.json)",
    )
    arguments = parser.parse_args()
    with one_line_errors():
        print(tables(arguments.runs, arguments.figures))


def tables(runs: Sequence[Path], name: str) -> str:
    """The Markdown tables of some run folders: one for each kind of run, with a row for each configuration.

    Args:
        runs: The folders.
        name: Of the file with figures in each.
    """
    by_kind: dict[str, dict[str, list[tuple[str, dict]]]] = {}
    for run in runs:
        title, configuration = read_configuration(run)
        figures = read_figures(run / name)
        kind = next((kind for kind, columns in TABLES.items() if any(key in figures for key in columns.values())), None)
        if kind is None:
            raise UserError(f"{run / name} has none of the figures that are compared: name another with --figures")
        by_kind.setdefault(kind, {}).setdefault(configuration, []).append((title, figures))
    return "\n\n".join(table(TABLES[kind], by_kind[kind].values()) for kind in TABLES if kind in by_kind)


def table(columns: dict[str, str], rows: Sequence[list[tuple[str, dict]]]) -> str:
    """The Markdown table of one kind of runs; each row has the name and the figures of the runs in it."""
    every = [figures for members in rows for _, figures in members]
    # Data without parts have nothing to point at.
    columns = {title: key for title, key in columns.items() if any(key in figures for figures in every)}
    lines = ["| run | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for members in rows:
        cells = [cell([figures.get(key) for _, figures in members]) for key in columns.values()]
        name = members[0][0].replace("|", "\\|")
        lines.append(f"| {name} | {len(members)} | " + " | ".join(cells) + " |")
        chances = [cell([members[0][1].get(chance_of(key))]) for key in columns.values()]
        lines.append("| chance | | " + " | ".join(chances) + " |")
    return "\n".join(lines)


def read_configuration(run: Path) -> tuple[str, str]:
    """A run's name, and its configuration without what tells two seeds apart, as text.

    Raises:
        UserError: if there is none, or it does not read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is no run folder: {path} is missing")
    configuration = OmegaConf.to_container(read_yaml(path), resolve=True)
    if "name" not in configuration:
        raise UserError(f"{path} is no configuration of a run: restore the file")
    compared = {key: value for key, value in configuration.items() if key not in NOT_COMPARED}
    return str(configuration["name"]), json.dumps(compared, sort_keys=True, default=str)


def read_figures(path: Path) -> dict[str, float | None]:
    """The figures in a file of a run folder; null, and what is no finite number, as None.

    Raises:
        UserError: if there is no such file, or no figure in it.
    """
    if not path.is_file():
        if path.name == "test.json":
            raise UserError(f"{path} is missing: the run is not finished")
        raise UserError(f"{path} is missing: make it with scripts/evaluate.py, or name another with --figures")
    again = f"make it anew with python scripts/evaluate.py run={path.parent} output={path}"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {again}") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} holds no figures by name: {again}")
    if not read:
        raise UserError(f"{path} holds no figures: that run had no test images")
    return {str(name): figure if _is_number(figure) else None for name, figure in read.items()}


def _is_number(figure: object) -> bool:
    return isinstance(figure, int | float) and not isinstance(figure, bool) and abs(figure) < 1e300


def chance_of(key: str) -> str:
    """`…/recall@1` → `…/chance_recall@1`."""
    row, _, metric = key.rpartition("/")
    return f"{row}/chance_{metric}"


def cell(shares: Sequence[float | None]) -> str:
    """Mean, and from two runs on the standard deviation, in percent.

    Where some runs lack the figure, those that have it count, and their number stands behind; a dash if none has.
    """
    known = [share for share in shares if share is not None]
    if not known:
        return "–"
    mean, spread = mean_and_deviation(known)
    text = f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} ± {100 * spread:.1f}"
    return text if len(known) == len(shares) else f"{text} (of {len(known)})"


def mean_and_deviation(shares: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and from two on the standard deviation of the sample."""
    mean = sum(shares) / len(shares)
    if len(shares) == 1:
        return mean, None
    return mean, (sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)) ** 0.5


if __name__ == "__main__":
    main()

"""Mean and spread over seeds, as Markdown: `python scripts/compare.py runs/cub_clip/* runs/cub_meru/*`.

Runs that differ in nothing but the seed stand in one row, as mean ± standard deviation (of the sample); percent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from meru.command_line import argument, one_line_errors
from meru.errors import UserError
from meru.files import user_path
from meru.keys.declarations import FOLDER
from meru.keys.kinds import Text

COLUMNS = {
    "text→image class R@1": "text_to_image/class/recall@1",
    "text→image image R@10": "text_to_image/image/recall@10",
    "image→text class R@1": "image_to_text/class/recall@1",
    "zero-shot top-1": "zero_shot/accuracy@1",
    "class by captions top-1": "class_captions/accuracy@1",
    "pointing": "pointing/accuracy@1",
    "pointing, mean of parts": "pointing/mean_of_parts/accuracy@1",
    "box centre": "box_centre/accuracy@1",
    "box centre, mean of parts": "box_centre/mean_of_parts/accuracy@1",
}
NOT_COMPARED = ("seed", "folder", "resume", "output", "logger")


def main() -> None:
    """Print the table."""
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
        print(table(arguments.runs, arguments.figures))


def table(runs: list[Path], figures: str) -> str:
    """The Markdown table of some run folders, a row for each configuration."""
    rows: dict[str, list[tuple[str, dict]]] = {}
    for run in runs:
        name, configuration = read_configuration(run)
        if not (run / figures).is_file():
            raise UserError(f"{run / figures} is missing: the run is not finished")
        rows.setdefault(configuration, []).append((name, json.loads((run / figures).read_text(encoding="utf-8"))))
    every = [read for members in rows.values() for _, read in members]
    # Data without parts have nothing to point at.
    columns = {title: key for title, key in COLUMNS.items() if all(key in read for read in every)}
    lines = ["| run | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for members in rows.values():
        cells = [cell([read[key] for _, read in members]) for key in columns.values()]
        lines.append(f"| {members[0][0]} | {len(members)} | " + " | ".join(cells) + " |")
        chances = [100 * members[0][1][chance_of(key)] for key in columns.values()]
        lines.append("| chance | | " + " | ".join(f"{chance:.1f}" for chance in chances) + " |")
    return "\n".join(lines)


def read_configuration(run: Path) -> tuple[str, str]:
    """A run's name, and its configuration without what tells two seeds apart, as text."""
    import yaml  # comes with OmegaConf

    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is no run folder: {path} is missing")
    configuration = yaml.safe_load(path.read_text(encoding="utf-8"))
    compared = {key: value for key, value in configuration.items() if key not in NOT_COMPARED}
    return configuration["name"], json.dumps(compared, sort_keys=True)


def chance_of(key: str) -> str:
    """`…/recall@1` → `…/chance_recall@1`."""
    row, _, metric = key.rpartition("/")
    return f"{row}/chance_{metric}"


def cell(shares: list[float]) -> str:
    """Mean, and from two runs on the standard deviation, in percent."""
    mean, spread = mean_and_deviation(shares)
    return f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def mean_and_deviation(shares: list[float]) -> tuple[float, float | None]:
    """The mean, and from two on the standard deviation of the sample."""
    mean = sum(shares) / len(shares)
    if len(shares) == 1:
        return mean, None
    return mean, (sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)) ** 0.5


if __name__ == "__main__":
    main()

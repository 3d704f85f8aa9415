"""Tables of runs on several data sets, "trained on A, tested on B": `scripts/compare.py --transfer <suite>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meru.configuration.saved import choices_of
from meru.errors import UserError
from meru.reports.over_seeds import cell
from meru.reports.tables import is_share, markdown_table
from meru.run_layout import CONFIG
from meru.runs.comparison import read_configuration, read_figures

# The figures of each suite that the tables show, by their names.
FIGURES_OF = {
    "persons": {
        "text → image, R@1": "text_to_image/identity/recall@1",
        "text → image, mAP": "text_to_image/identity/mean_average_precision",
    },
    "retrieval": {
        "text → image, R@1": "text_to_image/image/recall@1",
        "image → text, R@1": "image_to_text/image/recall@1",
    },
    "discovery": {"k-means, All": "kmeans/all/accuracy", "k-means, New": "kmeans/new/accuracy"},
    "zero_shot": {"mean of classes": "zero_shot/class_mean/accuracy@1", "top-1": "zero_shot/accuracy@1"},
    "linear_probe": {"mean of classes": "linear_probe/class_mean/accuracy@1", "top-1": "linear_probe/accuracy@1"},
}


def transfer_tables(paths: Sequence[Path], suite: str) -> str:
    """A Markdown table per figure: a row per training configuration, a column per data set of the test; in percent.

    Read are the files `<suite>_<data>.json` in the run folders, as `scripts/evaluate.py suite=<suite> data=<data>`
    writes them, and `<suite>.json`, of the run's own data. Runs that differ only in the seed share a row, with mean ±
    standard deviation.

    Args:
        paths: Run folders; others are left out.
        suite: One of `FIGURES_OF`.

    Raises:
        UserError: if there is no run folder, or a run has no such file or an unreadable one.
    """
    runs = [path for path in paths if (path / CONFIG).is_file()]
    if not runs:
        raise UserError(f"{paths[0]} is not a run folder: {paths[0] / CONFIG} is missing")
    rows: dict[str, dict[str, list[dict]]] = {}
    names: dict[str, tuple[str, str]] = {}
    for run in runs:
        title, configuration = read_configuration(run)
        trained_on = choices_of(run).get("data") or "its own data"
        names[configuration] = (title, trained_on)
        for tested_on, path in _files(run, suite, trained_on).items():
            rows.setdefault(configuration, {}).setdefault(tested_on, []).append(read_figures(path))
    tested = sorted({name for of_run in rows.values() for name in of_run})
    order = sorted(rows, key=lambda configuration: names[configuration][::-1])
    tables = []
    for label, name in FIGURES_OF[suite].items():
        lines = []
        for configuration in order:
            found = [[figures.get(name) for figures in rows[configuration].get(each, [])] for each in tested]
            cells = [cell(each, share=is_share(name)) for each in found]
            title, trained_on = names[configuration]
            lines.append([title, trained_on, *cells])
        tables.append(f"{label}\n\n{markdown_table(['run', 'trained on', *tested], lines)}")
    return "\n\n".join(tables)


def _files(run: Path, suite: str, trained_on: str) -> dict[str, Path]:
    """Data set → the file with the figures on it."""
    found = {path.stem.removeprefix(f"{suite}_"): path for path in sorted(run.glob(f"{suite}_*.json"))}
    if (own := run / f"{suite}.json").is_file():
        found.setdefault(trained_on, own)
    if not found:
        raise UserError(
            f"{run} has no {suite}_<data>.json: write it with python scripts/evaluate.py run={run} suite={suite} "
            "data=<data>"
        )
    return found

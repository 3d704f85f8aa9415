"""Learning curves of run folders, from their `metrics.jsonl`: `scripts/visualize.py curves`."""

from __future__ import annotations

import glob
import json
import math
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from meru.configuration.saved import read_yaml
from meru.errors import UserError
from meru.files import user_path
from meru.reports.attention import save_figure
from meru.reports.curves import Curve, curves_figure
from meru.reports.tables import is_share
from meru.run_layout import CONFIG, METRICS
from meru.runs.comparison import read_configuration
from meru.runs.visualize.arguments import plot_file

VALIDATION = "validation/"
# Shown beside the loss and the figure that selects the weights, if the runs logged them.
USUAL = ("curvature", "radius/image", "radius/text")


def curves(*, run: str, figures: str = "", output: str = "curves.png") -> str:
    """Save the learning curves of several runs."""
    path = plot_file(output, example="curves.png")
    runs = runs_of(run)
    save_figure(draw_curves(runs, figures=[each.strip() for each in figures.split(",") if each.strip()]), path)
    return f"learning curves of {len(runs)} run{'s' if len(runs) > 1 else ''}: {path}"


def runs_of(names: str) -> list[Path]:
    """Run folders by their paths or patterns, separated by commas; what a pattern matches beside them is left out.

    Raises:
        UserError: if one is no run folder, or a pattern matches none.
    """
    found: list[Path] = []
    if not names.strip(" ,"):
        raise UserError(f"run={names}: give the folders of runs, separated by commas")
    for name in [names] if user_path(names).exists() else [each for each in names.split(",") if each.strip()]:
        path = user_path(name.strip())
        matches = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(str(path)))]
        folders = [each for each in matches if (each / CONFIG).is_file()]
        if not folders:
            raise UserError(f"run={name}: no run folder has this name: a run folder holds {CONFIG}")
        found += folders
    return list(dict.fromkeys(found))


def draw_curves(runs: Sequence[Path], *, figures: Sequence[str] = (), title: str = "") -> Figure:
    """A plot of the figures of several runs over training; runs that differ in their seed alone are one band.

    Args:
        runs: Run folders.
        figures: Names in `metrics.jsonl`; those of the validation without `validation/`. Empty: the loss, the figure
            that selects the weights, and those of `USUAL` that were logged.
        title: Written above.

    Raises:
        UserError: if a run logged nothing, or none has one of the figures.
    """
    lines = {run: read_lines(run) for run in runs}
    groups = by_configuration(runs)
    logged = {name for of_run in lines.values() for line in of_run for name, value in line.items() if _is_number(value)}
    names = list(figures) or _usual(runs, logged)
    panels, percent = {}, set()
    for name in names:
        known = next((each for each in (name, VALIDATION + name) if each in logged), None)
        if known is None:
            raise UserError(f"figures={name}: no run logged it; logged are, for instance, {_near(name, logged)}")
        curves = {label: _curves([lines[run] for run in members], known) for label, members in groups.items()}
        panels[name] = {label: some for label, some in curves.items() if some}
        if (known.startswith(VALIDATION) and is_share(known)) or name.startswith("share"):
            percent.add(name)
    if not panels:
        raise UserError(f"{runs[0] / METRICS} has no finite loss: name other figures with figures=")
    return curves_figure(panels, percent=percent, title=title)


def read_lines(run: Path) -> list[dict]:
    """The lines of a run's metrics that have a step; damaged ones are left out.

    Raises:
        UserError: if no line has a step and an epoch.
    """
    path = run / METRICS
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a run that is being trained may be incomplete
            continue
        if isinstance(read, dict) and _is_number(read.get("step")):
            lines.append(read)
    if not _epochs(lines):
        raise UserError(f"{path} has no figures: the run has not logged any step yet")
    return lines


def by_configuration(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs that differ in their seed alone, by the name of their configuration, made unique by a folder's name."""
    members: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        members.setdefault(read_configuration(run), []).append(run)
    count = Counter(name for name, _ in members)
    return {
        (name if count[name] == 1 else f"{name}, {folders[0].name}"): folders for (name, _), folders in members.items()
    }


def _usual(runs: Sequence[Path], logged: set[str]) -> list[str]:
    monitors = [OmegaConf.select(read_yaml(run / CONFIG), "trainer.monitor") for run in runs]
    wanted = ["loss", *dict.fromkeys(each for each in monitors if each), *USUAL]
    return [name for name in wanted if name in logged or VALIDATION + name in logged]


def _near(name: str, logged: set[str]) -> str:
    names = sorted(each.removeprefix(VALIDATION) for each in logged - {"step", "epoch"} if "chance" not in each)
    return ", ".join(get_close_matches(name, names, n=4, cutoff=0.3) or names[:4])


def _curves(runs: Sequence[Sequence[dict]], name: str) -> list[Curve]:
    """The finite values of a figure over the epochs, of each run of a configuration that has any.

    An epoch has as many steps in all of them, as the longest run tells most exactly: so curves meet at equal places.
    Lines of validations have no epoch.
    """
    epoch, step = max((_epochs(lines)[-1] for lines in runs), key=lambda pair: pair[1])
    curves = [
        [(line["step"] * epoch / step, line[name]) for line in lines if _is_number(line.get(name))] for lines in runs
    ]
    return [curve for curve in curves if curve]


def _epochs(lines: Sequence[dict]) -> list[tuple[float, float]]:
    """Epoch and step, both above 0, of the lines that have both."""
    pairs = [(line.get("epoch"), line["step"]) for line in lines]
    return [(epoch, step) for epoch, step in pairs if _is_number(epoch) and epoch > 0 and step > 0]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Learning curves of run folders, from their `metrics.jsonl`: `scripts/visualize.py curves`."""

from __future__ import annotations

import glob
import json
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
    logged = {name for of_run in lines.values() for line in of_run for name in line}
    names = list(figures) or _usual(runs, logged)
    panels, percent = {}, set()
    for name in names:
        known = next((each for each in (name, VALIDATION + name) if each in logged), None)
        if known is None:
            raise UserError(f"figures={name}: no run logged it; logged are, for instance, {_near(name, logged)}")
        curves = {label: [_curve(lines[run], known) for run in members] for label, members in groups.items()}
        curves = {label: [curve for curve in some if curve] for label, some in curves.items()}
        panels[name] = {label: some for label, some in curves.items() if some}
        if (known.startswith(VALIDATION) and is_share(known)) or name.startswith("share"):
            percent.add(name)
    return curves_figure(panels, percent=percent, title=title)


def read_lines(run: Path) -> list[dict]:
    """The lines of a run's metrics, each with its `epoch`, which those of validations lack in the file.

    Raises:
        UserError: if there are none.
    """
    path = run / METRICS
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):  # the last line of a run that is being trained may be incomplete
            continue
    known = [line for line in lines if line.get("epoch") and line.get("step")]
    if not known:
        raise UserError(f"{path} has no figures: the run has not logged any step yet")
    per_step = known[-1]["epoch"] / known[-1]["step"]
    return [{**line, "epoch": line["step"] * per_step} for line in lines if "step" in line]


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


def _curve(lines: Sequence[dict], name: str) -> Curve:
    values = [(line["epoch"], line.get(name)) for line in lines]
    return [(epoch, value) for epoch, value in values if isinstance(value, int | float)]

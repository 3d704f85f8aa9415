"""Mean and standard deviation of the figures of several runs, as Markdown tables: `scripts/compare.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from meru.configuration.saved import leaves, read_yaml
from meru.errors import UserError
from meru.reports.over_seeds import cell, mean_chance
from meru.reports.tables import markdown_table
from meru.run_layout import CONFIG, FIGURES
from meru.tasks.columns import COLUMNS

NOT_COMPARED = ("seed", "folder", "resume", "output", "logger")
# Loaders for suites alone, which no training uses.
OF_SUITES = ("data.load_labelled", "data.load_label_sets")
# Plots that a run draws; they change nothing else.
OF_PLOTS = ("evaluation.figures", "trainer.figures_every")


def comparison(paths: Sequence[Path], name: str) -> str:
    """Tables of run folders; other matches of a pattern like `runs/*` are left out with a message.

    Args:
        paths: Paths of run folders.
        name: Name of the file with figures in each.

    Raises:
        UserError: if none of the paths is a run folder, one does not exist, or a run has no such figures.
    """
    runs = [path for path in paths if (path / CONFIG).is_file()]
    others = [path for path in paths if path not in runs]
    if missing := [path for path in others if not path.exists()]:
        raise UserError(f"{missing[0]} is not a run folder: it does not exist")
    if not runs:
        raise UserError(f"{others[0]} is not a run folder: {others[0] / CONFIG} is missing")
    if others:
        print(f"left out, not run folders: {', '.join(path.name for path in others)}", file=sys.stderr)
    return tables(runs, name)


def tables(runs: Sequence[Path], name: str) -> str:
    """Markdown tables of run folders: one per kind of figures, with a row per configuration."""
    by_kind: dict[str, dict[str, list[tuple[str, dict]]]] = {}
    for run in runs:
        title, configuration = read_configuration(run)
        figures = read_figures(run / name)
        kind = next((kind for kind, columns in COLUMNS.items() if figures.keys() & {*columns.values()}), None)
        if kind is None:
            raise UserError(f"{run / name} has none of the figures to compare: name another file with --figures")
        by_kind.setdefault(kind, {}).setdefault(configuration, []).append((title, figures))
    return "\n\n".join(table(COLUMNS[kind], list(by_kind[kind].values())) for kind in COLUMNS if kind in by_kind)


def table(columns: dict[str, str], rows: Sequence[list[tuple[str, dict]]]) -> str:
    """The Markdown table of one kind of figures; each row has the names and the figures of its runs."""
    every = [figures for members in rows for _, figures in members]
    # Without annotated parts there are no pointing figures.
    columns = {title: key for title, key in columns.items() if any(key in figures for figures in every)}
    lines = []
    for members in rows:
        cells = [cell([figures.get(key) for _, figures in members]) for key in columns.values()]
        chances = [cell([mean_chance((figures for _, figures in members), key)]) for key in columns.values()]
        lines += [[members[0][0], str(len(members)), *cells], ["chance", "", *chances]]
    return markdown_table(["run", "seeds", *columns], lines)


def read_configuration(run: Path) -> tuple[str, str]:
    """A run's name, and its configuration as text without the keys that differ between seeds.

    Raises:
        UserError: if the configuration is unreadable.
    """
    path = run / CONFIG
    configuration = OmegaConf.to_container(read_yaml(path), resolve=True)
    if "name" not in configuration:
        raise UserError(f"{path} is not the configuration of a run: restore the file")
    compared = {key: value for key, value in leaves(configuration) if is_compared(key)}
    return str(configuration["name"]), json.dumps(compared, sort_keys=True, default=str)


def is_compared(key: str) -> bool:
    """Whether runs with different values of a key are different in more than their seed or their place."""
    return key.partition(".")[0] not in NOT_COMPARED and not key.startswith((*OF_SUITES, *OF_PLOTS))


def read_figures(path: Path) -> dict[str, float | None]:
    """Read the figures in a file of a run folder; null and values that are not finite numbers become None.

    Raises:
        UserError: if the file does not exist, or has no figure.
    """
    if not path.is_file():
        if path.name == FIGURES:
            raise UserError(f"{path} is missing: the run is not finished")
        raise UserError(f"{path} is missing: write it with scripts/evaluate.py, or name another file with --figures")
    again = f"write it again with python scripts/evaluate.py run={path.parent} output={path}"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also for bytes that are not text
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {again}") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} holds no figures by name: {again}")
    if not read:
        raise UserError(f"{path} holds no figures: that run had no test images")
    return {str(name): figure if _is_number(figure) else None for name, figure in read.items()}


def _is_number(figure: object) -> bool:
    return isinstance(figure, int | float) and not isinstance(figure, bool) and abs(figure) < 1e300

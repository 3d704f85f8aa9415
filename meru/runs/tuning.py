"""Choose the overrides of each variant of an ablation by validation figures, with the same budget for all."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import yaml

from meru.errors import UserError
from meru.files import write_text
from meru.reports.tables import markdown_table
from meru.run_layout import FIGURES, METRICS
from meru.runs.ablation_file import Ablation, Tuning, Variant
from meru.runs.ablation_plan import base_overrides, check_unchanged, planned_runs
from meru.runs.ablation_queue import Run, train_all
from meru.runs.comparison import read_figures
from meru.runs.figure_names import require_figures

FILE = "tuning.yaml"
WITHOUT_VALIDATION = (
    "tuning: a discovery run evaluates on the images to discover; add discovery.validation=true to tuning.overrides, "
    "which holds out old classes"
)
FOLDER = "tuning"


def tune(
    ablation: Ablation, experiment: str, words: list[str], seeds: list[int], output: Path, *, jobs: str
) -> dict[str, list[str]]:
    """Train all candidates, print their validation figures, and write the choice to `tuning.yaml`.

    Args:
        ablation: With `tuning`.
        experiment: A recipe.
        words: Overrides of the command line.
        seeds: Seeds of the table, none of which may tune.
        output: Folder of the ablation.
        jobs: See `slots_of`.

    Returns:
        Variant → its chosen overrides: the candidate with the highest mean over the tuning's seeds, the first of equal
        ones.

    Raises:
        UserError: if the file has no section `tuning`, a run failed, or one has no such figure.
    """
    tuning = ablation.tuning
    if tuning is None:
        raise UserError("tune=true: this ablation has no section `tuning:` with candidates; add it, or leave tune out")
    if common := sorted(set(seeds) & set(tuning.seeds)):
        raise UserError(f"tuning: seed {common[0]} is also a seed of the table: choose others for one of them")
    variants = candidates(ablation, tuning)
    base = base_overrides(experiment, [*ablation.overrides, *tuning.overrides], words)
    runs = planned_runs(variants, ablation.starts, base, tuning.seeds, output / FOLDER, shared=output)
    check_selection(tuning.select, runs, variants)
    for run in runs:
        check_unchanged(run)
    print(f"tuning: {len(next(iter(tuning.grids.values())))} candidates for each of {len(tuning.grids)} variants")
    if failed := train_all(runs, jobs, output):
        raise UserError(f"tuning: {len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}", exit_code=1)
    figures = {
        title: [validation_figure(run, tuning.select) for run in runs if run.variant == title] for title in variants
    }
    means = {title: sum(of_seeds) / len(of_seeds) for title, of_seeds in figures.items()}
    chosen = {}
    for variant, grid in tuning.grids.items():
        of_grid = [means[_title(variant, number)] for number in range(len(grid))]
        chosen[variant] = of_grid.index(max(of_grid))  # the first of equal ones
    print(f"\n{table(tuning, means, chosen)}\n", flush=True)
    write_text(output / FILE, _content(tuning, means, chosen))
    return {variant: tuning.grids[variant][number] for variant, number in chosen.items()}


def candidates(ablation: Ablation, tuning: Tuning) -> dict[str, Variant]:
    """Every candidate of every variant, as a variant of its own: `MERU 1`, `MERU 2`, …"""
    return {
        _title(name, number): Variant([*ablation.variants[name].overrides, *changes], ablation.variants[name].start)
        for name, grid in tuning.grids.items()
        for number, changes in enumerate(grid)
    }


def with_chosen(variants: Mapping[str, Variant], chosen: Mapping[str, list[str]]) -> dict[str, Variant]:
    """The variants with the overrides that tuning chose for them."""
    return {
        name: Variant([*variant.overrides, *chosen.get(name, [])], variant.start) for name, variant in variants.items()
    }


def read_tuned(ablation: Ablation, output: Path) -> dict[str, list[str]]:
    """The overrides chosen by an earlier `tune=true`; empty, with a note, if there was none.

    Raises:
        UserError: if the file is damaged, or from other candidates than those of the ablation.
    """
    path = output / FILE
    if not path.is_file():
        print("note: this ablation can tune its variants; without tune=true they keep the settings of the experiment")
        return {}
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        chosen = read["chosen"]
        tried = {variant: [each["overrides"] for each in grid] for variant, grid in read["candidates"].items()}
        fits = all(chosen[variant] in grid for variant, grid in ablation.tuning.grids.items())
        made_from = (read["select"], read["seeds"], read["overrides"], tried)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is damaged: write it again with tune=true") from None
    tuning = ablation.tuning
    if not fits or made_from != (tuning.select, tuning.seeds, tuning.overrides, tuning.grids):
        raise UserError(f"{path} was made from another section `tuning:`: write it again with tune=true")
    print(f"chosen by tuning, from {path}")
    return dict(chosen)


def check_selection(select: str, runs: Sequence[Run], variants: Container[str]) -> None:
    """Refuse, before anything is trained, a figure that the tuning runs do not give of validation images.

    Args:
        select: The figure's name.
        runs: The tuning runs, and those that they start from.
        variants: Names of the tuning runs.
    """
    configs = [run.configuration for run in runs if run.variant in variants]
    require_figures([select], configs, place="tuning.select")
    for config in configs:
        if config.get("task") == "discovery" and not config["discovery"].get("validation"):
            raise UserError(WITHOUT_VALIDATION)


def validation_figure(run: Run, name: str) -> float:
    """The validation figure of a finished run; its figures on test images are never read.

    An image–text run has it in `metrics.jsonl`: the one of the weights that validation selected. The figures of a
    discovery run are of validation images if it was trained with `discovery.validation=true`.

    Raises:
        UserError: if the run has no such validation figure.
    """
    config = run.configuration
    if config.get("task") == "discovery":
        if not config["discovery"].get("validation"):
            raise UserError(WITHOUT_VALIDATION)
        figures = read_figures(run.folder / FIGURES)
    else:
        figures = selected_validation(run.folder, monitor=config["trainer"]["monitor"])
    figure = figures.get(name)
    if figure is None:
        known = ", ".join(sorted(each for each in figures if "chance" not in each)[:6]) or "none"
        raise UserError(f"tuning.select={name}: {run.title} has no such validation figure; it has {known}, …")
    return figure


def selected_validation(folder: Path, *, monitor: str) -> dict[str, float | None]:
    """Figures of the validation with the highest monitored figure, the first of equal ones; empty without any."""
    best: dict[str, float | None] = {}
    for line in (folder / METRICS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            read = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        figures = {
            name.removeprefix("validation/"): figure
            for name, figure in (read.items() if isinstance(read, dict) else ())
            if name.startswith("validation/") and isinstance(figure, int | float) and math.isfinite(figure)
        }
        if figures.get(monitor) is not None and (not best or figures[monitor] > best[monitor]):
            best = figures
    return best


def table(tuning: Tuning, means: Mapping[str, float], chosen: Mapping[str, int]) -> str:
    """Every candidate with its validation figure in percent; the chosen ones are bold."""
    rows = []
    for variant, grid in tuning.grids.items():
        for number, changes in enumerate(grid):
            figure = f"{100 * means[_title(variant, number)]:.1f}"
            is_chosen = chosen[variant] == number
            rows.append([variant, " ".join(changes) or "as it is", f"**{figure}**" if is_chosen else figure])
    return markdown_table(["variant", "candidate", f"validation {tuning.select}"], rows)


def _content(tuning: Tuning, means: Mapping[str, float], chosen: Mapping[str, int]) -> str:
    every = {
        variant: [
            {"overrides": changes, "validation": means[_title(variant, number)]} for number, changes in enumerate(grid)
        ]
        for variant, grid in tuning.grids.items()
    }
    best = {variant: tuning.grids[variant][number] for variant, number in chosen.items()}
    content = {
        "select": tuning.select,
        "seeds": tuning.seeds,
        "overrides": tuning.overrides,
        "chosen": best,
        "candidates": every,
    }
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)


def _title(variant: str, number: int) -> str:
    return f"{variant} {number + 1}"

"""Train every variant of an ablation with every seed, and write a table: `scripts/ablate.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from meru.configuration.check import is_known
from meru.errors import UserError
from meru.files import output_folder, write_text
from meru.reports.over_seeds import Runs, ablation_csv, ablation_markdown, runs_csv
from meru.run_layout import FIGURES
from meru.runs.ablation_curves import with_curves, write_curves
from meru.runs.ablation_file import OF_EACH_RUN, Ablation, read_ablation
from meru.runs.ablation_plan import (
    base_overrides,
    check_same_suites,
    check_unchanged,
    configuration_of,
    planned_runs,
    with_suites,
)
from meru.runs.ablation_queue import Run, train_all
from meru.runs.comparison import read_figures
from meru.runs.duration import read_duration
from meru.runs.figure_names import require_figures
from meru.runs.tuning import read_tuned, tune, with_chosen

MEANINGS = {
    "experiment": "the name of a recipe in configs/experiment",
    "seeds": "whole numbers with commas between them, like 0,1,2",
    "ablation": "the name of a file in configs/ablation",
    "output": "the path of a folder",
    "jobs": "a whole number of runs at a time",
    "tune": "true or false",
}


def ablate(own: Mapping[str, str], others: list[str]) -> None:
    """Train the unfinished runs, then write the tables and print one.

    Args:
        own: The user's values for keys of `MEANINGS`.
        others: Overrides for `scripts/train.py`, the same for all runs.

    Raises:
        UserError: for a user's mistake, before anything is trained; at the end, if runs failed or figures are missing.
    """
    check_words(others)
    if own.get("tune", "false") not in ("true", "false"):
        raise UserError(f"tune={own['tune']}: give {MEANINGS['tune']}")
    ablation, experiment = chosen_ablation(own)
    base = base_overrides(experiment, ablation.overrides, others)
    configuration_of(base)  # checks the name of the experiment and the keys of the command line
    seeds = seeds_of(own["seeds"]) if "seeds" in own else ablation.seeds
    name = (own.get("experiment") or own["ablation"]).replace("/", "_")
    output = output_folder(own.get("output") or f"runs/ablation_{name}")
    variants, points = with_curves(ablation, base)
    runs = planned_runs(variants, ablation.starts, base, seeds, output)  # checks the overrides before any training
    of_variants = [run.configuration for run in runs if run.variant in variants]
    of_suites = require_suites(ablation)
    require_figures([each for each in ablation.columns.values() if each not in of_suites], of_variants, place="columns")
    if own.get("tune") == "true":
        tuned = tune(ablation, experiment, others, seeds, output, jobs=own.get("jobs", ""))
        variants = with_chosen(variants, tuned)
    elif ablation.tuning is not None:
        variants = with_chosen(variants, read_tuned(ablation, output))
    if ablation.tuning is not None:
        runs = planned_runs(variants, ablation.starts, base, seeds, output)
    for run in runs:
        check_unchanged(run)
    runs = with_suites(runs, ablation.suites, variants)
    check_same_suites(ablation.suites, output)
    failed = train_all(runs, own.get("jobs", ""), output)
    trained = [run for run in runs if run.suite is None and run.finished]
    rows = {variant: [run for run in trained if run.variant == variant] for variant in variants}
    table, missing = read_table(rows, ablation.suites)
    reference = next(iter(variants))
    text = write_tables(ablation.columns, table, output, reference=reference, note=note_on_starts(trained))
    missing += gaps(ablation.columns, table, reference=reference)
    print(f"\n{text}")
    if shown := write_curves(points, ablation.columns, table, output, reference=reference):
        print(f"\n{shown}")
    if failed:
        missing.insert(0, f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
    if missing:
        raise UserError("; ".join(missing), exit_code=1)


# ---------------------------------------------------------------- command line


def check_words(words: list[str]) -> None:
    """Refuse words of the command line that are no overrides, and keys that differ between the runs."""
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and "." not in key and not is_known(key.lstrip("+~"), command="train"):
            near = get_close_matches(key, MEANINGS, n=1)
            advice = f"did you mean {near[0]}=?" if near else f"this script has {', '.join(MEANINGS)}"
            raise UserError(f"{key}: no such key; {advice} (keys of the runs: docs/keys.md)")
        if word.startswith("-") or not (equals or word.startswith("~")):
            raise UserError(f"'{word}': expected key=value; see --help")
        if key in OF_EACH_RUN:
            raise UserError(f"{word}: every run has its own {key}; see seeds= and output= in --help")


def chosen_ablation(own: Mapping[str, str]) -> tuple[Ablation, str]:
    """The ablation that the command line names, or that of the experiment's model; and the experiment."""
    if "ablation" in own:
        ablation = read_ablation(own["ablation"])
        if experiment := own.get("experiment") or ablation.experiment:
            return ablation, experiment
    if "experiment" not in own:
        advice = f", as ablation={own['ablation']} names none" if "ablation" in own else ""
        raise UserError(f"experiment= is missing{advice}; see --help")
    _, model = configuration_of(base_overrides(own["experiment"], [], []))
    return read_ablation(default_ablation(model)), own["experiment"]


def seeds_of(text: str) -> list[int]:
    """`0,1,2` → [0, 1, 2]."""
    if not re.fullmatch(r"[0-9]{1,10}(,[0-9]{1,10})*", text):
        raise UserError(f"seeds={text}: give {MEANINGS['seeds']}")
    return list(dict.fromkeys(map(int, text.split(","))))


def default_ablation(model: str) -> str:
    """Name of a model's ablation; variants of a model for towers from scratch share it."""
    return model.removesuffix("_from_scratch")


# ---------------------------------------------------------------- the table


def require_suites(ablation: Ablation) -> set[str]:
    """The columns that name figures of a suite, `<name>: <figure>`.

    Raises:
        UserError: if the ablation has no such suite.
    """
    found = set()
    for title, figure in ablation.columns.items():
        name, colon, _ = figure.partition(": ")
        if not colon:
            continue
        if name not in ablation.suites:
            raise UserError(
                f"columns: '{title}': {figure}: there is no suite '{name}'; `suites:` has "
                f"{', '.join(ablation.suites) or 'none'}"
            )
        found.add(figure)
    return found


def read_table(rows: Mapping[str, list[Run]], suites: Iterable[str] = ()) -> tuple[dict[str, Runs], list[str]]:
    """The figures and durations of finished runs, and what could not be read.

    Args:
        rows: Variant → its finished runs; variants without any are left out.
        suites: Names of suites whose figures the runs have too, as `<name>: <figure>`.
    """
    table: dict[str, Runs] = {}
    missing = []
    for variant, runs in rows.items():
        for run in runs:
            of_variant = table.setdefault(variant, Runs({}, {}))
            of_variant.durations[run.seed] = read_duration(run.folder)
            found = of_variant.figures[run.seed] = {}
            for name in ("", *suites):
                path = run.folder / (f"{name}.json" if name else FIGURES)
                if name and not path.is_file():
                    continue  # its failure has been told
                try:
                    read = read_figures(path)
                except UserError as error:
                    missing.append(str(error))
                    continue
                found |= {f"{name}: {figure}" if name else figure: value for figure, value in read.items()}
    return table, missing


def write_tables(
    columns: dict[str, str], table: Mapping[str, Runs], output: Path, *, reference: str, note: str = ""
) -> str:
    """Write `ablation.md`, `ablation.csv` and `ablation_runs.csv` to the output folder; returns the first's text.

    Args:
        columns: Title → name of a figure.
        table: Variant → its finished runs.
        output: The folder.
        reference: The variant that the others are compared with.
        note: Written below the table.
    """
    text = ablation_markdown(columns, table, reference)
    if note:
        text = f"{text}\n\n{note}"
    contents = {
        "ablation.md": text + "\n",
        "ablation.csv": ablation_csv(columns, table, reference),
        "ablation_runs.csv": runs_csv(columns, table),
    }
    for name, content in contents.items():
        write_text(output / name, content)
    return text


def gaps(columns: dict[str, str], table: Mapping[str, Runs], *, reference: str) -> list[str]:
    """What a table lacks: columns that no run has, figures of a variant that are never finite, and the reference.

    A variant may lack a column altogether, and a suite gives null for what is not defined, such as the order of
    distances where all points have one.
    """
    every = [read for of_variant in table.values() for read in of_variant.figures.values() if read]
    missing = [
        f"columns: '{title}': no run has a figure {key}"
        for title, key in columns.items()
        if every and not any(key in read for read in every)
    ]
    missing += [
        f"columns: '{title}': no run of {variant} has a finite figure {key}"
        for title, key in columns.items()
        if ": " not in key
        for variant, runs in table.items()
        if any(key in read for read in runs.figures.values()) and not runs.known(key)
    ]
    if table and reference not in table:
        missing.append(f"no run of {reference} is finished, so nothing can be compared with it")
    return missing


def note_on_starts(runs: list[Run]) -> str:
    """One line on the runs that others started from, whose time is not in the table; empty if there are none."""
    starts = {run.after.folder: run.after for run in runs if run.after is not None}
    known = [duration["minutes"] for folder in starts if (duration := read_duration(folder))]
    if not known:
        return ""
    begun = dict.fromkeys(run.variant for run in runs if run.after is not None)
    every = all(run.variant in begun for run in runs if run.folder not in starts)
    mean = sum(known) / len(known)
    started = "every row" if every else ", ".join(begun)
    return f"Trained first, the start of {started}: {mean:.1f} minutes{' each' * (len(known) > 1)}, not in the table."

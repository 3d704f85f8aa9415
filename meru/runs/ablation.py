"""Train every variant of an ablation with every seed, and write a table: `scripts/ablate.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from meru.configuration.check import is_known
from meru.errors import UserError
from meru.files import output_folder, write_text
from meru.reports.over_seeds import Runs, ablation_csv, ablation_markdown, runs_csv
from meru.run_layout import FIGURES
from meru.runs.ablation_file import OF_EACH_RUN, Ablation, read_ablation
from meru.runs.ablation_plan import base_overrides, check_unchanged, configuration_of, planned_runs
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
    variants = ablation.variants
    runs = planned_runs(variants, ablation.starts, base, seeds, output)  # checks the overrides before any training
    of_variants = [run.configuration for run in runs if run.variant in variants]
    require_figures(ablation.columns.values(), of_variants, place="columns")
    if own.get("tune") == "true":
        tuned = tune(ablation, experiment, others, seeds, output, jobs=own.get("jobs", ""))
        variants = with_chosen(variants, tuned)
    elif ablation.tuning is not None:
        variants = with_chosen(variants, read_tuned(ablation, output))
    if ablation.tuning is not None:
        runs = planned_runs(variants, ablation.starts, base, seeds, output)
    for run in runs:
        check_unchanged(run)
    failed = train_all(runs, own.get("jobs", ""), output)
    rows = {variant: [run for run in runs if run.variant == variant and run.finished] for variant in variants}
    text, missing = write_tables(ablation.columns, rows, output, reference=next(iter(variants)))
    print(f"\n{text}")
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


def write_tables(
    columns: dict[str, str], rows: dict[str, list[Run]], output: Path, *, reference: str
) -> tuple[str, list[str]]:
    """Write `ablation.md`, `ablation.csv` and `ablation_runs.csv` to the output folder.

    Args:
        columns: Title → name of a figure.
        rows: Variant → its finished runs.
        output: The folder.
        reference: The variant that the others are compared with.

    Returns:
        The text of the first, and a list of its gaps.
    """
    table: dict[str, Runs] = {}
    missing = []
    for variant, runs in rows.items():
        if not runs:
            continue
        table[variant] = Runs({}, {})
        for run in runs:
            try:
                table[variant].figures[run.seed] = read_figures(run.folder / FIGURES)
            except UserError as error:
                table[variant].figures[run.seed] = {}
                missing.append(str(error))
            table[variant].durations[run.seed] = read_duration(run.folder)
    every = [read for of_variant in table.values() for read in of_variant.figures.values() if read]
    for title, key in columns.items():
        if every and not any(key in read for read in every):
            missing.append(f"columns: '{title}': no run has a figure {key}")
    missing += gaps(columns, table)
    if table and reference not in table:
        missing.append(f"no run of {reference} is finished, so nothing can be compared with it")
    text = ablation_markdown(columns, table, reference)
    if note := note_on_starts([run for runs in rows.values() for run in runs]):
        text = f"{text}\n\n{note}"
    contents = {
        "ablation.md": text + "\n",
        "ablation.csv": ablation_csv(columns, table, reference),
        "ablation_runs.csv": runs_csv(columns, table),
    }
    for name, content in contents.items():
        write_text(output / name, content)
    return text, missing


def gaps(columns: dict[str, str], table: dict[str, Runs]) -> list[str]:
    """Figures of which a variant has only values that are not finite; it may lack a column altogether."""
    return [
        f"columns: '{title}': no run of {variant} has a finite figure {key}"
        for title, key in columns.items()
        for variant, runs in table.items()
        if any(key in read for read in runs.figures.values()) and not runs.known(key)
    ]


def note_on_starts(runs: list[Run]) -> str:
    """One line on the runs that others started from, whose time is not in the table; empty if there are none."""
    starts = {run.after.folder: run.after for run in runs if run.after is not None}
    known = [duration["minutes"] for folder in starts if (duration := read_duration(folder))]
    if not known:
        return ""
    variants = ", ".join(dict.fromkeys(run.variant for run in runs if run.after is not None))
    mean = sum(known) / len(known)
    return f"Trained first, the start of {variants}: {mean:.1f} minutes each, not in the table."

"""Train every variant of an ablation with every seed, and write a table: `scripts/ablate.py`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from meru.configuration import absolute_paths, check
from meru.configuration.composing import CONFIGS, compose
from meru.configuration.overrides import readable, typed_keys
from meru.configuration.saved import leaves, read_yaml
from meru.errors import UserError
from meru.files import user_path, write_text
from meru.reports.tables import markdown_table
from meru.run_layout import CONFIG, FIGURES
from meru.runs.ablation_queue import Run, slots_of, train_all
from meru.runs.comparison import NOT_COMPARED, cell, chance_of, mean_and_deviation, read_figures

ABLATIONS = CONFIGS / "ablation"
MEANINGS = {
    "experiment": "the name of a recipe in configs/experiment",
    "seeds": "whole numbers with commas between them, like 0,1,2",
    "ablation": "the name of a file in configs/ablation",
    "output": "the path of a folder",
    "jobs": "a whole number of runs at a time",
}
OF_EACH_RUN = ("seed", "folder", "resume")


@dataclass(frozen=True)
class Ablation:
    """The contents of a file in configs/ablation/.

    Attributes:
        columns: Title → name of a figure in `test.json`.
        variants: Name → overrides.
    """

    columns: dict[str, str]
    variants: dict[str, list[str]]


def ablate(own: Mapping[str, str], others: list[str]) -> None:
    """Train the unfinished runs, then write the tables and print one.

    Args:
        own: The user's values for keys of `MEANINGS`.
        others: Overrides for `scripts/train.py`, the same for all runs.

    Raises:
        UserError: for a user's mistake, before anything is trained; at the end, if runs failed or figures are missing.
    """
    experiment = checked_overrides(own, others)
    slots = slots_of(own.get("jobs", ""))
    seeds = seeds_of(own.get("seeds", "0,1,2"))
    _, model = configuration_of(experiment)  # also checks the name of the experiment
    ablation = read_ablation(own.get("ablation") or default_ablation(model))
    output = user_path(own.get("output") or f"runs/ablation_{own['experiment'].replace('/', '_')}")
    runs = planned_runs(ablation, experiment, seeds, output)
    for run in runs:
        check_unchanged(run)
    failed = train_all(runs, slots, output)
    rows = {variant: [run for run in runs if run.variant == variant and run.finished] for variant in ablation.variants}
    text, missing = write_tables(ablation.columns, rows, output)
    print("\n" + text)
    if failed:
        missing.insert(0, f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
    if missing:
        raise UserError("; ".join(missing), exit_code=1)


# ---------------------------------------------------------------- command line


def checked_overrides(own: Mapping[str, str], words: list[str]) -> list[str]:
    """The overrides of all runs, with the recipe first, in Hydra's syntax."""
    for word in words:
        key, equals, _ = word.partition("=")
        if word.startswith("-") or not (equals or word.startswith("~")):
            raise UserError(f"'{word}': expected key=value; see --help")
        if key in OF_EACH_RUN:
            raise UserError(f"{word}: every run has its own {key}; see seeds= and output= in --help")
    if "experiment" not in own:
        raise UserError("experiment= is missing; see --help")
    return readable([f"experiment={own['experiment']}", *words], command="train")


def seeds_of(text: str) -> list[int]:
    """`0,1,2` → [0, 1, 2]."""
    if not re.fullmatch(r"[0-9]{1,10}(,[0-9]{1,10})*", text):
        raise UserError(f"seeds={text}: give {MEANINGS['seeds']}")
    return list(dict.fromkeys(map(int, text.split(","))))


def default_ablation(model: str) -> str:
    """Name of a model's ablation; variants of a model for towers from scratch share it."""
    return model.removesuffix("_from_scratch")


def read_ablation(name: str) -> Ablation:
    """Read the file `configs/ablation/<name>.yaml`."""
    path = ABLATIONS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in ABLATIONS.glob("*.yaml")))
        raise UserError(f"ablation={name}: {path} is missing; there are {known}")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    sections = [read.get(section) if isinstance(read, dict) else None for section in ("columns", "variants")]
    if not all(isinstance(section, dict) and section for section in sections):
        raise UserError(f"{path} needs `columns:` (title: figure) and `variants:` (name: list of overrides)")
    columns, variants = sections
    for variant, overrides in variants.items():
        if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
            raise UserError(f"{path}: variant '{variant}' needs a list of key=value, or [] for none")
    slugs = [slug(str(variant)) for variant in variants]
    if len(set(slugs)) < len(slugs):
        raise UserError(f"{path}: two variants would have the same folder name: {', '.join(sorted(slugs))}")
    return Ablation(
        columns={str(title): str(figure) for title, figure in columns.items()},
        variants={str(variant): overrides for variant, overrides in variants.items()},
    )


def slug(variant: str) -> str:
    """A variant's name as part of a folder name: `without entailment, c = 1` → `without_entailment_c_1`."""
    return re.sub(r"\W+", "_", variant.lower()).strip("_") or "variant"


def planned_runs(ablation: Ablation, experiment: list[str], seeds: list[int], output: Path) -> list[Run]:
    """List the runs seed by seed, for an early first comparison; a variant's overrides come last and win."""
    runs = []
    for seed in seeds:
        for variant, changes in ablation.variants.items():
            folder = output / f"{slug(variant)}_{seed}"
            try:
                overrides = [*experiment, *readable(changes, command="train"), f"seed={seed}"]
                configuration, _ = configuration_of(overrides)
            except UserError as error:
                raise UserError(f"variant '{variant}', seed {seed}: {error}") from error
            runs.append(Run(variant, seed, folder, overrides, configuration))
    return runs


def configuration_of(overrides: list[str]) -> tuple[dict, str]:
    """The checked configuration that `scripts/train.py` would use, and the name of its model."""
    config, choices = compose(overrides)
    check(config, command="train", typed=typed_keys(overrides))
    absolute_paths(config)  # as stored in a run folder
    return yaml.safe_load(OmegaConf.to_yaml(config, resolve=True)), choices["model"]


def check_unchanged(run: Run) -> None:
    """Refuse a folder with a run of another configuration, whose figures would be in the wrong row."""
    path = run.folder / CONFIG
    if not path.is_file():
        if run.folder.exists() and any(run.folder.iterdir()):
            raise UserError(f"{run.folder} exists and is not a run folder: move it, or choose another output=")
        return
    before = dict(leaves(OmegaConf.to_container(read_yaml(path), resolve=True)))
    now = dict(leaves(run.configuration))
    if "discovery.asked_num_classes" in before:  # a run folder has a number in place of null or estimate
        before["discovery.num_classes"] = before.pop("discovery.asked_num_classes")
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, "missing"), now.get(key, "missing")
        if old != new and (key == "seed" or key.partition(".")[0] not in NOT_COMPARED):
            raise UserError(
                f"{run.folder} holds a run with {key}={old}, which would now be {new}: choose another output=, "
                "or remove that folder"
            )


# ---------------------------------------------------------------- the table


def write_tables(columns: dict[str, str], rows: dict[str, list[Run]], output: Path) -> tuple[str, list[str]]:
    """Write `ablation.md` and `ablation.csv` to the output folder; returns the former, and a list of its gaps."""
    figures, missing = {}, []
    for variant, runs in rows.items():
        for run in runs:
            try:
                read = read_figures(run.folder / FIGURES)
            except UserError as error:
                read = {}
                missing.append(str(error))
            figures.setdefault(variant, []).append(read)
    every = [read for of_seeds in figures.values() for read in of_seeds if read]
    for title, key in columns.items():
        if every and not any(key in read for read in every):
            missing.append(f"columns: '{title}': no run has a figure {key}")
    text = markdown(columns, figures)
    for name, content in (("ablation.md", text + "\n"), ("ablation.csv", comma_separated(columns, figures))):
        write_text(output / name, content)
    return text, missing


def markdown(columns: dict[str, str], figures: dict[str, list[dict]]) -> str:
    """A row per variant with mean ± sample standard deviation over its seeds in percent, and one of chance levels."""
    rows = [
        [variant, str(len(of_seeds)), *(cell([read.get(key) for read in of_seeds]) for key in columns.values())]
        for variant, of_seeds in figures.items()
    ]
    chances = [f"{100 * chance:.1f}" if chance is not None else "" for chance in chance_row(columns, figures)]
    return markdown_table(["variant", "seeds", *columns], [*rows, ["chance", "", *chances]])


def comma_separated(columns: dict[str, str], figures: dict[str, list[dict]]) -> str:
    """The same as CSV, with separate columns of means and standard deviations, empty where a figure is missing."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "seeds", *(f"{title}, {part}" for title in columns for part in ("mean", "deviation"))])
    for variant, of_seeds in figures.items():
        numbers = []
        for key in columns.values():
            known = [read[key] for read in of_seeds if read.get(key) is not None]
            numbers += mean_and_deviation(known) if known else (None, None)
        table.writerow([variant, len(of_seeds), *map(_percent, numbers)])
    chances = [number for chance in chance_row(columns, figures) for number in (_percent(chance), "")]
    table.writerow(["chance", "", *chances])
    return text.getvalue()


def chance_row(columns: dict[str, str], figures: dict[str, list[dict]]) -> list[float | None]:
    """The chance level of every column; it is the same for all runs, because they share the split."""
    every = [read for of_seeds in figures.values() for read in of_seeds]
    names = [chance_of(key) for key in columns.values()]
    return [next((read[name] for read in every if read.get(name) is not None), None) for name in names]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3f}"


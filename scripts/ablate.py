"""Train every variant of an ablation with every seed, and write their table.

    python scripts/ablate.py experiment=birds_meru seeds=0,1,2 [ablation=NAME] [output=FOLDER] [jobs=N] [KEY=VALUE …]

ablation    which file of configs/ablation/ (default: the name of the experiment's model)
seeds       whole numbers with commas between them (default 0,1,2)
output      where runs and table go (default runs/ablation_<experiment>)
jobs        runs at a time (default: one a GPU; without a GPU one)

Everything else is an override for scripts/train.py, the same for all runs. The same command goes on where it was
stopped: finished runs are kept, begun ones resumed. The table: <output>/ablation.md and ablation.csv, in percent.
"""

from __future__ import annotations

import csv
import io
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from ablation_runs import Run, slots_of, train_all
from compare import NOT_COMPARED, cell, chance_of, mean_and_deviation, read_figures

from meru.command_line import PROJECT, configuration_message, one_line_errors
from meru.configuration import absolute_paths, check
from meru.configuration.overrides import readable, typed_keys
from meru.configuration.saved import leaves, read_yaml
from meru.errors import UserError
from meru.files import user_path, write_text

ABLATIONS = PROJECT / "configs" / "ablation"
OWN = {"experiment": "", "seeds": "0,1,2", "ablation": "", "output": "", "jobs": ""}
ALLOWED = {
    "experiment": "the name of a recipe in configs/experiment",
    "seeds": "whole numbers with commas between them, like 0,1,2",
    "ablation": "the name of a file in configs/ablation",
    "output": "the path of a folder",
    "jobs": "a whole number of runs at a time",
}
OF_EACH_RUN = ("seed", "folder", "resume")


@dataclass(frozen=True)
class Ablation:
    """What a file of configs/ablation/ says.

    Attributes:
        columns: Title → name of a figure in `test.json`.
        variants: Name → overrides.
    """

    columns: dict[str, str]
    variants: dict[str, list[str]]


def main() -> None:
    """Read the command line, train, print the table."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        sys.exit(0 if words else 2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's signal is a Ctrl-C, too
    with one_line_errors():
        own, overrides = arguments_of(words)
        slots = slots_of(own["jobs"])
        seeds = seeds_of(own["seeds"])
        experiment = [f"experiment={own['experiment']}", *overrides]
        model = compose(experiment)[1]  # also finds out about a mistyped experiment
        ablation = read_ablation(own["ablation"] or default_ablation(model))
        output = user_path(own["output"] or f"runs/ablation_{own['experiment'].replace('/', '_')}")
        runs = planned_runs(ablation, experiment, seeds, output)
        for run in runs:
            check_unchanged(run)
        failed = train_all(runs, slots, output)
        rows = {
            variant: [run for run in runs if run.variant == variant and run.finished] for variant in ablation.variants
        }
        text, missing = write_tables(ablation.columns, rows, output)
        print("\n" + text)
        if failed:
            missing.insert(0, f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
        if missing:
            raise UserError("; ".join(missing), exit_code=1)


# ---------------------------------------------------------------- what is asked for


def arguments_of(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """This script's own `key=value`, defaults filled in, and the overrides for training."""
    own, overrides = dict(OWN), []
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("-") or not (equals or key.startswith("~")):
            raise UserError(f"'{word}': expected key=value; see --help")
        if key in OF_EACH_RUN:
            raise UserError(f"{word}: every run has its own {key}; see seeds= and output= in --help")
        if key in own:
            if not value:
                raise UserError(f"{word}: give {ALLOWED[key]}; see --help")
            own[key] = value
        else:
            overrides.append(word)
    if not own["experiment"]:
        raise UserError("experiment= is missing; see --help")
    return own, readable([f"experiment={own['experiment']}", *overrides], command="train")[1:]


def seeds_of(text: str) -> list[int]:
    """`0,1,2` → [0, 1, 2]."""
    if not re.fullmatch(r"[0-9]{1,10}(,[0-9]{1,10})*", text):
        raise UserError(f"seeds={text}: give {ALLOWED['seeds']}")
    return list(dict.fromkeys(map(int, text.split(","))))


def default_ablation(model: str) -> str:
    """Name of the ablation of a model, which is the same for towers from scratch."""
    return model.removesuffix("_from_scratch")


def read_ablation(name: str) -> Ablation:
    """The file `configs/ablation/<name>.yaml`."""
    import yaml  # comes with OmegaConf

    path = ABLATIONS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in ABLATIONS.glob("*.yaml")))
        raise UserError(f"ablation={name}: {path} is missing; there are {known}")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    sections = [read.get(section) if isinstance(read, dict) else None for section in ("columns", "variants")]
    if not all(isinstance(section, dict) and section for section in sections):
        raise UserError(f"{path} needs `columns:` (title: figure) and `variants:` (name: list of overrides)")
    columns, variants = sections
    for variant, overrides in variants.items():
        if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
            raise UserError(f"{path}: variant '{variant}' needs a list of key=value, [] for none")
    slugs = [slug(str(variant)) for variant in variants]
    if len(set(slugs)) < len(slugs):
        raise UserError(f"{path}: the variants' folders would have the same name: {', '.join(sorted(slugs))}")
    return Ablation(
        columns={str(title): str(figure) for title, figure in columns.items()},
        variants={str(variant): overrides for variant, overrides in variants.items()},
    )


def slug(variant: str) -> str:
    """`without entailment, c = 1` → `without_entailment_c_1`: the name as part of a folder's."""
    return re.sub(r"\W+", "_", variant.lower()).strip("_") or "variant"


def planned_runs(ablation: Ablation, experiment: list[str], seeds: list[int], output: Path) -> list[Run]:
    """Seed by seed, so that a first comparison is there early; a variant's overrides come last and win."""
    runs = []
    for seed in seeds:
        for variant, changes in ablation.variants.items():
            folder = output / f"{slug(variant)}_{seed}"
            try:
                overrides = [*experiment, *readable(changes, command="train"), f"seed={seed}"]
                configuration = compose(overrides)[0]
            except UserError as error:
                raise UserError(f"variant '{variant}', seed {seed}: {error}") from error
            runs.append(Run(variant, seed, folder, overrides, configuration))
    return runs


def compose(overrides: list[str]) -> tuple[dict, str]:
    """The configuration with which `scripts/train.py` would run, checked, and the name of its model."""
    import hydra
    import yaml
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
            config = hydra.compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        check(own, command="train", typed=typed_keys(overrides))
        absolute_paths(own)  # as a run folder keeps them
        return yaml.safe_load(OmegaConf.to_yaml(own, resolve=True)), config.hydra.runtime.choices["model"]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(configuration_message(error)) from error


def check_unchanged(run: Run) -> None:
    """Refuse a folder that holds a run with another configuration: its figures would stand in the wrong row."""
    from omegaconf import OmegaConf

    path = run.folder / "config.yaml"
    if not path.is_file():
        if run.folder.exists() and any(run.folder.iterdir()):
            raise UserError(f"{run.folder} holds something that is no run: move it, or choose another output=")
        return
    before = dict(leaves(OmegaConf.to_container(read_yaml(path), resolve=True)))
    now = dict(leaves(run.configuration))
    if "discovery.asked_num_classes" in before:  # a run folder has the number that null or estimate came to
        before["discovery.num_classes"] = before.pop("discovery.asked_num_classes")
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, "missing"), now.get(key, "missing")
        if old != new and (key == "seed" or key.partition(".")[0] not in NOT_COMPARED):
            raise UserError(
                f"{run.folder} holds a run with {key}={old}, now it would be {new}: choose another output=, "
                "or remove that folder"
            )


# ---------------------------------------------------------------- the table


def write_tables(columns: dict[str, str], rows: dict[str, list[Run]], output: Path) -> tuple[str, list[str]]:
    """`ablation.md` and `ablation.csv` in the output folder; returns the former, and what is missing in it."""
    figures, missing = {}, []
    for variant, runs in rows.items():
        for run in runs:
            try:
                read = read_figures(run.folder / "test.json")
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
    """A row a variant, mean ± standard deviation of the sample over its seeds in percent, and the chance level."""
    lines = ["| variant | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for variant, of_seeds in figures.items():
        cells = [cell([read.get(key) for read in of_seeds]) for key in columns.values()]
        lines.append(f"| {variant} | {len(of_seeds)} | " + " | ".join(cells) + " |")
    chances = [f"{100 * chance:.1f}" if chance is not None else "" for chance in chance_row(columns, figures)]
    return "\n".join([*lines, "| chance | | " + " | ".join(chances) + " |"])


def comma_separated(columns: dict[str, str], figures: dict[str, list[dict]]) -> str:
    """The same for programs: mean and standard deviation in columns of their own, empty where there is no figure."""
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
    """The chance level of every column, which all runs have in common: they are evaluated on the same split."""
    every = [read for of_seeds in figures.values() for read in of_seeds]
    names = [chance_of(key) for key in columns.values()]
    return [next((read[name] for read in every if read.get(name) is not None), None) for name in names]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3f}"


if __name__ == "__main__":
    main()

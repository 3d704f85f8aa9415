"""The runs of an ablation: their overrides, configurations and folders."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from meru.configuration import absolute_paths, check
from meru.configuration.composing import compose
from meru.configuration.older import modernised
from meru.configuration.overrides import override, readable, typed_keys
from meru.configuration.saved import read_yaml
from meru.errors import UserError
from meru.files import make_folder_of, write_text
from meru.run_layout import CONFIG
from meru.runs.ablation_file import Start, Variant, slug
from meru.runs.ablation_queue import Run
from meru.runs.occupied import differences

SUITES = "suites.yaml"  # in the folder of an ablation: what its suites were asked


def base_overrides(experiment: str, of_file: Sequence[str], words: Sequence[str]) -> list[str]:
    """The overrides of all runs in Hydra's syntax: the recipe, the ablation's, and the command line's, which win."""
    return readable([f"experiment={experiment}", *of_file, *words], command="train")


def planned_runs(
    variants: Mapping[str, Variant],
    starts: Mapping[str, Start],
    base: list[str],
    seeds: list[int],
    output: Path,
    *,
    shared: Path | None = None,
) -> list[Run]:
    """List the runs seed by seed, for an early first comparison; a variant's overrides come last and win.

    Args:
        variants: Title → variant.
        starts: Name → a run that variants start from.
        base: Overrides of all runs.
        seeds: Seeds of each variant.
        output: Parent of the run folders.
        shared: Parent of starts with a seed of their own; None: `output`.
    """
    runs: list[Run] = []
    used = {name: start for name, start in starts.items() if any(each.start == name for each in variants.values())}
    once = {
        name: _run(name, start.overrides, base, start.seed, (shared or output) / f"{name}_{start.seed}")
        for name, start in used.items()
        if start.seed is not None
    }
    runs += once.values()
    for seed in seeds:
        each = {
            name: _run(name, start.overrides, base, seed, output / f"{name}_{seed}")
            for name, start in used.items()
            if start.seed is None
        }
        runs += each.values()
        first = once | each
        for title, variant in variants.items():
            after = first.get(variant.start or "")
            init = [override("encoder.init", after.folder)] if after else []
            folder = output / f"{slug(title)}_{seed}"
            runs.append(_run(title, variant.overrides, [*base, *init], seed, folder, after))
    return runs


def _run(title: str, changes: list[str], base: list[str], seed: int, folder: Path, after: Run | None = None) -> Run:
    try:
        overrides = [*merged([*base, *readable(changes, command="train")]), f"seed={seed}"]
        configuration, _ = configuration_of(overrides)
    except UserError as error:
        raise UserError(f"variant '{title}', seed {seed}: {error}") from error
    return Run(title, seed, folder, overrides, configuration, after)


def merged(words: Sequence[str]) -> list[str]:
    """Overrides without keys added by `+` a second time, which Hydra refuses: the last value counts."""
    kept: list[str] = []
    for word in words:
        form = re.match(r"(\+*)([^=+]+)=", word)
        for other in [each for each in kept if form and re.match(rf"\++{re.escape(form[2])}=", each)]:
            kept.remove(other)
            word = f"{'' if form[1] else '+'}{word}"
        kept.append(word)
    return kept


def configuration_of(overrides: list[str]) -> tuple[dict, str]:
    """The checked configuration that `scripts/train.py` would use, and the name of its model."""
    config, choices = compose(overrides)
    check(config, command="train", typed=typed_keys(overrides))
    absolute_paths(config)  # as stored in a run folder
    return yaml.safe_load(OmegaConf.to_yaml(config, resolve=True)), choices["model"]


def with_suites(runs: Sequence[Run], suites: Mapping[str, Sequence[str]], variants: Container[str]) -> list[Run]:
    """The runs, each of a variant followed by its suites.

    Args:
        runs: Trainings.
        suites: Name → overrides of `scripts/evaluate.py`.
        variants: Names of the runs that get them; others are starts.

    Raises:
        UserError: for overrides that the script would refuse; they are read before anything is trained.
    """
    read = {name: _suite_words(name, words) for name, words in suites.items()}
    found: list[Run] = []
    for run in runs:
        found.append(run)
        if run.variant in variants:
            found += [Run(run.variant, run.seed, run.folder, words, {}, run, name) for name, words in read.items()]
    return found


def _suite_words(name: str, given: Sequence[str]) -> list[str]:
    """The overrides of a suite; without `suite=` it is the one of that name."""
    words = list(given) if any(word.startswith("suite=") for word in given) else [f"suite={name}", *given]
    try:
        words = readable(words, command="evaluate")
        config, _ = compose([*words, "run=x"], command="evaluate")
        check(config, command="evaluate", typed=typed_keys(words))
    except UserError as error:
        raise UserError(f"suites: {name}: {error}") from error
    return words


def check_same_suites(suites: Mapping[str, Sequence[str]], output: Path) -> None:
    """Refuse figures of suites with other overrides in the folder of an ablation, and note those of this command.

    Raises:
        UserError: if a suite of that name had others.
    """
    path = output / SUITES
    before: dict = {}
    if path.is_file():
        before = OmegaConf.to_container(read_yaml(path))
    for name, words in suites.items():
        if name in before and list(before[name]) != list(words):
            made = next(output.glob(f"*/{name}.json"), None)
            if made is not None:
                raise UserError(
                    f"suites: {name} had other overrides when {made} was made ({', '.join(before[name]) or 'none'}): "
                    f"remove */{name}.json in {output}, or choose another output="
                )
    if suites:
        make_folder_of(path)
        write_text(path, yaml.safe_dump({**before, **{name: list(words) for name, words in suites.items()}}))


def check_unchanged(run: Run) -> None:
    """Refuse a folder with a run of another configuration, whose figures would be in the wrong row."""
    path = run.folder / CONFIG
    if not path.is_file():
        if run.folder.exists() and any(run.folder.iterdir()):
            raise UserError(f"{run.folder} exists and is not a run folder: move it, or choose another output=")
        return
    before = OmegaConf.to_container(modernised(read_yaml(path)), resolve=True)  # an older version may have begun it
    if "asked_num_classes" in before.get("discovery", {}):  # a run folder has a number in place of null or estimate
        before["discovery"]["num_classes"] = before["discovery"].pop("asked_num_classes")
    for key, old, new in differences(before, run.configuration):
        raise UserError(
            f"{run.folder} holds a run with {key}={old}, which would now be {new}: choose another output=, or remove "
            "that folder"
        )

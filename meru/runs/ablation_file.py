"""The files of configs/ablation/: columns, variants and curves, seeds, common start, tuning and suites."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meru.errors import UserError
from meru.files import CONFIGS
from meru.reports.tables import ERRORS
from meru.run_layout import DURATION, ENVIRONMENT, FIGURES

ABLATIONS = CONFIGS / "ablation"
SECTIONS = ("experiment", "seeds", "overrides", "start", "tuning", "suites", "columns", "variants", "curves")
OF_VARIANT, OF_START = ("overrides", "start"), ("overrides", "seed")
OF_CURVE = ("key", "values", "overrides")
OF_TUNING = ("select", "overrides", "seeds", "grids")
TUNING_SEED = 100
OF_EACH_RUN = ("seed", "folder", "resume")  # keys that no override may give
OF_EACH_SUITE = ("run", "output")
FILES_OF_A_RUN = (FIGURES, DURATION, ENVIRONMENT)  # no suite may write its figures there


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        overrides: Overrides of the experiment.
        start: Name of the start that the variant's runs begin with, a key of `Ablation.starts`; None: their own.
    """

    overrides: list[str]
    start: str | None = None


@dataclass(frozen=True)
class Start:
    """A run that is trained first and given to variants as `encoder.init`.

    Attributes:
        overrides: Overrides of the experiment.
        seed: The only seed it is trained with, so that all runs start from the same weights; None: that of each run.
    """

    overrides: list[str]
    seed: int | None = None


@dataclass(frozen=True)
class Curve:
    """One key with several values, each a variant of its own; all other keys stay as they are.

    Attributes:
        key: As on the command line of scripts/train.py.
        values: As there.
        overrides: What else its variants need, say `model.learn_curvature=false` for fixed curvatures.
    """

    key: str
    values: list[str]
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tuning:
    """How the overrides of each variant are chosen before the table is made.

    Attributes:
        select: Name of the validation figure to maximise.
        grids: Variant → candidate overrides, the same number for each; without variants that have nothing to tune.
        overrides: Overrides of all tuning runs.
        seeds: Seeds of the tuning runs, none of which is in the table.
    """

    select: str
    grids: dict[str, list[list[str]]]
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [TUNING_SEED])


@dataclass(frozen=True)
class Ablation:
    """The contents of a file in configs/ablation/.

    Attributes:
        columns: Title → name of a figure in `test.json`.
        variants: By name, the first is the one that the others are compared with.
        experiment: A recipe of configs/experiment/, if the command line names none.
        seeds: Seeds, if the command line names none.
        overrides: Overrides of all runs; the command line's win.
        starts: Name → the run that is trained first.
        suites: Name → overrides of scripts/evaluate.py for every finished run; the suite is the one of that name, or
            the one that they name. A column has its figures as `<name>: <figure>`.
        curves: Title → the key that is varied, from the first variant on.
    """

    columns: dict[str, str]
    variants: dict[str, Variant]
    experiment: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    overrides: list[str] = field(default_factory=list)
    starts: dict[str, Start] = field(default_factory=dict)
    tuning: Tuning | None = None
    suites: dict[str, list[str]] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)


def read_ablation(name: str) -> Ablation:
    """Read the file `configs/ablation/<name>.yaml`.

    Raises:
        UserError: if it is missing or malformed; the message names the section.
    """
    path = ABLATIONS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in ABLATIONS.glob("*.yaml")))
        raise UserError(f"ablation={name}: {path} is missing; there are {known}")
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    sections = [read.get(section) if isinstance(read, dict) else None for section in ("columns", "variants")]
    if not all(isinstance(section, dict) and section for section in sections):
        raise UserError(f"{path} needs `columns:` (title: figure) and `variants:` (name: list of overrides)")
    _require_known(read, SECTIONS, place=str(path))
    starts, variants = {}, {}
    if "start" in read:
        starts["start"] = _start(read["start"], place=f"{path}: start")
    for title, content in read["variants"].items():
        variants[str(title)] = _variant(str(title), content, starts, place=f"{path}: variant '{title}'")
    _require_different_folders(variants, starts, path)
    optional: dict[str, Any] = {}
    if read.get("experiment") is not None:
        optional["experiment"] = str(read["experiment"])
    if read.get("seeds") is not None:
        optional["seeds"] = _seeds(read["seeds"], place=f"{path}: seeds")
    if read.get("tuning") is not None:
        optional["tuning"] = _tuning(read["tuning"], list(variants), place=f"{path}: tuning")
    if read.get("suites") is not None:
        optional["suites"] = _suites(read["suites"], place=f"{path}: suites")
    if read.get("curves") is not None:
        optional["curves"] = _curves(read["curves"], place=f"{path}: curves")
    if odd := [title for title, figure in read["columns"].items() if not isinstance(figure, str)]:
        raise UserError(f"{path}: columns: '{odd[0]}' needs the name of a figure")
    return Ablation(
        columns={str(title): figure for title, figure in read["columns"].items()},
        variants=variants,
        overrides=_overrides(read.get("overrides") or [], place=f"{path}: overrides"),
        starts=starts,
        **optional,
    )


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"'{repeated[0]}' is there twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)


def slug(variant: str) -> str:
    """A variant's name as part of a folder name: `without entailment, c = 1` → `without_entailment_c_1`.

    The sign of a number is kept: `b = -1` → `b_minus_1`.
    """
    variant = re.sub(r"(?<![\w.])[-−](?=\.?\d)", "minus ", variant)
    return re.sub(r"\W+", "_", variant.lower()).strip("_") or "variant"


def _variant(title: str, content: object, starts: dict[str, Start], *, place: str) -> Variant:
    """A variant; a start of its own is added to `starts`."""
    common = "start" if "start" in starts else None
    if not isinstance(content, dict) or not content:
        return Variant(_overrides(content, place=place), common)
    _require_known(content, OF_VARIANT, place=place)
    overrides = _overrides(content.get("overrides") or [], place=place)
    if "start" not in content:
        return Variant(overrides, common)
    if content["start"] is None:  # `start: null`: from the experiment's own weights
        return Variant(overrides, None)
    own = f"start_{slug(title)}"
    starts[own] = _start(content["start"], place=f"{place}, start")
    return Variant(overrides, own)


def _start(content: object, *, place: str) -> Start:
    if not isinstance(content, dict):
        raise UserError(f"{place} needs `overrides:`, those of the run to train first")
    _require_known(content, OF_START, place=place)
    seed = _seeds([content["seed"]], place=f"{place}: seed, in brackets,")[0] if "seed" in content else None
    return Start(_overrides(content.get("overrides") or [], place=place), seed)


def _suites(content: object, *, place: str) -> dict[str, list[str]]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"{place} needs names of suites, each with a list of key=value for scripts/evaluate.py, or []")
    if odd := [str(name) for name in content if not re.fullmatch(r"\w+", str(name))]:
        raise UserError(f"{place}: '{odd[0]}': a file will have this name; use letters, digits and _")
    if taken := [str(name) for name in content if f"{name}.json".lower() in FILES_OF_A_RUN]:
        file = f"{taken[0].lower()}.json"
        raise UserError(f"{place}: '{taken[0]}': every run has a file {file} already; use another name")
    return {
        str(name): _overrides(words, place=f"{place}: {name}", own=OF_EACH_SUITE) for name, words in content.items()
    }


def _curves(content: object, *, place: str) -> dict[str, Curve]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"{place} needs titles, each with `key:` and `values:`")
    curves = {}
    for title, curve in content.items():
        here = f"{place}: '{title}'"
        values = curve.get("values") if isinstance(curve, dict) else None
        key = curve.get("key") if isinstance(curve, dict) else None
        if not isinstance(values, list) or not values or not isinstance(key, str) or not key.strip():
            raise UserError(f"{here} needs `key:`, a key of scripts/train.py, and `values:`, a list")
        _require_known(curve, OF_CURVE, place=here)
        words = [_word(value, place=here) for value in values]
        meanings = [meaning(word) for word in words]
        if any(same_value(one, other) for place, one in enumerate(meanings) for other in meanings[:place]):
            raise UserError(f"{here}: values: one of them is there twice")
        _overrides([f"{key}={word}" for word in words], place=here)
        curves[str(title)] = Curve(key, words, _overrides(curve.get("overrides") or [], place=here))
    return curves


def _word(value: object, *, place: str) -> str:
    """A value as on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float | str):
        return str(value)
    raise UserError(f"{place}: values: {value}: give a number or a word")


def meaning(word: str) -> object:
    """What a value on the command line means: `1e-5`, which YAML takes for text, is the number 0.00001."""
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:  # whoever reads the key says what is wrong
        return word
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def same_value(one: object, other: object) -> bool:
    """Whether two values of a key are the same: 1 and 1.0 are, 1 and true are not."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _tuning(content: object, variants: list[str], *, place: str) -> Tuning:
    if not isinstance(content, dict) or not isinstance(content.get("select"), str):
        raise UserError(f"{place} needs `select:` (a validation figure) and `grids:` (variant: lists of overrides)")
    _require_known(content, OF_TUNING, place=place)
    if content["select"].rpartition("/")[2] in ERRORS:
        raise UserError(f"{place}: select: {content['select']}: its lowest value is best, but the highest is chosen")
    grids = content.get("grids")
    if not isinstance(grids, dict) or set(map(str, grids)) != set(variants):
        raise UserError(f"{place}: grids needs candidates for every variant and no other: {', '.join(variants)}")
    grids = {str(variant): grid for variant, grid in grids.items()}
    tuned = [variant for variant in variants if grids[variant] is not None]
    read = {variant: _grid(variant, grids, place=f"{place}: grids: '{variant}'") for variant in tuned}
    if not read:
        raise UserError(f"{place}: grids has no candidates: give some variant a list, or leave the section out")
    sizes = {variant: len(grid) for variant, grid in read.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{variant} {size}" for variant, size in sizes.items())
        raise UserError(
            f"{place}: every method gets the same budget, so give each variant the same number of candidates; "
            f"there are {counts}"
        )
    overrides = _overrides(content.get("overrides") or [], place=f"{place}: overrides")
    seeds = _seeds(content["seeds"], place=f"{place}: seeds") if "seeds" in content else [TUNING_SEED]
    return Tuning(content["select"], read, overrides, seeds)


def _grid(variant: str, grids: Mapping[str, object], *, place: str) -> list[list[str]]:
    """The candidates of a variant, its own or those of another that `same_as` names."""
    grid = grids[variant]
    if isinstance(grid, dict) and set(grid) == {"same_as"}:
        other = grids.get(str(grid["same_as"]))
        if not isinstance(other, list):
            raise UserError(f"{place}: same_as: {grid['same_as']}: name a variant with a list of candidates")
        grid = other
    if not isinstance(grid, list) or not grid:
        raise UserError(f"{place} needs a list of candidates, each a list of key=value, or `same_as: <variant>`")
    return [_overrides(candidate, place=place) for candidate in grid]


def _overrides(content: object, *, place: str, own: tuple[str, ...] = OF_EACH_RUN) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(override, str) for override in content):
        raise UserError(f"{place} needs a list of key=value, or [] for none")
    for override in content:
        if override.lstrip("+~").partition("=")[0] in own:
            raise UserError(f"{place}: {override}: every run has its own; use `seeds:` or `start:`")
    return content


def _seeds(content: object, *, place: str) -> list[int]:
    if not isinstance(content, list) or not content or not all(type(seed) is int and seed >= 0 for seed in content):
        raise UserError(f"{place} needs a list of whole numbers, like [0, 1, 2]")
    return list(dict.fromkeys(content))


def _require_known(content: Mapping, known: tuple[str, ...], *, place: str) -> None:
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(f"{place}: no such section '{unknown[0]}'; there are {', '.join(known)}")


def _require_different_folders(variants: Mapping[str, Variant], starts: Mapping[str, object], path: Path) -> None:
    slugs = [*map(slug, variants), *starts]
    if len(set(slugs)) < len(slugs):
        raise UserError(f"{path}: two variants would have the same folder name: {', '.join(sorted(slugs))}")

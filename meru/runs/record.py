"""Reads what a run folder holds for a report: of any version, finished or not, with files missing or damaged."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from meru.configuration.composing import compose
from meru.configuration.saved import choices_of, leaves, read_yaml
from meru.errors import UserError
from meru.files import CONFIGS
from meru.run_layout import ASKED, CLUSTERS, CONFIG, ENVIRONMENT, FIGURES, METRICS
from meru.runs.comparison import is_compared, read_configuration, read_figures
from meru.runs.duration import read_duration

LARGEST = 2**28  # bytes of a text file that is still read


class Cluster(NamedTuple):
    """A predicted class of a discovery run.

    Attributes:
        name: As in `clusters.csv`.
        images: How many images are predicted as it.
        labelled: How many of them were labelled in training.
        confidence: Mean confidence; None if unknown.
        class_name, share: The most frequent class of these images, and its share; None and 0.0 without known classes.
    """

    name: str
    images: int
    labelled: int
    confidence: float | None
    class_name: str | None
    share: float


@dataclass(frozen=True)
class Record:
    """A run as its folder tells.

    Attributes:
        folder: The run folder.
        name: The run's name.
        group: A text that runs share which differ in the seed alone.
        settings: Key → value of the resolved configuration.
        followers: Keys and sections that were taken from others; empty for older versions, which did not record that.
        figures: Figures of the test split; empty for an unfinished run.
        remark: Why there are no figures, on one line; empty if there are.
        curves: Name → points (step, value) that were logged.
        duration: `minutes` and `cpu_minutes`; empty if unknown.
        environment: Commit, device and versions; empty if unknown.
        clusters: Of a discovery run, the largest first.
    """

    folder: Path
    name: str
    group: str
    settings: Mapping[str, object]
    followers: frozenset[str]
    figures: Mapping[str, float | None]
    remark: str
    curves: Mapping[str, list[tuple[float, float]]]
    duration: Mapping[str, float]
    environment: Mapping[str, str]
    clusters: list[Cluster] = field(default_factory=list)

    def compared(self) -> dict[str, object]:
        """The keys that say more than seed and place, without those that follow another key."""
        return {
            key: value
            for key, value in self.settings.items()
            if is_compared(key) and not any(f"{key}.".startswith(f"{follower}.") for follower in self.followers)
        }

    @property
    def last_step(self) -> int | None:
        """The last step that was logged; None without any."""
        return max((int(points[-1][0]) for points in self.curves.values()), default=None)

    def last_validation(self) -> dict[str, float | None]:
        """The figures of the last validation, without the prefix; empty without one."""
        found = {name: points[-1] for name, points in self.curves.items() if name.startswith("validation/")}
        last = max((step for step, _ in found.values()), default=None)
        return {name.removeprefix("validation/"): value for name, (step, value) in found.items() if step == last}


class Group(NamedTuple):
    """Runs that differ in the seed alone.

    Attributes:
        label: Unique among the groups of a report.
        records: At least one.
    """

    label: str
    records: list[Record]


def read_record(folder: Path) -> Record:
    """Read a run folder.

    Raises:
        UserError: if it is no run folder, or its configuration cannot be read; anything else may be missing.
    """
    if not (folder / CONFIG).is_file():
        missing = "it does not exist" if not folder.exists() else f"{folder / CONFIG} is missing"
        raise UserError(f"{folder} is not a run folder: {missing}")
    name, group = read_configuration(folder)
    figures, remark = {}, ""
    try:
        figures = read_figures(folder / FIGURES)
    except UserError as error:
        remark = str(error)
    settings = dict(leaves(OmegaConf.to_container(read_yaml(folder / CONFIG), resolve=True)))
    return Record(
        folder=folder,
        name=name,
        group=group,
        settings=settings,
        followers=_followers(folder / ASKED),
        figures=figures,
        remark=remark,
        curves=read_curves(folder / METRICS),
        duration=read_duration(folder),
        environment=_read_environment(folder / ENVIRONMENT),
        clusters=read_clusters(folder / CLUSTERS),
    )


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Name → points (step, value) of the finite numbers in `metrics.jsonl`, by step; damaged lines are left out."""
    curves: dict[str, dict[float, float]] = defaultdict(dict)
    for line in _text(path).splitlines():
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a process that was killed
            continue
        step = read.get("step") if isinstance(read, dict) else None
        if not _is_number(step):
            continue
        for name, value in read.items():
            if name != "step" and _is_number(value):
                curves[str(name)][float(step)] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def read_clusters(path: Path) -> list[Cluster]:
    """The predicted classes in `clusters.csv`, the largest first; empty without the file."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with suppress(csv.Error):
        for row in csv.DictReader(_text(path).splitlines()):
            if row.get("predicted"):
                rows[row["predicted"]].append(row)
    return sorted((_cluster(name, members) for name, members in rows.items()), key=lambda each: -each.images)


def _cluster(name: str, members: list[dict[str, str]]) -> Cluster:
    classes = Counter(row["class"] for row in members if row.get("class"))
    class_name, count = classes.most_common(1)[0] if classes else (None, 0)
    confidences = []
    for row in members:
        with suppress(TypeError, ValueError):
            confidences.append(float(row.get("confidence")))
    known = [each for each in confidences if math.isfinite(each)]
    return Cluster(
        name=name,
        images=len(members),
        labelled=sum(row.get("labelled") == "yes" for row in members),
        confidence=sum(known) / len(known) if known else None,
        class_name=class_name,
        share=count / sum(classes.values()) if classes else 0.0,
    )


def defaults_of(folder: Path) -> dict[str, object] | None:
    """What a run's keys would have been without its recipe and its command line; None if its choices are unknown.

    The files of configs/ for data, model, encoder and optimizer are those that the run chose.
    """
    with suppress(UserError):
        chosen = choices_of(folder)
        groups = [group for group in chosen if group != "experiment"]
        known = all(
            re.fullmatch(r"\w+", group) and re.fullmatch(r"\w+", chosen[group])
            and (CONFIGS / group / f"{chosen[group]}.yaml").is_file()
            for group in groups
        )  # fmt: skip
        if groups and known:
            config, _ = compose([f"{group}={chosen[group]}" for group in groups])
            return dict(leaves(OmegaConf.to_container(config, resolve=True)))
    return None


def _followers(path: Path) -> frozenset[str]:
    """The keys and sections that `asked.yaml` takes from others, `${data.root}`."""
    if not path.is_file():
        return frozenset()
    raw = leaves(OmegaConf.to_container(read_yaml(path), resolve=False))
    return frozenset(key for key, value in raw if re.fullmatch(r"\$\{[\w.]+\}", str(value)))


def _read_environment(path: Path) -> dict[str, str]:
    with suppress(ValueError, RecursionError):
        read = json.loads(_text(path))
        if isinstance(read, dict):
            return {str(name): str(value) for name, value in read.items()}
    return {}


def _text(path: Path) -> str:
    """The text of a file, bytes that are none replaced; empty if it is missing, unreadable or far too large."""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= LARGEST:
            return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

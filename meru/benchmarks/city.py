"""What a camera network of a city would need, on paper: arithmetic from measured rates, and its assumptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from meru.reports.tables import markdown_table

BYTES_OF_POINT = 4 + 2  # a number of a point: float32, and half precision for the scan
BYTES_BESIDE = 4  # the one number of a point that the scan adds
ASSUMPTIONS = (
    "every person is one point for each camera that sees them, at every hour alike; nothing is merged or left out",
    "the time of a scan grows with its points as measured at the largest gallery here, and all points are in memory",
    "points are split evenly, and finding people in the video, embedding, networks and spare machines cost nothing",
    "queries come evenly; with more than one part, each answers the same query, and merging their lists costs nothing",
)
ENOUGH = 1_000_000
FEW = (
    "**Too small a gallery for this arithmetic:** with {:,} points, what a search costs whatever its points is most of "
    f"its time, and the cores below are overstated; measure with at least rows={ENOUGH}."
)


@dataclass(frozen=True)
class City:
    """A camera network.

    Attributes:
        cameras: How many.
        persons: That a camera sees in an hour, mean of day and night.
        days: That their points are kept.
        queries: In an hour, of all users.
        answer: Seconds that one query may take.
    """

    cameras: int = 10_000
    persons: int = 100
    days: int = 30
    queries: int = 1000
    answer: float = 1.0


@dataclass(frozen=True)
class Rate:
    """What one part, such as a core, compares in a second: points for a single query, and for all queries it answers.

    Attributes:
        name: The part.
        alone: Points in a second of one query.
        together: Points times queries in a second, under the number of clients that makes most of it.
    """

    name: str
    alone: float
    together: float


@dataclass(frozen=True)
class Need:
    """What a network needs.

    Attributes:
        points: Kept at the same time.
        size: Of them, bytes.
        scans: Of all points, in a second.
        parts: By `Rate.name`, how many answer all queries, each within the time.
    """

    points: int
    size: int
    scans: float
    parts: dict[str, int]


def need_of(city: City, dimension: int, rates: Sequence[Rate]) -> Need:
    """Points, bytes, scans in a second, and parts.

        points = cameras · persons · 24 · days
        parts  = max(points · scans / together, points / (alone · answer)), rounded up

    Args:
        city: The network.
        dimension: D of the points.
        rates: Of each kind of part.
    """
    points = city.cameras * city.persons * 24 * city.days
    scans = city.queries / 3600
    parts = {
        rate.name: math.ceil(max(points * scans / rate.together, points / (rate.alone * city.answer))) for rate in rates
    }
    return Need(points, points * (BYTES_OF_POINT * dimension + BYTES_BESIDE), scans, parts)


def size_text(size: float) -> str:
    """Bytes as people read them: in GB, below 0.1 GB in MB."""
    return f"{size / 1e6:,.1f} MB" if size < 1e8 else f"{size / 1e9:,.1f} GB"


def city_section(city: City, dimension: int, rates: Sequence[Rate], *, largest: int | None = None) -> str:
    """A section of Markdown: the network, what it needs for a day and for all days, and the assumptions.

    Args:
        city: The network.
        dimension: D of the points.
        rates: Of each kind of part.
        largest: Points of the gallery that the rates are from; below `ENOUGH` it warns. None: no warning.
    """
    rows = []
    for days in sorted({1, city.days}):
        kept = City(city.cameras, city.persons, days, city.queries, city.answer)
        need = need_of(kept, dimension, rates)
        numbers = [f"{need.points:,}", size_text(need.size), f"{need.scans:.2f}"]
        rows.append([str(days), *numbers, *(f"{count:,}" for count in need.parts.values())])
    measured = "; ".join(
        f"{rate.name}: {rate.alone / 1e6:,.3g} million points a second for one query, {rate.together / 1e6:,.3g} "
        "million with all that are answered together"
        for rate in rates
    )
    few = [FEW.format(largest)] if largest is not None and largest < ENOUGH else []
    return "\n\n".join([
        "### What a camera network of a city would need, on paper",
        f"{city.cameras:,} cameras, {city.persons:,} persons per camera and hour, {city.queries:,} queries an hour, "
        f"each answered within {city.answer:g} s by an exact scan of all points, D = {dimension}. Nothing of this "
        f"section was run: it is arithmetic with the rates of the largest gallery above ({measured}).",
        *few,
        markdown_table(
            ["days kept", "points", "memory", "scans of all points per second", *(rate.name for rate in rates)], rows
        ),
        "Assumed, not measured:\n\n" + "\n".join(f"* {line}" for line in ASSUMPTIONS),
    ])  # fmt: skip

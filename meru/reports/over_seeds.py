"""Tables of runs with several seeds: mean ± deviation, and paired differences to the first row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from meru.metrics.statistics import Difference, mean_and_deviation, paired_difference
from meru.reports.tables import is_share, markdown_table

Figures = Mapping[str, float | None]

CHANCE_TOLERANCE = 0.05  # relative: the chance levels of discovery are means of random draws


class Runs(NamedTuple):
    """The runs of a variant.

    Attributes:
        figures: Seed → figures by name; empty for a run without figures.
        durations: Seed → `minutes` of wall time and `cpu_minutes`; empty if the run did not record them.
    """

    figures: dict[int, Figures]
    durations: dict[int, Mapping[str, float]]

    def known(self, key: str) -> dict[int, float]:
        """Seed → figure, without the runs that lack it."""
        every = {seed: read.get(key) for seed, read in self.figures.items()}
        return {seed: figure for seed, figure in every.items() if figure is not None}

    def mean_duration(self, name: str) -> float | None:
        """Mean over the seeds whose runs recorded it."""
        known = [duration[name] for duration in self.durations.values() if duration]
        return sum(known) / len(known) if known else None


def chance_of(key: str) -> str:
    """Key of a figure's chance level: `…/recall@1` → `…/chance_recall@1`."""
    row, _, metric = key.rpartition("/")
    return f"{row}/chance_{metric}"


def mean_chance(figures: Iterable[Figures], key: str) -> float | None:
    """Mean chance level of a figure over those of several runs that have one: of some figures it depends on the run."""
    known = [level for read in figures if (level := read.get(chance_of(key))) is not None]
    return sum(known) / len(known) if known else None


def cell(figures: Sequence[float | None], *, share: bool = True) -> str:
    """Mean, and for at least two runs the standard deviation, in percent if they are shares.

    If some runs lack the figure, the others are averaged and their number is appended; a dash if all runs lack it.
    """
    known = [figure for figure in figures if figure is not None]
    if not known:
        return "–"
    mean, spread = mean_and_deviation(known)
    text = _shown(mean, share) if spread is None else f"{_shown(mean, share)} ± {_shown(spread, share)}"
    return text if len(known) == len(figures) else f"{text} (of {len(known)})"


def difference_cell(difference: Difference | None, *, seeds: int, share: bool = True) -> str:
    """A paired difference with its interval, in percentage points for shares; bold with a star if that excludes 0.

    Args:
        difference: None without a pair.
        seeds: Number of seeds of the table; with fewer pairs, their number is appended.
    """
    if difference is None:
        return "–"
    text = _shown(difference.mean, share, sign="+")
    if difference.low is not None and difference.high is not None:
        text += f" [{_shown(difference.low, share, sign='+')}, {_shown(difference.high, share, sign='+')}]"
    if difference.excludes_zero:
        text = f"**{text}** \\*"
    return text if difference.pairs == seeds else f"{text} ({_number(difference.pairs, 'pair')})"


# ---------------------------------------------------------------- ablation


def ablation_markdown(columns: Mapping[str, str], table: Mapping[str, Runs], reference: str) -> str:
    """The means of all variants with their chance levels, then the differences to one of them.

    The last row has the chance levels of the first variant. Where another's differ, beyond random draws, they follow in
    brackets.

    Args:
        columns: Title → name of a figure.
        table: Variant → its runs.
        reference: The variant that the others are compared with; the differences are left out without its runs, for a
            single variant, and without common seeds.
    """
    rows, common = [], chance_row(columns, table)
    varies = False
    for variant, runs in table.items():
        cells = []
        for key, chance in zip(columns.values(), common, strict=True):
            share, own = is_share(key), mean_chance(runs.figures.values(), key)
            text = cell([read.get(key) for read in runs.figures.values()], share=share)
            if own is not None and chance is not None and abs(own - chance) > CHANCE_TOLERANCE * abs(chance):
                text, varies = f"{text} ({_shown(own, share)})", True
            cells.append(text)
        rows.append([variant, str(len(runs.figures)), *cells, _minutes(runs.mean_duration("minutes"))])
    chances = [
        "" if chance is None else _shown(chance, is_share(key))
        for key, chance in zip(columns.values(), common, strict=True)
    ]
    means = markdown_table(["variant", "seeds", *columns, "minutes"], [*rows, ["chance", "", *chances, ""]])
    if varies:
        first = next(iter(table))
        means += f"\n\nChance is that of {first}; in brackets: of a row where it differs by more than 5 %."
    compared = _differences_markdown(columns, table, reference)
    return f"{means}\n\n{compared}" if compared else means


def _differences_markdown(columns: Mapping[str, str], table: Mapping[str, Runs], reference: str) -> str:
    compared = differences(columns, table, reference)
    found = [each for of_variant in compared.values() for each in of_variant if each is not None]
    if not found:
        return ""
    seeds = len({seed for runs in table.values() for seed in runs.figures})
    rows = [
        [
            variant,
            *(
                difference_cell(each, seeds=seeds, share=is_share(key))
                for key, each in zip(columns.values(), of_variant, strict=True)
            ),
        ]
        for variant, of_variant in compared.items()
    ]
    explained = (
        f"Difference to {reference}, for shares in percentage points: mean over the seeds that both have, with its "
        "95 % interval by Student's t for paired figures."
    )
    if max(each.pairs for each in found) == 1:
        explained = f"Difference to {reference}, for shares in percentage points; with one seed, there is no interval."
    stars = "\n\n\\* The interval excludes 0." if any(each.excludes_zero for each in found) else ""
    return f"{explained}\n\n{markdown_table(['variant', *columns], rows)}{stars}"


def differences(
    columns: Mapping[str, str], table: Mapping[str, Runs], reference: str
) -> dict[str, list[Difference | None]]:
    """Every variant but the reference → for each column, its paired difference to it; empty without its runs."""
    if reference not in table:
        return {}
    return {
        variant: [paired_difference(table[reference].known(key), runs.known(key)) for key in columns.values()]
        for variant, runs in table.items()
        if variant != reference
    }


def ablation_csv(columns: Mapping[str, str], table: Mapping[str, Runs], reference: str) -> str:
    """The same as CSV, shares in percent, a column for each number, empty where it is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "deviation", "chance", "difference", "low", "high", "pairs")
    header = [f"{title}, {part}" for title in columns for part in parts]
    writer.writerow(["variant", "seeds", *header, "minutes", "CPU minutes"])
    compared = differences(columns, table, reference)
    for variant, runs in table.items():
        numbers: list[str] = []
        of_variant = compared.get(variant, [None] * len(columns))
        for key, difference in zip(columns.values(), of_variant, strict=True):
            known = list(runs.known(key).values())
            share = is_share(key)
            numbers += [_exact(each, share) for each in (mean_and_deviation(known) if known else (None, None))]
            numbers.append(_exact(mean_chance(runs.figures.values(), key), share))
            ends = [] if difference is None else [_exact(each, share) for each in difference[:3]]
            numbers += [*ends, str(difference.pairs)] if difference is not None else [""] * 4
        spent = [_minutes(runs.mean_duration(name), missing="") for name in ("minutes", "cpu_minutes")]
        writer.writerow([variant, len(runs.figures), *numbers, *spent])
    chances: list[str] = []
    for key, chance in zip(columns.values(), chance_row(columns, table), strict=True):
        chances += [_exact(chance, is_share(key)), *[""] * 6]
    writer.writerow(["chance", "", *chances, "", ""])
    return text.getvalue()


def runs_csv(columns: Mapping[str, str], table: Mapping[str, Runs]) -> str:
    """A row per run as CSV: the unrounded figures of the columns, shares in 0 … 1, by their names in `test.json`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(dict.fromkeys(columns.values()))
    writer.writerow(["variant", "seed", *keys, "minutes", "CPU minutes"])
    for variant, runs in table.items():
        for seed, read in runs.figures.items():
            figures = ["" if read.get(key) is None else repr(read[key]) for key in keys]
            duration = runs.durations.get(seed) or {}
            spent = [_minutes(duration.get(name), missing="") for name in ("minutes", "cpu_minutes")]
            writer.writerow([variant, seed, *figures, *spent])
    return text.getvalue()


def chance_row(columns: Mapping[str, str], table: Mapping[str, Runs]) -> list[float | None]:
    """The chance level of every column: that of the first variant that has one."""
    return [
        next((level for runs in table.values() if (level := mean_chance(runs.figures.values(), key)) is not None), None)
        for key in columns.values()
    ]


def _shown(figure: float, share: bool, *, sign: str = "") -> str:
    return f"{100 * figure:{sign}.1f}" if share else f"{figure:{sign}.2f}"


def _exact(figure: float | None, share: bool) -> str:
    return "" if figure is None else f"{(100 if share else 1) * figure:.3f}"


def _minutes(minutes: float | None, *, missing: str = "–") -> str:
    return missing if minutes is None else f"{minutes:.1f}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

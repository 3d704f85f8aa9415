"""What a copy of CUHK-PEDES, ICFG-PEDES or RSTPReid holds, beside what was published: for `prepare_data.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from meru.data.datasets.person_search import Entry

# Identities, images and captions of each split, as published.
COUNTS = {
    "cuhk_pedes": {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    "icfg_pedes": {"train": (3102, 34674, 34674), "val": (0, 0, 0), "test": (1000, 19848, 19848)},
    "rstpreid": {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
}


def report_annotation(layout: str, splits: dict[str, list[Entry]]) -> Iterator[tuple[str, str]]:
    """Lines of a report on an annotation, as (what, text); the images may be elsewhere."""
    for split, entries in splits.items():
        found, published = counts(entries), COUNTS[layout][split]
        extent = "complete" if found == published else "published: {:,} / {:,} / {:,}".format(*published)
        yield split, "{:,} identities, {:,} images, {:,} captions ({})".format(*found, extent)
    every = [entry for entries in splits.values() for entry in entries]
    if alone := sum(count == 1 for count in Counter(entry.identity for entry in every).values()):
        yield "", f"{alone:,} identities with a single image"
    translated = sum(len(entry.back_translations) for entry in every)
    yield "back-trans.", f"of {translated:,} captions" if translated else "none (one augmentation less)"


def counts(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """Identities, images and captions."""
    identities = {entry.identity for entry in entries}
    return len(identities), len(entries), sum(len(entry.captions) for entry in entries)

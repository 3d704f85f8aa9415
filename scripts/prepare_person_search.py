"""What a copy of CUHK-PEDES, ICFG-PEDES or RSTPReid holds, beside what was published: for `prepare_data.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meru.data.person_search import LAYOUTS, find_annotations, load_person_search
from meru.data.records import ImageRecord

# Identities, images and captions of each split, as published.
COUNTS = {
    "cuhk_pedes": {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    "icfg_pedes": {"train": (3102, 34674, 34674), "val": (0, 0, 0), "test": (1000, 19848, 19848)},
    "rstpreid": {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
}


def report_person_search(layout: str, root: Path) -> tuple[Path, list[tuple[str, str]], list[Path]]:
    """The folder, lines of a report on its annotation as (what, text), and the images; no picture is opened.

    Raises:
        UserError: a file is missing or malformed.
    """
    folder, annotations = find_annotations(root, layout)
    data = load_person_search(root=folder, layout=layout)
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    lines = [("data set", LAYOUTS[layout].folder), ("annotation", ", ".join(path.name for path in annotations))]
    for split, records in splits.items():
        found, published = counts(records), COUNTS[layout][split]
        beside = "as published" if found == published else "published: {:,} / {:,} / {:,}".format(*published)
        lines.append((split, "{:,} identities, {:,} images, {:,} captions ({})".format(*found, beside)))
    every = [record for records in splits.values() for record in records]
    translated = sum(len(record.back_translations) for record in every)
    lines.append(("back-trans.", f"of {translated:,} captions" if translated else "none (an augmentation less)"))
    return folder, lines, [record.path for record in every]


def counts(records: Sequence[ImageRecord]) -> tuple[int, int, int]:
    """Identities, images and captions."""
    identities = {record.class_index for record in records}
    return len(identities), len(records), sum(len(record.captions) for record in records)

"""Captions from templates, of different richness: what a data set knows without anybody having looked at the image.

With them, the effect of richer text is measured without a language model; `meru.data.caption_files` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from meru.data.datasets.cub import class_prompts, with_article
from meru.data.parts import PartWords, plain_part
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError

SENTENCES = 4  # about parts in a caption, so that it fits into 77 tokens
# Name of the file → what its captions say.
RICHNESS = {
    "names": "the name of the class",
    "attributes": "the name, and the colours of two parts at a time",
    "sentences": "the name, and a sentence for every part that is visible",
    "first": "the first of the image's own captions",
}


def template_captions(data: ImageTextData, words: PartWords) -> dict[str, dict[str, list[str]]]:
    """Captions of all images, by richness: those of `RICHNESS` that the data allow.

    Args:
        data: Images with named classes.
        words: The noun for the whole, and the words for parts.

    Returns:
        Richness → image, by the end of its path → captions. Without colours of any class, only `names` and `first`.

    Raises:
        UserError: for shards, persons and images without classes.
    """
    if data.shards or data.class_kind != "class":
        what = "shards" if data.shards else f"data of the kind {data.class_kind}"
        raise UserError(f"templates need the names of classes, which {what} do not have: choose others, say data=cub")
    records = (*data.train, *data.validation, *data.test)
    names = image_names([record.path for record in records])
    coloured = any(record.colours for record in records)
    found: dict[str, dict[str, list[str]]] = {each: {} for each in RICHNESS if coloured or each in ("names", "first")}
    for image, record in zip(names, records, strict=True):
        name = data.class_names[record.class_index]
        found["names"][image] = list(class_prompts(name, {}))
        found["first"][image] = [record.captions[0]]
        if coloured:
            found["attributes"][image] = attribute_captions(name, record.colours, words.whole)
            found["sentences"][image] = sentence_captions(name, record, words)
    return found


def image_names(paths: Sequence[Path]) -> list[str]:
    """The paths from the folder that all images have in common on."""
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def attribute_captions(name: str, colours: Mapping[str, str], whole: str) -> list[str]:
    """Captions with the colours of two parts each: "a Cardinal with a red crown and an orange bill".

    Args:
        name: Of the class.
        colours: Part or `primary` → colour; without any, the captions are those of the name.
        whole: The noun for the whole, "bird"; or "".
    """
    named = with_article(name)
    captions = []
    if "primary" in colours:
        looks_like = f"{colours['primary']} {whole or 'one'}"
        captions.append(f"{named}, {with_article(looks_like)}")
    looks = [with_article(f"{colour} {part}") for part, colour in colours.items() if part != "primary"]
    for first, second in zip(looks[::2], [*looks[1::2], ""], strict=False):
        captions.append(f"{named} with {first} and {second}" if second else f"{named} with {first}")
    return captions or list(class_prompts(name, {}))


def sentence_captions(name: str, record: ImageRecord, words: PartWords) -> list[str]:
    """Captions of several sentences: what it is, its colour, and the colours of up to four visible parts each.

    A part whose place is known to the data set, but not in this image, is left out.

    Args:
        name: Of the class.
        record: Has the colours of the class, and the places of parts.
        words: The noun for the whole, and the words for parts.
    """
    seen = {plain_part(part) for part in record.parts}

    def visible(part: str) -> bool:
        place = words.part_of.get(plain_part(part))
        return not seen or place is None or place in seen

    start = f"This {words.whole or 'one'} is {with_article(name)}."
    if "primary" in record.colours:
        start += f" It is mostly {record.colours['primary']}."
    sentences = [
        f"Its {part} {'are' if part.endswith('parts') else 'is'} {colour}."
        for part, colour in record.colours.items()
        if part != "primary" and visible(part)
    ]
    groups = [sentences[first : first + SENTENCES] for first in range(0, len(sentences), SENTENCES)]
    return [" ".join([start, *group]) for group in groups or [[]]]

"""Wrong captions for a share of the training pairs: the noisy correspondence of person search, seeded.

Protocol of RDE (Qin et al., "Noisy-Correspondence Learning for Text-to-Image Person Re-Identification", CVPR 2024): of
all pairs of an image and a caption, a share is chosen and their captions are shuffled among them. Here no caption of
the share stays with an image of its own class, so that the share is what it says.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from meru.data.records import ImageRecord, ImageTextData
from meru.data.sampling import derived_seed
from meru.errors import UserError

KINDS = ("symmetric", "nearest")
BLOCK = 1024  # classes that are compared with all others at a time

Place: TypeAlias = tuple  # (image, caption), both numbers


class WrongCaptions(NamedTuple):
    """Data some of whose training captions are wrong.

    Attributes:
        data: The data; images, classes, validation and test are as they were.
        wrong: The number of pairs whose caption comes from another class.
        pairs: All pairs of a training image and a caption.
    """

    data: ImageTextData
    wrong: int
    pairs: int


def with_wrong_captions(data: ImageTextData, *, share: float, kind: str, seed: int) -> WrongCaptions:
    """Give a share of the training pairs the caption of an image of another class or identity.

    A caption brings its back-translation. Phrases of regions and colours of a class are words too: a region has those
    of the image that caption number `region mod captions` is from, and the colours go with the first caption.

    Args:
        data: The data with true captions.
        share: In [0, 1]; ⌊share · pairs⌋ pairs are chosen.
        kind: `symmetric`: the chosen captions are shuffled among each other; `nearest`: a caption has come from the
            class whose captions are most similar by words (cosine of tf-idf), any of its training captions.
        seed: Decides everything; neither the training seed nor the method does.

    Raises:
        UserError: for shards, whose captions are not known in advance, or if there is only one class.
    """
    if data.shards:
        raise UserError(
            f"data.caption_noise={share:g}: captions of shards are read as a stream, none can be exchanged; set it to 0"
        )
    places = [(image, number) for image, record in enumerate(data.train) for number in range(len(record.captions))]
    if not (count := _share_of(len(places), share)):
        return WrongCaptions(data, 0, len(places))
    if len({record.class_index for record in data.train}) < 2:
        raise UserError(f"data.caption_noise={share:g}: all training images are of one class; set it to 0")
    draw = random.Random(derived_seed(seed, "caption noise"))
    chosen = draw.sample(places, count)
    classes = [record.class_index for record in data.train]
    given = _shuffled(chosen, places, classes, draw) if kind == "symmetric" else _nearest(chosen, data.train, draw)
    by_image: dict[int, dict[int, Place]] = defaultdict(dict)
    for (image, number), giver in zip(chosen, given, strict=True):
        by_image[image][number] = giver
    train = list(data.train)
    for image, givers in by_image.items():
        train[image] = _with_words_of(data.train, image, givers)
    return WrongCaptions(dataclasses.replace(data, train=tuple(train)), count, len(places))


def _share_of(number: int, share: float) -> int:
    """⌊share · number⌋ of the decimal share: 0.29 · 100 in floating point is below 29."""
    return math.floor(round(share * number, 6))


def _shuffled(chosen: list[Place], places: list[Place], classes: list[int], draw: random.Random) -> list[Place]:
    """The chosen places in an order in which none is where one of its class was.

    If more than half of them are of one class, there is no such order: the rest of that class takes captions from
    outside it, some of which are then there twice.
    """

    def class_of(place: Place) -> int:
        return classes[place[0]]

    common, count = Counter(map(class_of, chosen)).most_common(1)[0]
    taken: dict[Place, Place] = {}
    if (excess := 2 * count - len(chosen)) > 0:
        outside = [place for place in places if class_of(place) != common]
        takers = draw.sample([place for place in chosen if class_of(place) == common], excess)
        taken = {taker: draw.choice(outside) for taker in takers}
    among = [place for place in chosen if place not in taken]
    given = list(among)
    draw.shuffle(given)
    for here, taker in enumerate(among):
        if class_of(given[here]) != class_of(taker):
            continue
        # Exchanged with a place where both then fit, of which there is one; a random start leaves the order random.
        own, start = class_of(taker), draw.randrange(len(among))
        there = next(
            place
            for step in range(len(among))
            if class_of(given[place := (start + step) % len(among)]) != own != class_of(among[place])
        )
        given[here], given[there] = given[there], given[here]
    taken |= zip(among, given, strict=True)
    return [taken[place] for place in chosen]


def _nearest(chosen: list[Place], train: Sequence[ImageRecord], draw: random.Random) -> list[Place]:
    """For each chosen place any place of the class whose captions are most similar."""
    places: dict[int, list[Place]] = defaultdict(list)
    for image, record in enumerate(train):
        places[record.class_index] += [(image, number) for number in range(len(record.captions))]
    nearest = nearest_classes(train)
    return [draw.choice(places[nearest[train[image].class_index]]) for image, _ in chosen]


def nearest_classes(records: Sequence[ImageRecord]) -> dict[int, int]:
    """Class → the other class with the most similar words: cosine of tf-idf of all its captions; of equals the first.

    Args:
        records: Images of at least two classes.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to import

    texts: dict[int, list[str]] = defaultdict(list)
    for record in records:
        texts[record.class_index] += record.captions
    classes = sorted(texts)
    # Words of any script; single characters are words too in some.
    count = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+")
    try:
        rows = count.fit_transform([" ".join(texts[each]) for each in classes])
    except ValueError:  # no caption has a word
        rows = np.zeros((len(classes), 1))
    nearest: dict[int, int] = {}
    for start in range(0, len(classes), BLOCK):
        block = rows[start : start + BLOCK] @ rows.T
        similar = np.array(block.toarray() if hasattr(block, "toarray") else block)
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = -1.0
        for row, column in enumerate(similar.round(12).argmax(axis=1)):  # rounded: equals up to the order of a sum
            nearest[classes[start + row]] = classes[int(column)]
    return nearest


def _with_words_of(train: Sequence[ImageRecord], image: int, givers: dict[int, Place]) -> ImageRecord:
    """A record with the captions that others give it: caption number → the place that its words are from."""
    record = train[image]
    captions, translations = list(record.captions), list(record.back_translations)
    for number, (giver, position) in givers.items():
        captions[number] = train[giver].captions[position]
        if translations:  # a caption without one stands for itself
            theirs = train[giver].back_translations
            translations[number] = theirs[position] if theirs else captions[number]
    regions = list(record.regions)
    for number, region in enumerate(record.regions):
        if (caption := number % len(captions)) in givers:
            theirs = train[givers[caption][0]].regions
            regions[number] = region._replace(phrase=theirs[number % len(theirs)].phrase if theirs else "")
    return dataclasses.replace(
        record,
        captions=tuple(captions),
        back_translations=tuple(translations),
        regions=tuple(regions),
        colours=train[givers[0][0]].colours if 0 in givers else record.colours,
    )

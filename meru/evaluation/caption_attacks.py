"""Changes of captions that a reader hardly notices, or that keep most of their words: deletion, order, synonyms.

Every change is a function of the caption, the number of the draw and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

DELETED = 0.2  # share of the words
REPLACED = 0.75  # probability that a word with synonyms is replaced, so that draws differ

# Words of the same meaning in captions of birds and persons. Each line is used in both directions.
_SYNONYMS = (
    "bird fowl", "small little tiny", "large big", "long lengthy", "short brief", "bright vivid", "dark deep",
    "light pale", "grey gray", "brown brownish", "yellow yellowish", "red reddish", "white whitish", "black blackish",
    "orange amber", "beak bill", "belly abdomen", "breast chest", "throat gorge", "crown cap", "wings pinions",
    "feathers plumage", "feet claws", "legs limbs", "spots specks", "spotted speckled", "stripes bands",
    "striped banded", "pointed pointy", "curved bent", "with having", "has possesses", "mostly mainly", "very quite",
    "man guy", "woman lady", "person individual", "people persons", "girl lass", "boy lad",
    "wearing sporting", "wears sports", "carrying holding", "carries holds", "walking strolling", "walks strolls",
    "trousers pants", "jacket coat", "shirt top", "shoes footwear", "sneakers trainers", "bag sack",
    "backpack rucksack", "handbag purse", "glasses spectacles", "hat cap", "skirt kilt", "sweater jumper",
    "hoodie sweatshirt", "hair locks", "picture photo image", "front fore", "side flank",
)  # fmt: skip
SYNONYMS: dict[str, tuple[str, ...]] = {}
for _line in _SYNONYMS:
    for _word in _line.split():
        SYNONYMS[_word] = SYNONYMS.get(_word, ()) + tuple(other for other in _line.split() if other != _word)


def without_words(words: list[str], draw: random.Random) -> list[str]:
    """All but a fifth of the words, at least one less, in order; one word always stays."""
    gone = min(len(words) - 1, max(1, round(DELETED * len(words))))
    left = set(draw.sample(range(len(words)), gone))
    return [word for place, word in enumerate(words) if place not in left]


def in_other_order(words: list[str], draw: random.Random) -> list[str]:
    """The words in a random order."""
    return draw.sample(words, len(words))


def with_synonyms(words: list[str], draw: random.Random) -> list[str]:
    """Most of the words that the table knows are replaced by a synonym; a full stop or comma after them stays."""
    return [_synonym(word, draw) if draw.random() < REPLACED else word for word in words]


def _synonym(word: str, draw: random.Random) -> str:
    bare = word.rstrip(".,;:!?")
    others = SYNONYMS.get(bare.lower())
    return word if not others else draw.choice(others) + word[len(bare) :]


CHANGES: dict[str, Callable[[list[str], random.Random], list[str]]] = {
    "deletion": without_words,
    "order": in_other_order,
    "synonyms": with_synonyms,
}


def changed_caption(caption: str, change: str, *, draw: int, seed: int = 0) -> str:
    """A caption after one of `CHANGES`; a caption of one word can change by synonyms only.

    Args:
        caption: At least one word.
        change: Name in `CHANGES`.
        draw: Number of the draw.
        seed: Of all draws.
    """
    words = caption.split()
    if change != "synonyms" and len(words) < 2:
        return caption
    return " ".join(CHANGES[change](words, random.Random(f"{seed}/{change}/{draw}/{caption}")))

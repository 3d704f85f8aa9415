"""Looks of synthetic persons, and their assignment to identities.

About a third of the identities of every split come in pairs of near-twins, which are alike in all attributes but one.
To retrieve the right person, a model has to use the whole caption.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

COLOURS = {
    "black": (30, 30, 34),
    "white": (240, 240, 238),
    "grey": (134, 136, 140),
    "red": (200, 34, 38),
    "pink": (240, 140, 178),
    "orange": (238, 122, 30),
    "yellow": (244, 210, 56),
    "green": (44, 132, 64),
    "blue": (34, 76, 190),
    "light blue": (136, 190, 236),
    "purple": (120, 54, 156),
    "brown": (112, 70, 40),
    "beige": (206, 184, 140),
}
SKINS = {"light": (242, 206, 180), "tan": (208, 158, 120), "brown": (152, 102, 72), "dark": (100, 66, 48)}
HAIR_COLOURS = {
    "black": (26, 22, 22),
    "brown": (98, 60, 34),
    "blonde": (226, 190, 104),
    "red": (168, 66, 28),
    "grey": (168, 168, 168),
}
_JEANS = ("blue", "light blue", "black", "grey")
_LOWER = ("black", "grey", "blue", "light blue", "brown", "beige", "white", "green", "red", "purple")
_BAGS = ("backpack", "handbag", "shoulder bag")
_TWIN_SHARE = 1 / 3


class Bag(NamedTuple):
    """What a person carries: `kind` is one of backpack, handbag, shoulder bag."""

    kind: str
    colour: str


@dataclass(frozen=True)
class Look:
    """The attributes that all pictures of an identity share. Colours are names in `COLOURS`.

    Attributes:
        gender: man or woman.
        skin: A name in `SKINS`; visible in pictures, never mentioned in captions.
        hair_length: short, shoulder-length or long.
        hair_colour: A name in `HAIR_COLOURS`.
        glasses: Whether glasses are worn.
        hat: The colour of a cap, or None.
        upper: shirt, jacket, coat, hoodie, sweater or T-shirt.
        pattern: plain, striped, checked or dotted, of the upper clothes.
        lower: trousers, jeans, shorts or skirt.
        shoes: Colour of the shoes.
        bag: The bag, or None.
    """

    gender: str
    skin: str
    hair_length: str
    hair_colour: str
    glasses: bool
    hat: str | None
    upper: str
    upper_colour: str
    pattern: str
    lower: str
    lower_colour: str
    shoes: str
    bag: Bag | None


ATTRIBUTES = tuple(field.name for field in fields(Look))
# Attributes in which near-twins may differ: captions can mention them, and most pictures show them.
TWIN_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name not in ("gender", "skin"))


def second_colour(colour: str) -> str:
    """The colour of stripes, checks and dots on `colour`."""
    return "black" if np.dot(COLOURS[colour], (0.3, 0.59, 0.11)) > 140 else "white"


def differing(one: Look, other: Look) -> tuple[str, ...]:
    """The attributes in which two looks differ."""
    return tuple(name for name in ATTRIBUTES if getattr(one, name) != getattr(other, name))


def deal_looks(sizes: dict[str, int], *, seed: int) -> dict[str, tuple[Look, ...]]:
    """Looks for the identities of every split.

    Args:
        sizes: Split → number of identities, each at least 2.
        seed: ≥ 0.

    Returns:
        Split → looks in random order. Any two differ in at least two attributes, except near-twins, which are in the
        same split and differ in one.
    """
    rng = np.random.default_rng((seed, 0))
    everyone: list[Look] = []

    def is_new(look: Look, twin: Look | None = None) -> bool:
        return all(len(differing(look, other)) > 1 for other in everyone if other is not twin)

    dealt = {}
    for split, size in sizes.items():
        pairs = max(1, round(_TWIN_SHARE * size / 2))
        start = len(everyone)
        while len(everyone) < start + size - pairs:
            look = _any_look(rng)
            if is_new(look):
                everyone.append(look)
        for twin in everyone[start : start + pairs]:
            while not is_new(look := _near_twin(twin, rng), twin):
                pass
            everyone.append(look)
        dealt[split] = tuple(everyone[start + lot] for lot in rng.permutation(size))
    return dealt


def _any_look(rng: np.random.Generator) -> Look:
    gender = _one_of(("man", "woman"), rng)
    while True:
        look = Look(**{name: _any_value(name, gender, rng) for name in ATTRIBUTES})
        if _is_possible(look):
            return look


def _near_twin(look: Look, rng: np.random.Generator) -> Look:
    while True:
        name = _one_of(TWIN_ATTRIBUTES, rng)
        twin = replace(look, **{name: _any_value(name, look.gender, rng)})
        if len(differing(look, twin)) == 1 and _is_possible(twin) and _is_seen(name, look, twin):
            return twin


def _any_value(name: str, gender: str, rng: np.random.Generator):
    """A random value for one attribute of a man or a woman, with plausible frequencies."""
    if name == "gender":
        return gender
    if name == "skin":
        return _one_of(tuple(SKINS), rng)
    if name == "hair_length":
        shares = (0.86, 0.09, 0.05) if gender == "man" else (0.2, 0.3, 0.5)
        return str(rng.choice(("short", "shoulder-length", "long"), p=shares))
    if name == "hair_colour":
        return str(rng.choice(tuple(HAIR_COLOURS), p=(0.32, 0.28, 0.18, 0.1, 0.12)))
    if name == "glasses":
        return bool(rng.random() < 0.35)
    if name == "hat":
        return _one_of(("black", "white", "red", "blue", "green", "yellow"), rng) if rng.random() < 0.3 else None
    if name == "upper":
        return _one_of(("shirt", "jacket", "coat", "hoodie", "sweater", "T-shirt"), rng)
    if name == "upper_colour":
        return _one_of(tuple(COLOURS), rng)
    if name == "pattern":
        return str(rng.choice(("plain", "striped", "checked", "dotted"), p=(0.49, 0.2, 0.18, 0.13)))
    if name == "lower":
        return str(rng.choice(("trousers", "jeans", "shorts", "skirt"), p=(0.36, 0.28, 0.18, 0.18)))
    if name == "lower_colour":
        return _one_of(_LOWER, rng)
    if name == "shoes":
        return _one_of(("black", "white", "brown", "red", "grey", "blue"), rng)
    if rng.random() < 0.35:
        return None
    return Bag(_one_of(_BAGS, rng), _one_of(("black", "brown", "red", "blue", "green", "grey", "yellow", "pink"), rng))


def _is_possible(look: Look) -> bool:
    """Whether such clothes exist, are worn together, and can be told apart in a picture."""
    if look.lower == "skirt" and look.gender == "man":
        return False
    if look.skin in ("brown", "dark") and look.hair_colour in ("brown", "red"):
        return False
    if look.lower == "jeans" and look.lower_colour not in _JEANS:
        return False
    if look.upper == "coat" and look.lower in ("shorts", "skirt"):  # it would hide them
        return False
    if look.hat == look.hair_colour:
        return False
    return look.bag is None or look.bag.colour != look.upper_colour


def _is_seen(name: str, look: Look, twin: Look) -> bool:
    """Whether the one attribute in which two looks differ is visible in their pictures."""
    if name in ("hair_colour", "hair_length") and look.hat is not None:
        return "short" not in (look.hair_length, twin.hair_length)
    # In the same colour these look alike at a distance.
    return name != "lower" or {look.lower, twin.lower} != {"trousers", "jeans"}


def _one_of(values, rng: np.random.Generator):
    return values[rng.integers(len(values))]

"""Sentences about one synthetic person, true to the picture, in the style of CUHK-PEDES.

A caption mentions a random majority of the visible attributes. Hidden ones are not mentioned, nor are left and right,
because the picture may be mirrored.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from meru.data.synthetic.pedestrians.looks import Look, second_colour

# The words that captions may use for the value of an attribute or for a thing.
COLOUR_WORDS = {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "beige": ("beige", "tan", "khaki")}
HAIR_WORDS = {"blonde": ("blonde", "blond"), "grey": ("grey", "gray"), "red": ("red", "ginger")}
LENGTH_WORDS = {"shoulder-length": ("shoulder-length", "medium-length")}
UPPER_WORDS = {
    "shirt": ("shirt", "collared shirt", "button-up shirt"),
    "jacket": ("jacket",),
    "coat": ("coat", "overcoat", "trench coat"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "T-shirt": ("T-shirt", "tee shirt", "tee"),
}
PATTERN_WORDS = {
    "striped": ("striped",),
    "checked": ("checked", "plaid", "checkered"),
    "dotted": ("dotted", "polka dot", "spotted"),
}
LOWER_WORDS = {
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim jeans"),
    "shorts": ("shorts", "short pants"),
    "skirt": ("skirt", "knee-length skirt"),
}
BAG_WORDS = {
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "cross-body bag", "messenger bag"),
}
PERSON_WORDS = {"man": ("man", "man", "gentleman", "male"), "woman": ("woman", "woman", "lady", "female")}
_WORN = ("upper", "lower", "shoes", "hat")


def describe(
    look: Look, *, visible: Collection[str], view: str, walking: bool, rng: np.random.Generator, count: int = 2
) -> list[str]:
    """`count` captions of one picture, all different.

    Args:
        look: The person.
        visible, view, walking: As in `meru.data.synthetic.pedestrians.pictures.Picture`.
        rng: Random generator for contents, words and sentences.
    """
    captions: list[str] = []
    while len(captions) < count:
        caption = _Teller(look, view, walking, rng).caption(visible)
        if caption not in captions:
            captions.append(caption)
    return captions


class _Teller:
    """Writes one caption."""

    def __init__(self, look: Look, view: str, walking: bool, rng: np.random.Generator):
        self.look, self.view, self.walking, self.rng = look, view, walking, rng
        self.person = self.one_of(*PERSON_WORDS[look.gender])
        self.he, self.his = ("he", "his") if look.gender == "man" else ("she", "her")

    def one_of(self, *choices: str) -> str:
        return choices[self.rng.integers(len(choices))]

    def caption(self, visible: Collection[str]) -> str:
        things = [thing for thing in ("hair", "glasses", "hat", "upper", "lower", "shoes", "bag") if thing in visible]
        told = self._majority(things)
        worn = [self.phrase(thing) for thing in _WORN if thing in told]
        if self.rng.random() < 0.2:
            worn = worn[-1:] + worn[:-1]
        has = [self.phrase(thing) for thing in ("hair", "glasses") if thing in told]
        first = worn[: max(1, self.rng.integers(1, 4))]
        sentences = [*self._opening(has, first), *self._clothes(worn[len(first) :])]
        if "bag" in told:
            sentences.insert(int(self.rng.integers(1, len(sentences) + 1)), self._bag())
        return " ".join(_sentence(text) for text in sentences)

    def _majority(self, things: list[str]) -> set[str]:
        least = len(things) // 2 + 1
        number = self.rng.integers(least, len(things) + 1) if things else 0
        return set(self.rng.permutation(things)[:number].tolist())

    def phrase(self, thing: str) -> str:
        """The description of a thing, with its article."""
        look = self.look
        if thing == "hair":
            length = self.one_of(*LENGTH_WORDS.get(look.hair_length, (look.hair_length,)))
            return f"{length} {self.one_of(*HAIR_WORDS.get(look.hair_colour, (look.hair_colour,)))} hair"
        if thing == "glasses":
            return self.one_of("glasses", "a pair of glasses", "dark-rimmed glasses")
        if thing == "hat":
            return f"a {self.colour(look.hat)} {self.one_of('cap', 'baseball cap', 'hat')}"
        if thing == "shoes":
            return self.one_of("", "a pair of ", "") + f"{self.colour(look.shoes)} shoes"
        if thing == "lower":
            noun = self.one_of(*LOWER_WORDS[look.lower])
            article = "a " if look.lower == "skirt" else self.one_of("", "", "a pair of ")
            return f"{article}{self.colour(look.lower_colour)} {noun}"
        noun, colour = self.one_of(*UPPER_WORDS[look.upper]), self.colour(look.upper_colour)
        if look.pattern == "plain":
            return f"a {colour} {noun}"
        if self.rng.random() < 0.4:
            colour = f"{colour} and {second_colour(look.upper_colour)}"
        pattern = self.one_of(*PATTERN_WORDS[look.pattern])
        if look.pattern == "striped" and self.rng.random() < 0.3:
            return f"a {colour} {noun} with stripes"
        return f"a {colour} {pattern} {noun}"

    def colour(self, name: str) -> str:
        return self.one_of(*COLOUR_WORDS.get(name, (name,)))

    def _opening(self, has: list[str], worn: list[str]) -> list[str]:
        """One or two sentences about the person, their activity and some of the clothes."""
        a, he = f"a {self.person}", self.he
        with_hair = f" with {_listed(has)}" if has else ""
        wears = self.one_of("wears", "is wearing", "is dressed in", "has on")
        doing = self._doing()
        if not worn:
            return [f"{a}{with_hair} {self.one_of('is', 'can be seen')} {doing}"]
        clothes = _listed(worn)
        kind = self.rng.integers(6)
        if kind == 0:
            return [f"{a}{with_hair} is {doing}", f"{he} {wears} {clothes}"]
        if kind == 1 and has:
            return [f"the {self.person} {wears} {clothes}", f"{he} has {_listed(has)}"]
        if kind == 2:
            return [f"{a}{with_hair}, {self.one_of('wearing', 'dressed in')} {clothes}, is {doing}"]
        if kind == 3:
            followed = [f"{he} has {_listed(has)}"] if has else []
            return [f"{self.one_of('wearing', 'dressed in')} {clothes}, {a} is {doing}", *followed]
        if kind == 4:
            return [f"this is {a}{with_hair} in {clothes}"]
        return [f"{a}{with_hair} {wears} {clothes}"]

    def _doing(self) -> str:
        verb = "walking" if self.walking else "standing"
        more = [verb, f"{verb} on the street", f"{verb} outside"]
        if self.view == "back":
            more += ["walking away from the camera"] if self.walking else ["standing with the back to the camera"]
        elif self.view == "front":
            more += ["walking towards the camera"] if self.walking else ["standing and facing the camera"]
        elif self.walking:
            more += ["walking past the camera"]
        return self.one_of(*more)

    def _clothes(self, worn: list[str]) -> list[str]:
        if not worn:
            return []
        clothes, he = _listed(worn), self.he
        also = self.one_of("also wears", "is also wearing", "has also got on", "wears")
        return [self.one_of(f"{he} {also} {clothes}", f"the {self.person} {also} {clothes}")]

    def _bag(self) -> str:
        kind = self.look.bag.kind
        bag = f"a {self.colour(self.look.bag.colour)} {self.one_of(*BAG_WORDS[kind])}"
        who = self.one_of(self.he, f"the {self.person}")
        if kind == "backpack":
            return self.one_of(f"{who} carries {bag}", f"{who} has {bag} on {self.his} back", f"{who} is wearing {bag}")
        if kind == "handbag":
            return self.one_of(f"{who} carries {bag}", f"{who} is holding {bag}", f"{who} has {bag} in {self.his} hand")
        return self.one_of(f"{who} carries {bag}", f"{who} has {bag}", f"{who} is carrying {bag} across the body")


def _listed(phrases: list[str]) -> str:
    if len(phrases) < 3:
        return " and ".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _sentence(text: str) -> str:
    """The text as a sentence: a capital, a full stop, and "an" before vowels."""
    words = text.split()
    for place, follower in enumerate(words[1:]):
        if words[place] == "a" and follower[0] in "aeiou":
            words[place] = "an"
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."

"""The synthetic birds: eight silhouettes, six colourings of each, and the words for both.

A family is a silhouette (body, beak, tail, legs, wings); a species of it is a colouring with patterns. Every
name describes the appearance ("Black-winged Red Finch"), so a model that knows the words can recognise the species by
its name. In most families, one pair of species differs in a single detail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# The fifteen parts of CUB-200-2011 in CUB's order; left and right are the bird's own.
CUB_PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape",
    "right eye", "right leg", "right wing", "tail", "throat",
)

COLOURS = {
    "black": (40, 38, 42),
    "white": (240, 238, 232),
    "grey": (142, 146, 152),
    "brown": (120, 78, 48),
    "buff": (222, 190, 142),
    "red": (204, 40, 40),
    "orange": (236, 128, 34),
    "yellow": (242, 208, 56),
    "green": (58, 142, 70),
    "blue": (50, 98, 196),
    "purple": (122, 62, 154),
    "pink": (238, 148, 172),
}


@dataclass(frozen=True)
class Family:
    """A silhouette. One unit is about the length of a body; x points forward, y up.

    Args:
        spine: Six circles (x, y, radius) that the body is stretched over: rump, belly, breast, base of the neck,
            neck, head.
        beak: Shape as CUB names it; length and depth; the words of captions.
        tail: Shape as CUB names it; length, width, direction in degrees (0 straight behind, 90 up); the words.
        wing: Length, depth, and how pointed it is (0 round, 1 pointed).
        leg: Length, and the word for it ("" if there is nothing to say).
        size, shape: CUB's attribute values.
        frontal: Whether the face is turned to the viewer, with both eyes visible.
    """

    spine: tuple[tuple[float, float, float], ...]
    beak: tuple[str, float, float, str]
    tail: tuple[str, float, float, float, str]
    wing: tuple[float, float, float]
    leg: tuple[float, str]
    size: str
    shape: str
    frontal: bool = False


FAMILIES = {
    "duck": Family(
        spine=(
            (-.56, .10, .09), (-.22, .00, .26), (.20, .00, .28), (.41, .20, .15), (.45, .38, .12), (.50, .50, .17),
        ),
        beak=("spatulate", .27, .13, "flat"), tail=("rounded_tail", .24, .22, 28, "short"),
        wing=(.74, .34, .3), leg=(.17, "short"), size="medium_(9_-_16_in)", shape="duck-like",
    ),
    "heron": Family(
        spine=(
            (-.40, -.08, .08), (-.12, .00, .21), (.14, .09, .19), (.33, .30, .09), (.25, .62, .07), (.36, .90, .12),
        ),
        beak=("dagger", .44, .09, "long pointed"), tail=("squared_tail", .24, .20, -20, "short"),
        wing=(.66, .32, .5), leg=(.72, "long"), size="very_large_(32_-_72_in)", shape="long-legged-like",
    ),
    "owl": Family(
        spine=(
            (-.15, -.44, .14), (-.05, -.20, .30), (.01, .05, .33), (.02, .22, .30), (.03, .32, .31), (.05, .43, .33),
        ),
        beak=("hooked", .13, .12, "short hooked"), tail=("rounded_tail", .30, .26, -68, "short"),
        wing=(.66, .32, .2), leg=(.12, "short"), size="large_(16_-_32_in)", shape="owl-like",
        frontal=True,
    ),
    "parrot": Family(
        spine=(
            (-.28, -.33, .10), (-.11, -.11, .22), (.07, .11, .25), (.16, .29, .21), (.19, .38, .20), (.23, .46, .22),
        ),
        beak=("hooked", .21, .27, "thick hooked"), tail=("pointed_tail", .80, .18, -44, "long pointed"),
        wing=(.70, .28, .5), leg=(.15, "short"), size="large_(16_-_32_in)", shape="upright-perching_water-like",
    ),
    "finch": Family(
        spine=(
            (-.42, -.17, .10), (-.13, -.05, .29), (.15, .09, .31), (.29, .25, .25), (.34, .34, .23), (.38, .43, .23),
        ),
        beak=("cone", .17, .17, "short"), tail=("notched_tail", .46, .20, -24, "notched"),
        wing=(.66, .30, .4), leg=(.28, ""), size="small_(5_-_9_in)", shape="perching-like",
    ),
    "swallow": Family(
        spine=(
            (-.42, -.12, .07), (-.14, -.02, .20), (.13, .07, .23), (.27, .17, .19), (.32, .22, .18), (.37, .27, .19),
        ),
        beak=("all-purpose", .09, .07, "tiny"), tail=("forked_tail", .64, .36, -10, "forked"),
        wing=(.94, .24, 1.), leg=(.10, "short"), size="very_small_(3_-_5_in)", shape="swallow-like",
    ),
    "woodpecker": Family(
        spine=(
            (-.24, -.43, .09), (-.11, -.18, .19), (.02, .10, .21), (.08, .31, .14), (.11, .41, .14), (.17, .50, .18),
        ),
        beak=("dagger", .33, .11, "straight"), tail=("pointed_tail", .40, .17, -70, "stiff"),
        wing=(.66, .24, .4), leg=(.16, "short"), size="medium_(9_-_16_in)", shape="tree-clinging-like",
    ),
    "gull": Family(
        spine=(
            (-.50, -.02, .08), (-.18, .00, .21), (.15, .05, .24), (.33, .18, .18), (.39, .27, .16), (.44, .36, .17),
        ),
        beak=("hooked_seabird", .24, .11, "medium"), tail=("fan-shaped_tail", .26, .26, -6, "fan-shaped"),
        wing=(.88, .27, .8), leg=(.32, ""), size="large_(16_-_32_in)", shape="gull-like",
    ),
}

# A part without a colour in the species takes that of its neighbour.
_NEIGHBOUR = {
    "belly": "back", "breast": "belly", "wing": "back", "tail": "wing", "head": "back", "throat": "head",
    "nape": "head", "crown": "head", "forehead": "crown",
}
_OTHERWISE = {"beak": "grey", "leg": "grey", "eye": "black"}


@dataclass(frozen=True)
class Species:
    """One class of the data set.

    Args:
        family: Key of `FAMILIES`.
        mark: Its distinguishing feature, as in bird names: "black-winged", "crested".
        colours: Colour by part, always including `back`.
        patterns: "barred" or "spotted" for `wing`, `tail` or `breast`; absent if plain.
        crest: Whether it has a crest.
        eye_ring: Its colour, or None.
    """

    family: str
    mark: str
    colours: dict[str, str]
    patterns: dict[str, str] = field(default_factory=dict)
    crest: bool = False
    eye_ring: str | None = None

    def colour(self, part: str) -> str:
        """Name of the colour of `part` (a CUB part without its side, or "head")."""
        while part not in self.colours:
            if part in _OTHERWISE:
                return _OTHERWISE[part]
            part = _NEIGHBOUR[part]
        return self.colours[part]

    def pattern(self, part: str) -> str:
        """ "barred", "spotted" or "solid"."""
        return self.patterns.get(part, "solid")

    @property
    def name(self) -> str:
        """In the style of a field guide, such as "Black-winged Red Finch"."""
        return " ".join(word.capitalize() for word in (self.mark, self.colours["back"], self.family))

    @property
    def mark_part(self) -> str:
        """The part that `mark` is about, by CUB's name."""
        return _MARK_PARTS[self.mark.split("-")[-1]]

    def attributes(self) -> set[str]:
        """The attributes of the species, by CUB's names ("has_bill_shape::cone")."""
        shape = FAMILIES[self.family]
        true = {
            f"has_{part}_color::{self.colour(part)}"
            for part in ("back", "belly", "breast", "crown", "eye", "forehead", "leg", "nape", "throat", "wing")
        }
        true |= {
            f"has_{part}_pattern::{_CUB_PATTERNS[self.pattern(part)]}" for part in ("breast", "tail", "wing")
        }
        true |= {
            f"has_bill_color::{self.colour('beak')}",
            f"has_bill_shape::{shape.beak[0]}",
            f"has_primary_color::{self.colour('back')}",
            f"has_shape::{shape.shape}",
            f"has_size::{shape.size}",
            f"has_tail_shape::{shape.tail[0]}",
            f"has_upper_tail_color::{self.colour('tail')}",
        }
        if self.crest:
            true.add("has_head_pattern::crested")
        if self.eye_ring:
            true.add("has_head_pattern::eyering")
        return true


_CUB_PATTERNS = {"barred": "striped", "spotted": "spotted", "solid": "solid"}
_MARK_PARTS = {
    "bellied": "belly", "billed": "beak", "breasted": "breast", "crested": "crown", "crowned": "crown",
    "headed": "crown", "legged": "leg", "naped": "nape", "tailed": "tail", "throated": "throat", "winged": "wing",
}


# Every species by name, with the parts that differ from its back: part, pattern if any, colour.
_LOOKS = {
    "Green-headed Grey Duck": "head green, wing brown, belly white, beak yellow, leg orange",
    "Purple-headed Grey Duck": "head purple, wing brown, belly white, beak yellow, leg orange",
    "Orange-billed White Duck": "beak orange, leg orange, eye-ring blue",
    "White-winged Black Duck": "wing white, tail black, beak red, leg red, crest",
    "Spot-breasted Brown Duck": "breast spotted buff, belly buff, wing blue, tail brown",
    "Black-tailed Orange Duck": "wing green, tail black, head buff, beak black, leg black",
    "Black-crowned White Heron": "crown black, wing grey, beak yellow, leg yellow, crest",
    "White-throated Blue Heron": "throat white, wing blue, beak yellow, leg black",
    "White-bellied Blue Heron": "belly white, throat blue, beak yellow, leg black",
    "Black-winged Pink Heron": "wing black, beak red, leg red, tail pink",
    "Bar-winged Brown Heron": "wing barred brown, head buff, belly buff, beak grey, leg green",
    "Yellow-legged Green Heron": "head purple, leg yellow, belly buff, beak black, tail black",
    "Bar-breasted Brown Owl": "breast barred buff, belly buff, eye yellow, beak grey",
    "Spot-breasted Brown Owl": "breast spotted buff, belly buff, eye yellow, beak grey",
    "Spot-winged White Owl": "wing spotted grey, eye yellow, beak black, leg white",
    "Crested Grey Owl": "belly white, eye orange, beak black, tail barred grey, crest",
    "Orange-bellied Black Owl": "belly orange, eye yellow, beak yellow, eye-ring white",
    "Purple-crowned Buff Owl": "crown purple, belly white, wing orange, beak pink",
    "Yellow-bellied Green Parrot": "belly yellow, tail blue, beak grey, eye-ring white",
    "Red-bellied Green Parrot": "belly red, tail blue, beak grey, eye-ring white",
    "Blue-winged Red Parrot": "wing blue, tail red, beak buff, eye-ring white",
    "Crested White Parrot": "crown yellow, beak black, leg grey, crest",
    "Red-tailed Grey Parrot": "tail red, wing grey, belly white, beak black",
    "Orange-crowned Purple Parrot": "crown orange, wing green, beak orange, belly purple",
    "Black-winged Red Finch": "wing black, beak orange, leg brown",
    "Bar-winged Red Finch": "wing barred black, beak orange, leg brown",
    "Blue-crowned Yellow Finch": "crown blue, wing green, beak grey, belly white",
    "White-bellied Blue Finch": "belly white, wing blue, beak black, throat orange",
    "Spot-breasted Brown Finch": "breast spotted white, belly white, beak pink, leg pink",
    "Red-throated Grey Finch": "throat red, wing grey, belly buff, beak yellow, crest",
    "White-bellied Blue Swallow": "belly white, wing black, throat white",
    "Red-throated Blue Swallow": "belly white, wing black, throat red",
    "Black-winged Green Swallow": "wing black, belly yellow, tail green",
    "White-crowned Purple Swallow": "crown white, wing purple, belly grey",
    "Bar-tailed Brown Swallow": "tail barred buff, wing brown, belly pink, throat buff",
    "Orange-bellied Black Swallow": "belly orange, wing black, eye-ring yellow",
    "Crested Black Woodpecker": "crown red, belly white, beak buff, throat white, crest",
    "Red-crowned Grey Woodpecker": "crown red, wing barred black, belly buff, beak black",
    "Yellow-naped Green Woodpecker": "nape yellow, crown red, wing green, belly buff",
    "Spot-winged Brown Woodpecker": "wing spotted brown, belly white, crown black, beak grey",
    "Blue-headed Orange Woodpecker": "head blue, wing black, belly orange, beak yellow",
    "White-headed Blue Woodpecker": "wing white, head white, belly red, beak black",
    "Grey-winged White Gull": "wing grey, tail white, beak yellow, leg pink",
    "Black-winged White Gull": "wing black, tail white, beak yellow, leg pink",
    "Black-headed Grey Gull": "head black, belly white, beak red, leg red, eye-ring white",
    "Spot-winged Brown Gull": "wing spotted brown, belly buff, beak black, leg black",
    "Pink-bellied Blue Gull": "belly pink, wing white, head white, beak orange, leg orange",
    "Green-billed Buff Gull": "wing purple, tail black, beak green, leg green",
}


def _species(name: str, look: str) -> Species:
    mark, back, family = name.lower().split()
    colours, patterns, crest, eye_ring = {"back": back}, {}, False, None
    for words in (item.split() for item in look.split(", ")):
        if words == ["crest"]:
            crest = True
        elif words[0] == "eye-ring":
            eye_ring = words[1]
        else:
            colours[words[0]] = words[-1]
            if len(words) == 3:
                patterns[words[0]] = words[1]
    return Species(family, mark, colours, patterns, crest, eye_ring)


SPECIES = tuple(_species(name, look) for name, look in _LOOKS.items())

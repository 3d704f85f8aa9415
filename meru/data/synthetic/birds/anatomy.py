"""The body of a synthetic bird: a posed silhouette in the colours of its species, as layers from far to near.

All coordinates are in the bird's own frame, x forward and y up, one unit about the length of a body. Body and neck
are stretched over the family's spine; head, wings and tail have frames of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from meru.data.synthetic.birds.shapes import Colour, darker, ellipse, rgb, smooth, spline, spot, stroke, turned
from meru.data.synthetic.birds.species import COLOURS, FAMILIES, Species

SHADOW, GLEAM = (20, 16, 36), (255, 255, 250)


@dataclass
class Layer:
    """One piece of the drawing.

    Args:
        outlines: Polygons (N, 2); the layer is their union.
        colour: Its colour outside the patches.
        patches: Polygon, colour and opacity (0 to 255); clipped to the outlines.
        points: Positions of the parts in this layer: CUB's names, with "near" and "far" for left and right.
    """

    outlines: list[np.ndarray]
    colour: Colour
    patches: list[tuple[np.ndarray, Colour, int]] = field(default_factory=list)
    points: dict[str, np.ndarray] = field(default_factory=dict)


class Bird:
    """One individual: its shades, its posture, and the resulting layers."""

    def __init__(self, *, species: Species, wings_raised: bool, flying: bool, rng: np.random.Generator):
        self.species, self.rng = species, rng
        self.family = FAMILIES[species.family]
        self.wings_raised, self.flying = wings_raised, flying
        self.complexion = rng.normal(0, 7) + rng.normal(0, 4, 3)
        self.shades: dict[str, Colour] = {}
        self.spine = np.array(self.family.spine)
        self.spine[:, 2] *= rng.uniform(0.94, 1.07)
        nod = np.radians(rng.uniform(-10, 14))
        self.spine[3:, :2] = self.spine[2, :2] + turned(self.spine[3:, :2] - self.spine[2, :2], nod)
        self.head_angle = nod + np.radians(rng.uniform(-10, 8))

    def layers(self) -> tuple[list[Layer], np.ndarray]:
        """All layers, the farthest first, and the point between the feet."""
        far_leg, far_foot = self.leg("far leg", 0.09)
        near_leg, near_foot = self.leg("near leg", -0.04)
        near_angle, far_angle = self.wing_angles()
        layers = [self.wing("far wing", far_angle)] if self.wings_raised else []
        layers += [] if self.flying else [far_leg, near_leg]
        layers += [self.tail(), *self.crest(), self.body(), self.beak(), *self.eyes()]
        return [*layers, self.wing("near wing", near_angle)], (far_foot + near_foot) / 2

    # Places and colours

    def at(self, along, across) -> np.ndarray:
        """Places on the body (N, 2): `along` the spine (rump 0, head 5) and `across` it (belly -1, back 1)."""
        along = np.atleast_1d(along)
        weights, slopes = spline(tuple(along.tolist()))
        direction = slopes @ self.spine[:, :2]
        normal = direction[:, ::-1] * (-1, 1) / np.hypot(*direction.T)[:, None]
        middle = weights @ self.spine
        return middle[:, :2] + (across * middle[:, 2])[:, None] * normal

    def band(self, start: float, stop: float, low: float, high: float) -> np.ndarray:
        """The polygon of the body between two positions along the spine and two across it."""
        along = np.linspace(start, stop, 12)
        return np.concatenate([self.at(along, high), self.at(along[::-1], low)])

    def on_head(self, points) -> np.ndarray:
        """Places (N, 2) in the frame of the head: x to the beak, y to the crown, 1 is its radius."""
        return turned(self.spine[5, 2] * np.atleast_2d(points), self.head_angle) + self.spine[5, :2]

    def shade(self, part: str) -> Colour:
        """This individual's shade of the species' colour of a part."""
        name = self.species.colour(part)
        if name not in self.shades:
            self.shades[name] = rgb(COLOURS[name] + self.complexion + self.rng.normal(0, 4, 3))
        return self.shades[name]

    def markings(self, part: str) -> Colour:
        """The colour of bars and spots: light on dark feathers, dark on light ones."""
        return (236, 232, 222) if sum(COLOURS[self.species.colour(part)]) < 400 else (52, 44, 44)

    # Layers

    def body(self) -> Layer:
        frontal, shade = self.family.frontal, self.shade
        along = np.linspace(0, 5, 32)
        sides = np.concatenate([self.at(along, 1), self.at(along[::-1], -1)])
        head = self.on_head(ellipse((0, 0), (1, 1)))
        throat = (0.3, -0.95) if frontal else (0.5, -0.85)
        regions = [
            ("belly", self.band(0.1, 2.9, -1.2, -0.3)),
            ("breast", self.band(2.0, 3.3, -1.2, -0.1)),
            ("head", self.band(3.25, 5, -1.2, 1.2)),
            ("head", head),
            ("nape", self.band(3.3, 4.5, 0.1, 1.4)),
            ("crown", self.on_head(ellipse((-0.15, 0.82), (0.95, 0.52)))),
            ("forehead", self.on_head(ellipse((0.72, 0.62), (0.34, 0.34)))),
            ("throat", self.band(3.3, 4.75, -1.3, -0.15)),
            ("throat", self.on_head(ellipse(throat, (0.55, 0.4)))),
        ]
        patches = [(region, shade(part), 255) for part, region in regions]
        patches[2:2] = self.breast_pattern()
        if frontal:
            disc = rgb(0.6 * np.array(shade("head")) + 0.4 * np.array((244, 236, 220)))
            patches += [(self.on_head(ellipse((x, 0.02), (0.46, 0.52))), disc, 255) for x in (-0.2, 0.58)]
        # Shading: brighter along the back, darker underneath.
        patches += [(self.band(0, 5, -1.2, edge), SHADOW, 22) for edge in (-0.55, -0.75)]
        patches += [(self.band(0, 4.6, edge, 1.2), GLEAM, 20) for edge in (0.5, 0.72)]
        points = {
            "back": self.at(1.7, 0.84),
            "belly": self.at(1.35, -0.76),
            "breast": self.at(2.5, -0.66),
            "nape": self.at(3.9, 0.72),
            "throat": self.on_head(throat),
            "crown": self.on_head((-0.1, 0.74)),
            "forehead": self.on_head((0.66, 0.56)),
        }
        points = {name: point[0] for name, point in points.items()}
        return Layer([sides, head], shade("back"), patches, points)

    def breast_pattern(self) -> list:
        pattern, colour = self.species.pattern("breast"), self.markings("breast")
        if pattern == "barred":
            return [(self.band(t, t + 0.15, -1.2, -0.05), colour, 255) for t in np.arange(0.7, 3.2, 0.36)]
        if pattern == "spotted":
            along, across = np.meshgrid(np.arange(0.8, 3.3, 0.36), (-0.2, -0.5, -0.8))
            staggered = along + 0.18 * (across == -0.5)
            centres = self.at(staggered.ravel(), across.ravel())
            return [(spot(centre, 0.034), colour, 255) for centre in centres]
        return []

    def shoulder(self) -> np.ndarray:
        return self.at(2.25, 0.3)[0] if self.wings_raised else self.at(2.4, 0.1)[0]

    def wing_angles(self) -> tuple[float, float]:
        """Directions of the near and the far wing in degrees; raised ones lean back if the bird sits upright."""
        x, y = self.shoulder() - self.at(0.1, 0.15)[0]
        torso = np.degrees(np.arctan2(y, x))
        if self.wings_raised:
            spread = self.rng.uniform(-12, 12)
            return 112 + 0.6 * torso + spread, 70 + 0.6 * torso + spread
        return (torso + 180 + self.rng.uniform(-4, 4),) * 2

    def wing(self, name: str, angle: float) -> Layer:
        length, depth, pointed = self.family.wing
        if self.wings_raised:
            length, depth = 1.05 * length, 1.55 * depth
        outline = np.array(_RAISED_WING if self.wings_raised else _FOLDED_WING)
        outline[:, 1] *= 1 - 0.55 * pointed * np.clip(outline[:, 0], 0, 1) ** 2
        outline, shoulder = smooth(outline), self.shoulder()

        def place(points):
            # y > 0 is the upper edge of a folded wing, the leading edge of a raised one.
            return shoulder + turned(np.atleast_2d(points) * (length, -depth), np.radians(angle))

        colour, marking, pattern = self.shade("wing"), self.markings("wing"), self.species.pattern("wing")
        patches = [(place([(0.42, -1), (1.2, -1), (1.2, 0.12), (0.5, 0.05)]), darker(colour, 0.84), 255)]
        quills = (place([(0.36 + step, -0.02), (0.56 + step, -0.55)]) for step in (0, 0.13, 0.26, 0.39, 0.52))
        patches += [(stroke(quill, 0.012), darker(colour, 0.6), 150) for quill in quills]
        if pattern == "barred":
            bars = ([(x, 0.6), (x + 0.1, 0.6), (x + 0.02, -0.7), (x - 0.08, -0.7)] for x in (0.2, 0.46, 0.72))
            patches += [(place(bar), marking, 255) for bar in bars]
        elif pattern == "spotted":
            patches += [(spot(centre, 0.04), marking, 255) for centre in place(_WING_SPOTS)]
        patches.append((stroke(place(outline), 0.016), darker(colour, 0.62), 200))
        if name == "far wing":
            patches.append((place([(-1, -2), (2, -2), (2, 2), (-1, 2)]), SHADOW, 60))
        return Layer([place(outline)], colour, patches, {name: place((0.42, 0.05))[0]})

    def tail(self) -> Layer:
        shape, length, width, direction, _ = self.family.tail
        angle, rump = np.radians(180 - direction + self.rng.uniform(-7, 7)), self.at(0.25, 0)[0]

        def place(points):
            return rump + turned(np.atleast_2d(points) * (length, width), angle)

        colour = self.shade("tail")
        quills = (place([(0.1, y / 3), (0.95, y)]) for y in (-0.3, 0, 0.3))
        patches = [(stroke(quill, 0.012), darker(colour, 0.62), 170) for quill in quills]
        if self.species.pattern("tail") == "barred":
            bars = (place([(x, -1), (x, 1), (x + 0.12, 1), (x + 0.12, -1)]) for x in (0.3, 0.56, 0.82))
            patches += [(bar, self.markings("tail"), 255) for bar in bars]
        # The middle of a forked tail is empty.
        point = place((0.38, 0.12) if shape == "forked_tail" else (0.6, 0))[0]
        return Layer([place(smooth(_TAILS[shape], rounds=2))], colour, patches, {"tail": point})

    def leg(self, name: str, shift: float) -> tuple[Layer, np.ndarray]:
        """A leg, and the position of its foot."""
        length, _ = self.family.leg
        width = 0.034 if length < 0.5 else 0.028
        x, y = self.at(1.45, -0.7)[0]
        x, sole = x + shift, y - 0.92 * length - 0.06
        shank = stroke(np.array([(x, y), (x - 0.05 * length, y - 0.5 * length), (x, sole)]), width)
        toes = [stroke(np.array([(x, sole), (x + reach, sole - 0.02)]), width) for reach in (0.11, 0.06, -0.06)]
        colour = self.shade("leg") if name == "near leg" else darker(self.shade("leg"), 0.8)
        point = np.array((x, y - 0.8 * length - 0.03))
        return Layer([shank, *toes], colour, [], {name: point}), np.array((x, sole))

    def beak(self) -> Layer:
        shape, length, depth, _ = self.family.beak
        base = (0.19, -0.02) if self.family.frontal else (0.86, -0.08)

        def place(points):
            return self.on_head(base + np.atleast_2d(points) * (length, depth) / self.spine[5, 2])

        if self.family.frontal:
            return Layer([place(_FRONTAL_BEAK)], self.shade("beak"), [], {"beak": place((0.1, -0.55))[0]})
        gape = stroke(place([(0, -0.02), (0.85, -0.1)]), 0.014)
        patches = [(gape, darker(self.shade("beak"), 0.6), 255)]
        return Layer([place(_BEAKS[shape])], self.shade("beak"), patches, {"beak": place((0.45, -0.02))[0]})

    def crest(self) -> list[Layer]:
        if not self.species.crest:
            return []
        if self.family.frontal:
            tufts = [[(x - 0.28, 0.7), (1.22 * x, 1.55), (x + 0.28, 0.7)] for x in (-0.45, 0.6)]
            return [Layer([self.on_head(tuft) for tuft in tufts], darker(self.shade("crown"), 0.85))]
        return [Layer([self.on_head(_CREST)], self.shade("crown"))]

    def eyes(self) -> list[Layer]:
        if self.family.frontal:
            return [self.eye("far eye", (0.55, 0.12), 0.24), self.eye("near eye", (-0.17, 0.12), 0.24)]
        return [self.eye("near eye", (0.34, 0.2), min(0.042 / self.spine[5, 2], 0.3))]

    def eye(self, name: str, centre: tuple[float, float], radius: float) -> Layer:
        iris, ring = self.species.colour("eye"), self.species.eye_ring
        if ring:
            rim, rim_radius = COLOURS[ring], 1.75 * radius
        elif iris == "black":
            # Otherwise it would be invisible on a black head.
            rim, rim_radius = (206, 200, 190), 1.3 * radius
        else:
            rim, rim_radius = darker(self.shade("head"), 0.7), 1.3 * radius

        def disc(size, shift=(0, 0)):
            return self.on_head(ellipse(np.add(centre, shift), (size, size), corners=14))

        gleam = disc(0.28 * radius, (0.3 * radius, 0.4 * radius))
        pupil = disc(0.62 * radius)
        patches = [(disc(radius), COLOURS[iris], 255), (pupil, SHADOW, 255), (gleam, GLEAM, 255)]
        return Layer([disc(rim_radius)], rim, patches, {name: self.on_head(centre)[0]})


# Shapes in frames of their own, from the base at x = 0 to the tip at x = 1.
_BEAKS = {
    "cone": [(-.1, .55), (.45, .3), (1, -.12), (.4, -.4), (-.1, -.5)],
    "dagger": [(-.2, .5), (.4, .28), (1, -.08), (.4, -.4), (-.2, -.5)],
    "spatulate": [
        (-.2, .55), (.3, .1), (.75, .12), (1, .02), (1.02, -.3), (.7, -.45), (.3, -.42), (-.2, -.5),
    ],
    "hooked": [
        (-.3, .5), (.35, .48), (.8, .15), (1, -.3), (.9, -.75), (.68, -.35), (.4, -.35), (.1, -.6), (-.3, -.5),
    ],
    "hooked_seabird": [(-.2, .45), (.7, .3), (.98, .05), (1, -.5), (.85, -.22), (.6, -.5), (-.2, -.45)],
    "all-purpose": [(-.4, .5), (1, -.1), (-.4, -.5)],
}
_FRONTAL_BEAK = [(-.5, .1), (.5, .1), (.35, -.7), (0, -1.3), (-.35, -.7)]
_TAILS = {
    "rounded_tail": [(-.5, .3), (.5, .48), (1, .32), (1, -.32), (.5, -.48), (-.5, -.3)],
    "squared_tail": [(-.5, .35), (1, .5), (1, .5), (1, -.5), (1, -.5), (-.5, -.35)],
    "notched_tail": [(-.2, .3), (1, .5), (1, .46), (.84, 0), (1, -.46), (1, -.5), (-.2, -.3)],
    "forked_tail": [
        (-.1, .12), (.4, .3), (1, .5), (1, .46), (.42, .02), (1, -.46), (1, -.5), (.4, -.3), (-.1, -.12),
    ],
    "pointed_tail": [(-.2, .4), (.5, .4), (1, .05), (1, -.05), (.5, -.4), (-.2, -.4)],
    "fan-shaped_tail": [(-.7, .28), (.8, .62), (1, .4), (1.05, 0), (1, -.4), (.8, -.62), (-.7, -.28)],
}
_FOLDED_WING = [
    (-.06, -.1), (-.04, .3), (.15, .48), (.5, .4), (.85, .14), (1, .02), (1, -.02), (.74, -.3), (.45, -.48),
    (.12, -.44),
]
_RAISED_WING = [
    (-.04, -.1), (0, .3), (.35, .42), (.75, .3), (1.02, -.02),
    *((x + tip, y) for x in (.93, .78, .63, .48, .33, .18) for tip, y in ((.05, -.42), (0, -.27))),
]
_WING_SPOTS = [
    (.1, .2), (.12, -.2), (.32, .26), (.32, -.05), (.34, -.34), (.54, .16), (.56, -.18), (.76, .05),
    (.78, -.2),
]
_CREST = [(.6, .6), (.15, 1.3), (-.5, 1.75), (-.35, 1.3), (-1.05, 1.5), (-.7, 1.05), (-1.35, .95), (-.8, .3)]

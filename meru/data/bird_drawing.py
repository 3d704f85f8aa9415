"""One picture of one bird: a posed silhouette in colours, set into a scene, with the place of every part.

The bird is built of layers (far wing, legs, tail, body, beak, near wing) in its own frame, x forward and y up, one unit
about a body's length; then it is turned, mirrored and fitted into the picture with its feet on the perch. While layers
are painted, a second image keeps the number of the layer seen at each pixel: it gives the box, and says which parts are
hidden. Scene, perch, light and distractors are drawn without looking at the species.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from meru.data.bird_scenes import add_light, draw_background, draw_occluder, draw_perch, random_scene
from meru.data.bird_species import COLOURS, CUB_PARTS, FAMILIES, Species

_SUPERSAMPLING = 2
_HIDDEN = 255  # in the image of layer numbers: something in front of the bird


class Picture(NamedTuple):
    """What was drawn: `box` is x, y, width, height; `parts` holds the visible ones by CUB's name, all in pixels."""

    image: Image.Image
    box: tuple[float, float, float, float]
    parts: dict[str, tuple[float, float]]
    scene: str
    facing: str
    wings_raised: bool


@dataclass
class Layer:
    """Something of one piece: `outlines` are united, `patches` (polygon, colour, opacity) are seen inside them only."""

    outlines: list[np.ndarray]
    colour: tuple[int, int, int]
    patches: list[tuple[np.ndarray, tuple[int, int, int], int]] = field(default_factory=list)
    points: dict[str, np.ndarray] = field(default_factory=dict)


def draw_picture(species: Species, *, rng: np.random.Generator, image_size: int) -> Picture:
    """Draws one individual of `species`: the same generator state gives the same picture, bit for bit."""
    scene = random_scene(rng)
    size = image_size * _SUPERSAMPLING
    canvas = draw_background(scene, image_size, rng).resize((size, size), Image.Resampling.BICUBIC)
    draw_perch(canvas, scene, rng)

    facing = "right" if rng.random() < 0.5 else "left"
    wings_raised = scene.kind == "sky" or rng.random() < 0.2
    layers, feet = _Bird(species, rng).layers(wings_raised=wings_raised, flying=scene.kind == "sky")
    place = _placement(layers, feet, scene, facing, size, rng)

    numbers = Image.new("L", (size, size))
    for number, layer in enumerate(layers, start=1):
        _paint(canvas, numbers, layer, place, number)
    left, top, right, bottom = (edge / _SUPERSAMPLING for edge in numbers.getbbox())
    if rng.random() < 0.25:
        draw_occluder(canvas, numbers, _HIDDEN, rng)

    parts = {}
    for number, layer in enumerate(layers, start=1):
        for name, point in layer.points.items():
            x, y = place(point[None])[0]
            if 0 <= x < size and 0 <= y < size and numbers.getpixel((int(x), int(y))) == number:
                parts[_sided(name, facing)] = (x / _SUPERSAMPLING, y / _SUPERSAMPLING)
    parts = {name: parts[name] for name in CUB_PARTS if name in parts}
    image = add_light(canvas.reduce(_SUPERSAMPLING), rng)
    return Picture(image, (left, top, right - left, bottom - top), parts, scene.words, facing, wings_raised)


def _sided(name: str, facing: str) -> str:
    """A bird that faces right shows us its own right side."""
    far = {"right": "left", "left": "right"}[facing]
    return name.replace("near", facing).replace("far", far)


def _placement(layers, feet, scene, facing, size, rng):
    """The map from the bird's frame to pixels: as large as drawn by lot or as fits, feet on the perch if there is one."""
    angle, mirror = np.radians(rng.uniform(-9, 9)), (1 if facing == "right" else -1)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[mirror * cosine, -sine], [-mirror * sine, -cosine]])  # rows: x, y; y turns downwards
    corners = np.concatenate([outline for layer in layers for outline in layer.outlines]) @ turn
    low, high = corners.min(0), corners.max(0)
    wanted = rng.uniform(0.62, 0.88) * size
    margin = 0.03 * size
    if scene.perch is None:
        scale = wanted / (high - low).max()
        free = size - 2 * margin - scale * (high - low)
        offset = margin + free * rng.random(2) - scale * low
    else:
        anchor, at = feet @ turn, np.array(scene.perch) * size
        room = np.concatenate([(at - margin) / (anchor - low), (size - margin - at) / (high - anchor)])
        scale = min(wanted / (high - low).max(), *room)
        offset = at - scale * anchor
    return lambda points: scale * (points @ turn) + offset


def _paint(canvas: Image.Image, numbers: Image.Image, layer: Layer, place, number: int) -> None:
    outlines = [place(outline).ravel().tolist() for outline in layer.outlines]
    draw_number = ImageDraw.Draw(numbers)
    if not layer.patches:
        draw = ImageDraw.Draw(canvas)
        for outline in outlines:
            draw.polygon(outline, fill=layer.colour)
            draw_number.polygon(outline, fill=number)
        return
    mask = Image.new("L", canvas.size)
    draw_mask = ImageDraw.Draw(mask)
    for outline in outlines:
        draw_mask.polygon(outline, fill=255)
        draw_number.polygon(outline, fill=number)
    sheet = Image.new("RGB", canvas.size, layer.colour)
    draw = ImageDraw.Draw(sheet, "RGBA")
    for patch, colour, opacity in layer.patches:
        draw.polygon(place(patch).ravel().tolist(), fill=(*colour, opacity))
    canvas.paste(sheet, mask=mask)


class _Bird:
    """An individual: its shades, its posture, and the layers that follow."""

    def __init__(self, species: Species, rng: np.random.Generator):
        self.species, self.rng = species, rng
        self.family = FAMILIES[species.family]
        self.complexion = rng.normal(0, 7, 3) + rng.normal(0, 7)
        self.spine = np.array(self.family.spine)
        self.spine[:, 2] *= rng.uniform(0.94, 1.07)
        nod = np.radians(rng.uniform(-10, 14))
        self.spine[3:, :2] = self.spine[2, :2] + _turned(self.spine[3:, :2] - self.spine[2, :2], nod)
        self.head_angle = nod + np.radians(rng.uniform(-10, 8))
        self.shades: dict[str, tuple[int, int, int]] = {}

    # Places and colours ---------------------------------------------------------------------------------------------

    def at(self, along, across) -> np.ndarray:
        """Places on the body, shape (N, 2), from positions along the spine (0–5) and across it (−1 belly, 1 back)."""
        along, across = np.broadcast_arrays(np.atleast_1d(along), across)
        ahead, behind = (_spline(tuple(along + step)) @ self.spine[:, :2] for step in (0.05, -0.05))
        direction = (ahead - behind) / np.linalg.norm(ahead - behind, axis=1, keepdims=True)
        normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
        middle = _spline(tuple(along)) @ self.spine
        return middle[:, :2] + (across * middle[:, 2])[:, None] * normal

    def band(self, start: float, stop: float, low: float, high: float) -> np.ndarray:
        """The polygon of the body between two positions along the spine and two across it."""
        along = np.linspace(start, stop, 12)
        return np.concatenate([self.at(along, high), self.at(along[::-1], low)])

    def on_head(self, points) -> np.ndarray:
        """Places in the frame of the head (x to the beak, y to the crown, 1 = its radius), shape (N, 2)."""
        x, y, radius = self.spine[5]
        return (x, y) + _turned(radius * np.atleast_2d(points), self.head_angle)

    def shade(self, part: str) -> tuple[int, int, int]:
        """This individual's shade of the species' colour of a part."""
        name = self.species.colour(part)
        if name not in self.shades:
            self.shades[name] = _rgb(COLOURS[name] + self.complexion + self.rng.normal(0, 6, 3))
        return self.shades[name]

    def markings(self, part: str) -> tuple[int, int, int]:
        """The colour of bars and spots: dark on light feathers, light on dark ones."""
        return (236, 232, 222) if sum(COLOURS[self.species.colour(part)]) < 400 else (52, 44, 44)

    # Layers ---------------------------------------------------------------------------------------------------------

    def layers(self, *, wings_raised: bool, flying: bool) -> tuple[list[Layer], np.ndarray]:
        """All layers from the farthest to the nearest, and the point between the feet."""
        layers = []
        if wings_raised:
            spread = self.rng.uniform(-12, 12)
            layers.append(self.wing("far wing", 72 + spread, raised=True))
        far_leg, far_foot = self.leg("far leg", 0.09)
        near_leg, near_foot = self.leg("near leg", -0.04)
        if not flying:
            layers += [far_leg, near_leg]
        layers += [self.tail(), *self.crest(), self.body(), *self.beak(), *self.eyes()]
        if wings_raised:
            layers.append(self.wing("near wing", 118 + spread, raised=True))
        else:
            layers.append(self.wing("near wing", None, raised=False))
        return layers, (far_foot + near_foot) / 2

    def body(self) -> Layer:
        shade, species = self.shade, self.species
        along = np.linspace(0, 5, 32)
        sides = np.concatenate([self.at(along, 1), self.at(along[::-1], -1)])
        head = self.on_head(_ellipse((0, 0), (1, 1)))
        patches = [(self.band(0.1, 2.9, -1.2, -0.3), shade("belly"), 255)]
        patches.append((self.band(2.0, 3.3, -1.2, -0.1), shade("breast"), 255))
        patches += self._breast_pattern()
        patches.append((self.band(3.25, 5, -1.2, 1.2), shade("head"), 255))
        patches.append((head, shade("head"), 255))
        patches.append((self.band(3.3, 4.5, 0.1, 1.4), shade("nape"), 255))
        patches.append((self.on_head(_ellipse((-0.15, 0.82), (0.95, 0.52))), shade("crown"), 255))
        patches.append((self.on_head(_ellipse((0.72, 0.62), (0.34, 0.34))), shade("forehead"), 255))
        throat = (0.5, -0.85) if species.family != "owl" else (0.3, -0.95)
        patches.append((self.band(3.3, 4.75, -1.3, -0.15), shade("throat"), 255))
        patches.append((self.on_head(_ellipse(throat, (0.55, 0.4))), shade("throat"), 255))
        if species.family == "owl":
            face = _rgb(np.array(shade("head")) * 0.6 + np.array((244, 236, 220)) * 0.4)
            patches += [(self.on_head(_ellipse((x, 0.02), (0.46, 0.52))), face, 255) for x in (-0.2, 0.58)]
        # Round in the light: brighter along the back, darker underneath.
        patches += [(self.band(0, 5, -1.2, edge), (20, 16, 30), 22) for edge in (-0.55, -0.75)]
        patches += [(self.band(0, 4.6, edge, 1.2), (255, 255, 250), 20) for edge in (0.5, 0.72)]
        points = {
            "back": self.at(1.7, 0.84), "belly": self.at(1.35, -0.76), "breast": self.at(2.5, -0.66),
            "nape": self.at(3.9, 0.72), "throat": self.on_head(throat), "crown": self.on_head((-0.1, 0.74)),
            "forehead": self.on_head((0.66, 0.56)),
        }  # fmt: skip
        return Layer([sides, head], shade("back"), patches, {name: point[0] for name, point in points.items()})

    def _breast_pattern(self) -> list:
        kind, colour = self.species.pattern("breast"), self.markings("breast")
        if kind == "solid":
            return []
        if kind == "barred":
            return [(self.band(t, t + 0.15, -1.2, -0.05), colour, 255) for t in np.arange(0.7, 3.2, 0.36)]
        along, across = np.meshgrid(np.arange(0.8, 3.3, 0.36), (-0.2, -0.5, -0.8))
        along = along + 0.18 * (across == -0.5)
        centres = self.at(along.ravel(), across.ravel())
        return [(_ellipse(centre, (0.034, 0.034), 10), colour, 255) for centre in centres]

    def wing(self, name: str, angle: float | None, *, raised: bool) -> Layer:
        length, depth, pointed = self.family.wing
        root = self.at(2.45, 0.2)[0]
        if raised:
            length, depth = 1.05 * length, 1.55 * depth
            scallops = [(u, v) for k in range(6) for u, v in ((0.98 - 0.15 * k, -0.42), (0.93 - 0.15 * k, -0.27))]
            outline = np.array([(-0.04, -0.1), (0, 0.3), (0.35, 0.42), (0.75, 0.3), (1.02, -0.02), *scallops])
        else:
            rump = self.at(0.1, 0.25)[0]
            angle = np.degrees(np.arctan2(*(rump - root)[::-1])) + self.rng.uniform(-4, 4)
            outline = np.array([
                (-0.06, -0.1), (-0.04, 0.3), (0.15, 0.48), (0.5, 0.4), (0.85, 0.14), (1, 0.02), (1, -0.02),
                (0.74, -0.3), (0.45, -0.48), (0.12, -0.44),
            ])  # fmt: skip
        outline[:, 1] *= 1 - 0.55 * pointed * np.clip(outline[:, 0], 0, 1) ** 2

        def place(points):
            # v > 0 is the edge towards the back of a folded wing, the leading edge of a raised one.
            return root + _turned(np.atleast_2d(points) * (length, -depth), np.radians(angle))

        colour, marking = self.shade("wing"), self.markings("wing")
        patches = [(place([(0.42, -1), (1.2, -1), (1.2, 0.12), (0.5, 0.05)]), _darker(colour, 0.84), 255)]
        feathers = [(0.36 + 0.13 * k, -0.02 - 0.02 * k) for k in range(5)]
        lines = [_stroke(place([(u, v), (u + 0.2, v - 0.5)]), 0.012) for u, v in feathers]
        patches += [(line, _darker(colour, 0.6), 150) for line in lines]
        if self.species.pattern("wing") == "barred":
            for u in (0.2, 0.46, 0.72):
                patches.append((place([(u, 0.6), (u + 0.1, 0.6), (u + 0.02, -0.7), (u - 0.08, -0.7)]), marking, 255))
        elif self.species.pattern("wing") == "spotted":
            for u, v in ((0.1, 0.2), (0.12, -0.2), (0.32, 0.26), (0.32, -0.05), (0.34, -0.34), (0.54, 0.16),
                         (0.56, -0.18), (0.76, 0.05), (0.78, -0.2)):  # fmt: skip
                patches.append((_ellipse(place((u, v))[0], (0.04, 0.04), 10), marking, 255))
        patches += [(_stroke(place(_smooth(outline)), 0.016), _darker(colour, 0.62), 200)]
        if name == "far wing":
            patches.append((place([(-1, -2), (2, -2), (2, 2), (-1, 2)]), (20, 16, 40), 60))
        return Layer([place(_smooth(outline))], colour, patches, {name: place((0.42, 0.05))[0]})

    def tail(self) -> Layer:
        kind, length, width, direction, _ = self.family.tail
        root = self.at(0.25, 0)[0]
        angle = np.radians(180 - direction + self.rng.uniform(-7, 7))

        def place(points):
            return root + _turned(np.atleast_2d(points) * (length, width), angle)

        colour, marking = self.shade("tail"), self.markings("tail")
        patches = [(_stroke(place([(0.1, v / 3), (0.95, v)]), 0.012), _darker(colour, 0.62), 170) for v in (-0.3, 0, 0.3)]
        if self.species.pattern("tail") == "barred":
            bars = (place([(u, -1), (u, 1), (u + 0.12, 1), (u + 0.12, -1)]) for u in (0.3, 0.56, 0.82))
            patches += [(bar, marking, 255) for bar in bars]
        return Layer([place(_smooth(_TAILS[kind], 2))], colour, patches, {"tail": place(_TAIL_POINTS.get(kind, (0.6, 0)))[0]})

    def leg(self, name: str, shift: float) -> tuple[Layer, np.ndarray]:
        """A leg and its foot; half of it lies under the body for birds of short legs."""
        hip = self.at(1.45, -0.7)[0] + (shift, 0)
        length = self.family.leg[0]
        ankle = hip + (0.0, -length * 0.92 - 0.06)
        knee = hip + (-0.05 * length, -0.5 * length)
        width = 0.034 if length < 0.5 else 0.028
        toes = [_stroke(np.array([ankle, ankle + (dx, -0.02)]), width) for dx in (0.11, 0.06, -0.06)]
        shank = _stroke(np.array([hip, knee, ankle]), width)
        colour = self.shade("leg") if name == "near leg" else _darker(self.shade("leg"), 0.8)
        return Layer([shank, *toes], colour, [], {name: hip + (0, -0.8 * length - 0.03)}), ankle

    def beak(self) -> list[Layer]:
        kind, length, depth, _ = self.family.beak
        radius = self.spine[5, 2]
        frontal = self.species.family == "owl"
        base = np.array((0.19, -0.02) if frontal else (0.86, -0.08))
        shape = np.array(_HOOK if frontal else _BEAKS[kind]) * (length, depth) / radius
        outline = self.on_head(base + shape)
        colour = self.shade("beak")
        gape = [] if frontal else [(_stroke(self.on_head(base + np.array([(0, -.02), (.85, -.1)]) * (length, depth) / radius), 0.014), _darker(colour, 0.6), 255)]
        middle = base + np.array((0.1, -0.55) if frontal else (0.45, -0.02)) * (length, depth) / radius
        return [Layer([outline], colour, gape, {"beak": self.on_head(middle)[0]})]

    def crest(self) -> list[Layer]:
        if not self.species.crest:
            return []
        if self.species.family == "owl":
            tufts = [[(x - 0.28, 0.7), (x + 0.1 * np.sign(x), 1.55), (x + 0.28, 0.7)] for x in (-0.45, 0.6)]
            return [Layer([self.on_head(tuft) for tuft in tufts], _darker(self.shade("crown"), 0.85))]
        feathers = [(0.6, 0.6), (0.15, 1.3), (-0.5, 1.75), (-0.35, 1.3), (-1.05, 1.5), (-0.7, 1.05), (-1.35, 0.95), (-0.8, 0.3)]
        return [Layer([self.on_head(feathers)], self.shade("crown"))]

    def eyes(self) -> list[Layer]:
        if self.species.family == "owl":
            return [*self._eye("far eye", (0.55, 0.12), 0.24), *self._eye("near eye", (-0.17, 0.12), 0.24)]
        return self._eye("near eye", (0.34, 0.2), min(0.042 / self.spine[5, 2], 0.3))

    def _eye(self, name: str, centre: tuple[float, float], radius: float) -> list[Layer]:
        iris = self.species.colour("eye")
        ring = self.species.eye_ring
        rim = COLOURS[ring] if ring else (_darker(self.shade("head"), 0.7) if iris != "black" else (206, 200, 190))
        place = lambda shift, size: self.on_head(_ellipse(np.add(centre, shift), (size, size), 14))  # noqa: E731
        rim_size = radius * (1.75 if ring else 1.3)
        patches = [(place(0, radius), COLOURS[iris], 255), (place(0, radius * 0.62), (22, 18, 22), 255),
                   (place((0.3 * radius, 0.4 * radius), radius * 0.28), (255, 255, 255), 255)]  # fmt: skip
        return [Layer([place(0, rim_size)], rim, patches, {name: self.on_head(centre)[0]})]


# Shapes in frames of their own: beaks from the base at x = 0 to the tip at x = 1; tails from the rump to the tip.
_HOOK = [(-.5, .1), (.5, .1), (.35, -.7), (.0, -1.3), (-.35, -.7)]
_BEAKS = {
    "cone": [(-.1, .55), (.45, .3), (1, -.12), (.4, -.4), (-.1, -.5)],
    "dagger": [(-.2, .5), (.4, .28), (1, -.08), (.4, -.4), (-.2, -.5)],
    "spatulate": [(-.2, .55), (.3, .1), (.75, .12), (1, .02), (1.02, -.3), (.7, -.45), (.3, -.42), (-.2, -.5)],
    "hooked": [(-.3, .5), (.35, .48), (.8, .15), (1, -.3), (.9, -.75), (.68, -.35), (.4, -.35), (.1, -.6), (-.3, -.5)],
    "hooked_seabird": [(-.2, .45), (.7, .3), (.98, .05), (1, -.5), (.85, -.22), (.6, -.5), (-.2, -.45)],
    "all-purpose": [(-.4, .5), (1, -.1), (-.4, -.5)],
}  # fmt: skip
_TAILS = {
    "rounded_tail": [(-.5, .3), (.5, .48), (1, .32), (1, -.32), (.5, -.48), (-.5, -.3)],
    "squared_tail": [(-.5, .35), (1, .5), (1, .5), (1, -.5), (1, -.5), (-.5, -.35)],
    "notched_tail": [(-.2, .3), (1, .5), (1, .46), (.84, 0), (1, -.46), (1, -.5), (-.2, -.3)],
    "forked_tail": [(-.1, .12), (.4, .3), (1, .5), (1, .46), (.42, .02), (1, -.46), (1, -.5), (.4, -.3), (-.1, -.12)],
    "pointed_tail": [(-.2, .4), (.5, .4), (1, .05), (1, -.05), (.5, -.4), (-.2, -.4)],
    "fan-shaped_tail": [(-.7, .28), (.8, .62), (1, .4), (1.05, 0), (1, -.4), (.8, -.62), (-.7, -.28)],
}  # fmt: skip
_TAIL_POINTS = {"forked_tail": (0.38, 0.12)}


def _ellipse(centre, radii, corners: int = 24) -> np.ndarray:
    return np.asarray(centre) + _circle(corners) * np.asarray(radii)


@lru_cache
def _circle(corners: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@lru_cache
def _spline(along: tuple[float, ...]) -> np.ndarray:
    """Weights (N, 6) of the Catmull–Rom curve through six control points at positions 0 to 5; the ends run on."""
    along = np.array(along)
    start = np.clip(np.floor(along), 0, 4).astype(int)
    u = (along - start)[:, None]
    basis = np.hstack([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, -(u**2) + u**3]) / 2
    weights = np.zeros((len(along), 6))
    for k in range(4):
        np.add.at(weights, (np.arange(len(along)), np.clip(start - 1 + k, 0, 5)), basis[:, k])
    return weights


def _smooth(corners, rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting of a closed polygon; a corner given twice stays sharper."""
    points = np.asarray(corners, dtype=float)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return points


def _stroke(points: np.ndarray, width: float) -> np.ndarray:
    """The polygon of a line of the given width through `points`."""
    direction = np.gradient(points, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    side = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * width / 2
    return np.concatenate([points + side, (points - side)[::-1]])


def _turned(points, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _rgb(values) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(np.round(values), 0, 255))


def _darker(colour, factor: float) -> tuple[int, int, int]:
    return _rgb(np.multiply(colour, factor))

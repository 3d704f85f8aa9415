"""Draws one picture: a bird of `meru.data.synthetic.birds.anatomy` in a scene, with its box and its visible parts.

While the layers are painted, a second image keeps the number of the layer visible at each pixel, from which the box and
the hidden parts follow. Background, perch, occluders and light do not depend on the species.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from meru.data.synthetic.birds.anatomy import Bird, Layer
from meru.data.synthetic.birds.shapes import rgb, turned
from meru.data.synthetic.birds.species import COLOURS, CUB_PARTS, Species

_SUPERSAMPLING = 2
_IN_FRONT = 255  # in the image of layer numbers

# The kinds of scene, with words for them.
_SCENES = {
    "branch": ("on a branch", "on a twig", "in a tree"),
    "grass": ("on the grass", "in a meadow", "on a green lawn"),
    "rock": ("on a rock", "on a stone", "on a grey boulder"),
    "sand": ("on the sand", "on a beach", "on sandy ground"),
    "sky": ("in the sky", "in flight", "in the air"),
    "water": ("on the water", "in shallow water", "over water"),
}
_SKIES = ((150, 196, 236), (196, 214, 228), (238, 200, 164), (206, 196, 226), (120, 168, 214), (226, 226, 222))
_FOLIAGE = ((62, 104, 56), (108, 142, 72), (150, 158, 92), (92, 84, 60), (172, 128, 70), (70, 96, 92))
_GROUNDS = {
    "grass": ((92, 140, 66), (132, 158, 84), (166, 160, 92)),
    "sand": ((222, 200, 156), (200, 176, 136), (232, 218, 190)),
    "water": ((94, 146, 176), (70, 118, 140), (140, 170, 176)),
}


class Picture(NamedTuple):
    """An image and its annotations.

    Args:
        box: x, y, width, height of the bird, in pixels.
        parts: Visible ones only, CUB's name → (x, y) in pixels.
        scene: In words, such as "on a branch".
        facing: "left" or "right" as seen by the viewer.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    parts: dict[str, tuple[float, float]]
    scene: str
    facing: str
    wings_raised: bool


def draw_picture(species: Species, *, rng: np.random.Generator, image_size: int) -> Picture:
    """Draw one individual of `species`; the same state of `rng` gives the same picture."""
    kind = str(rng.choice(list(_SCENES)))
    flying = kind == "sky"
    perch = None if flying else rng.uniform((0.42, 0.68), (0.58, 0.84))
    facing = str(rng.choice(["left", "right"]))
    wings_raised = flying or rng.random() < 0.2
    scene = str(rng.choice(_SCENES[kind]))

    size = image_size * _SUPERSAMPLING
    canvas = _background(kind, image_size, rng).resize((size, size), Image.Resampling.BILINEAR)
    _draw_perch(canvas, kind, perch, rng)
    bird = Bird(species=species, wings_raised=wings_raised, flying=flying, rng=rng)
    layers, feet = bird.layers()
    place = _placement(layers, feet, perch, facing, size, rng)
    numbers = Image.new("L", canvas.size)
    for number, layer in enumerate(layers, start=1):
        _paint(canvas, numbers, layer, place, number)
    left, top, right, bottom = (edge / _SUPERSAMPLING for edge in numbers.getbbox())
    if rng.random() < 0.25:
        _draw_in_front(canvas, numbers, rng)

    parts = {}
    for number, layer in enumerate(layers, start=1):
        for name, point in layer.points.items():
            x, y = place(point)
            if numbers.getpixel((int(x), int(y))) == number:
                parts[_sided(name, facing)] = (x / _SUPERSAMPLING, y / _SUPERSAMPLING)
    parts = {name: parts[name] for name in CUB_PARTS if name in parts}
    image = _lit(canvas.reduce(_SUPERSAMPLING), rng)
    return Picture(image, (left, top, right - left, bottom - top), parts, scene, facing, wings_raised)


def _sided(name: str, facing: str) -> str:
    """ "near" and "far" as the bird's own left and right: if it faces right, its right side is near."""
    return name.replace("near", facing).replace("far", "left" if facing == "right" else "right")


def _placement(
    layers: list[Layer], feet: np.ndarray, perch: np.ndarray | None, facing: str, size: int, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """The map from the bird's frame to pixels: at a random size that fits, with the feet on a perch if there is one."""
    tilt = turned(np.diag((1 if facing == "right" else -1, -1)), rng.uniform(-0.16, 0.16))
    corners = np.concatenate([outline for layer in layers for outline in layer.outlines]) @ tilt
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.03 * size
    scale = rng.uniform(0.62, 0.88) * size / (high - low).max()
    if perch is None:
        offset = margin + rng.random(2) * (size - 2 * margin - scale * (high - low)) - scale * low
    else:
        anchor, spot = feet @ tilt, perch * size
        scale = min(scale, *(spot - margin) / (anchor - low), *(size - margin - spot) / (high - anchor))
        offset = spot - scale * anchor
    return lambda points: scale * (points @ tilt) + offset


def _paint(canvas: Image.Image, numbers: Image.Image, layer: Layer, place: Callable, number: int) -> None:
    outlines = [place(outline) for outline in layer.outlines]
    corner = np.floor(np.min([outline.min(axis=0) for outline in outlines], axis=0)).astype(int)
    width, height = (np.max([outline.max(axis=0) for outline in outlines], axis=0) - corner).astype(int) + 1
    sheet, mask = Image.new("RGB", (width, height), layer.colour), Image.new("L", (width, height))
    draw_sheet, draw_mask = ImageDraw.Draw(sheet, "RGBA"), ImageDraw.Draw(mask)
    for outline in outlines:
        draw_mask.polygon(_corners(outline - corner), fill=255)
    for patch, colour, opacity in layer.patches:
        draw_sheet.polygon(_corners(place(patch) - corner), fill=(*colour, opacity))
    canvas.paste(sheet, tuple(corner.tolist()), mask)
    numbers.paste(number, (*corner.tolist(), *(corner + sheet.size).tolist()), mask)


def _background(kind: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Sky or foliage, the ground, and spots in the colours of birds, all out of focus."""
    wooded = kind == "branch" or (kind == "rock" and rng.random() < 0.5)
    palette = _FOLIAGE if wooded else _SKIES
    top, bottom, blend = _any(palette, rng), _any(palette, rng), np.linspace(0, 1, size)[:, None, None]
    pixels = np.clip(np.broadcast_to(top * (1 - blend) + bottom * blend, (size, size, 3)), 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")

    def blob(colour, reach: float, lowest: float = 1.0):
        x, y = rng.uniform(0, (size, lowest * size))
        width, height = rng.uniform(0.3, 1, 2) * reach * size
        draw.ellipse((x - width, y - height, x + width, y + height), fill=(*rgb(colour), int(rng.integers(130, 256))))

    for _ in range(rng.integers(10, 18) if wooded else 0):
        blob(_any(_FOLIAGE, rng), reach=0.22)
    for _ in range(0 if wooded else rng.integers(0, 6)):
        blob((245, 245, 245), reach=0.22, lowest=0.5)
    if kind in _GROUNDS:
        ground, horizon = _any(_GROUNDS[kind], rng), rng.uniform(0.3, 0.62) * size
        for step in range(8):
            y = horizon + (size - horizon) * step / 8
            draw.rectangle((0, y, size, size), fill=rgb(ground * (1 - 0.035 * step) + rng.normal(0, 5, 3)))
        height = (0.07 if kind == "grass" else 0.02) * size
        for _ in range(rng.integers(6, 14)):
            x, y, width = rng.uniform((0, horizon, 0.05 * size), (size, size, 0.3 * size))
            draw.ellipse((x, y, x + width, y + height), fill=(*rgb(ground + rng.normal(0, 26)), 150))
    for _ in range(rng.integers(1, 6)):
        blob(_any_colour(rng), reach=0.07)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.008, 0.03) * size))


def _draw_perch(canvas: Image.Image, kind: str, perch: np.ndarray | None, rng: np.random.Generator) -> None:
    """Draw the perch under the feet, and loose leaves in any colour."""
    size, draw = canvas.width, ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 3)):
        draw.polygon(_leaf(rng.uniform(0, size, 2), rng.uniform(0.06, 0.14) * size, rng), fill=_any_colour(rng))
    if perch is None:
        return
    x, y = perch * size
    if kind == "branch":
        slope, thickness = rng.uniform(-0.14, 0.14), rng.uniform(0.03, 0.06) * size
        wood = np.array((104, 76, 52)) + rng.normal(0, 18)
        for depth, share, light in ((0.5, 0.7, 0.8), (0.35, 0.9, 1.0), (0.2, 0.5, 1.2)):
            ends = [(end, y + slope * (end - x) + depth * thickness) for end in (-0.1 * size, 1.1 * size)]
            draw.line(ends, fill=rgb(light * wood), width=max(1, round(share * thickness)))
        for root in rng.uniform(0, size, rng.integers(1, 5)):
            leaf = _leaf((root, y + slope * (root - x)), rng.uniform(0.07, 0.13) * size, rng)
            draw.polygon(leaf, fill=rgb(_any(_FOLIAGE, rng)))
    elif kind == "rock":
        stone, width = np.array((136, 130, 124)) + rng.normal(0, 18), rng.uniform(0.32, 0.5) * size
        top = y - 0.02 * size
        draw.ellipse((x - width, top, x + width, y + 0.7 * size), fill=rgb(0.82 * stone))
        draw.ellipse((x - 0.9 * width, top, x + 0.75 * width, y + 0.5 * size), fill=rgb(stone))
    elif kind == "water":
        for width, height in ((0.16, 0.02), (0.26, 0.032), (0.36, 0.044)):
            reach = np.array((width, height)) * size
            draw.ellipse((*(perch * size - reach), *(perch * size + reach)), outline=(206, 222, 228))
    elif kind == "grass":
        for _ in range(24):
            root = rng.uniform((0, y - 0.02 * size), (size, y + 0.2 * size))
            blade = rng.uniform((-0.02, -0.08), (0.02, -0.03)) * size
            draw.line((*root, *(root + blade)), fill=rgb(0.85 * _any(_GROUNDS["grass"], rng)), width=2)
    else:
        for _ in range(12):
            left, top = rng.uniform((0, y), (size, y + 0.2 * size))
            pebble = rng.uniform(0.012, 0.032) * size
            draw.ellipse((left, top, left + pebble, top + pebble / 2), fill=rgb(0.8 * _any(_GROUNDS["sand"], rng)))


def _draw_in_front(canvas: Image.Image, numbers: Image.Image, rng: np.random.Generator) -> None:
    """Draw a leaf or a twig in front of the bird."""
    size = canvas.width
    if rng.random() < 0.5:
        leaf = _leaf(rng.uniform(0.25, 0.75, 2) * size, rng.uniform(0.12, 0.2) * size, rng)
        ImageDraw.Draw(canvas).polygon(leaf, fill=rgb(_any(_FOLIAGE, rng)))
        ImageDraw.Draw(numbers).polygon(leaf, fill=_IN_FRONT)
    else:
        above, below = rng.uniform(0, size, 2)
        twig, width = (above, -2, below, size + 2), max(2, round(rng.uniform(0.012, 0.022) * size))
        ImageDraw.Draw(canvas).line(twig, fill=rgb(np.array((96, 72, 52)) + rng.normal(0, 14)), width=width)
        ImageDraw.Draw(numbers).line(twig, fill=_IN_FRONT, width=width)


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with random contrast, exposure, tint, sensor noise and, at times, blur."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7) * image.width / 96))
    contrast, light = rng.uniform(0.85, 1.12), rng.uniform(0.86, 1.12) * rng.normal(1, 0.025, 3)
    noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32)
    pixels = (np.asarray(image, dtype=np.float32) - 128) * np.float32(contrast) + 128
    pixels = pixels * light.astype(np.float32) + noise * np.float32(rng.uniform(1, 5))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _leaf(root, length: float, rng: np.random.Generator) -> list[float]:
    along, width = np.linspace(0, 1, 9), rng.uniform(0.18, 0.3)
    edge = np.stack([along, width * np.sin(np.pi * along)], axis=1)
    outline = np.concatenate([edge, edge[::-1] * (1, -1)])
    return _corners(turned(length * outline, rng.uniform(0, 2 * np.pi)) + root)


def _corners(polygon: np.ndarray) -> list[float]:
    """The flat list of coordinates that Pillow takes."""
    return polygon.ravel().tolist()


def _any(palette, rng: np.random.Generator) -> np.ndarray:
    """A random colour of the palette, in a random shade."""
    return np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 10) + rng.normal(0, 6, 3)


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour that a bird could have."""
    return rgb(_any(list(COLOURS.values()), rng))

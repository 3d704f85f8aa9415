"""What is around a drawn bird: background, perch, things in front, light. Nothing here knows the species."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from meru.data.bird_species import COLOURS


class Scene(NamedTuple):
    """`perch` is where the feet go, (x, y) as shares of the picture, or None for a bird in the air."""

    kind: str
    words: str
    perch: tuple[float, float] | None
    horizon: float


_WORDS = {
    "branch": ("on a branch", "on a twig", "in a tree"),
    "grass": ("on the grass", "in a meadow", "on a green lawn"),
    "sand": ("on the sand", "on a beach", "on sandy ground"),
    "water": ("on the water", "in shallow water", "over water"),
    "rock": ("on a rock", "on a stone", "on top of a boulder"),
    "sky": ("in the sky", "in flight", "in the air"),
}
_SKIES = ((150, 196, 236), (196, 214, 228), (238, 200, 164), (206, 196, 226), (120, 168, 214), (226, 226, 222))
_FOLIAGE = ((62, 104, 56), (108, 142, 72), (150, 158, 92), (92, 84, 60), (172, 128, 70), (70, 96, 92))
_GROUND = {
    "grass": ((92, 140, 66), (132, 158, 84), (166, 160, 92)),
    "sand": ((222, 200, 156), (200, 176, 136), (232, 218, 190)),
    "water": ((94, 146, 176), (70, 118, 140), (140, 170, 176)),
}


def random_scene(rng: np.random.Generator) -> Scene:
    kind = str(rng.choice(list(_WORDS)))
    words = str(rng.choice(_WORDS[kind]))
    perch = (float(rng.uniform(0.42, 0.58)), float(rng.uniform(0.68, 0.84)))
    return Scene(kind, words, None if kind == "sky" else perch, float(rng.uniform(0.3, 0.62)))


def draw_background(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """The scene out of focus, `size` pixels a side."""
    wooded = scene.kind == "branch" or (scene.kind == "rock" and rng.random() < 0.5)
    top, bottom = _pick(_FOLIAGE if wooded else _SKIES, rng), _pick(_FOLIAGE if wooded else _SKIES, rng)
    blend = np.linspace(0, 1, size)[:, None, None]
    pixels = np.broadcast_to(top * (1 - blend) + bottom * blend, (size, size, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.integers(10, 18) if wooded else rng.integers(0, 6)):
        _blob(draw, size, _pick(_FOLIAGE, rng) if wooded else np.full(3, 245), rng, reach=0.22, top_only=not wooded)
    if scene.kind in _GROUND:
        ground, horizon = _pick(_GROUND[scene.kind], rng), scene.horizon * size
        for k in range(8):
            y = horizon + (size - horizon) * k / 8
            draw.rectangle((0, y, size, size), fill=_bytes(ground * (1 - 0.035 * k) + rng.normal(0, 5, 3)))
        for _ in range(rng.integers(6, 14)):
            x, y, width = rng.uniform(0, size), rng.uniform(horizon, size), rng.uniform(0.05, 0.3) * size
            height = 0.02 * size if scene.kind != "grass" else 0.07 * size
            draw.ellipse((x, y, x + width, y + height), fill=(*_bytes(ground + rng.normal(0, 26)), 150))
    # Flowers, leaves, far lights: they have the colours of birds but not their shape.
    for _ in range(rng.integers(1, 6)):
        _blob(draw, size, np.array(_any_colour(rng)), rng, reach=0.07)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.008, 0.03)) * size))


def draw_perch(canvas: Image.Image, scene: Scene, rng: np.random.Generator) -> None:
    """What the feet stand on, and a few sharp twigs and leaves behind the bird."""
    size = canvas.width
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 3)):
        _leaf(draw, rng.uniform(0, size, 2), rng.uniform(0.06, 0.14) * size, _any_colour(rng), rng)
    if scene.perch is None:
        return
    x, y = np.array(scene.perch) * size
    if scene.kind == "branch":
        slope, thickness = rng.uniform(-0.14, 0.14), rng.uniform(0.03, 0.06) * size
        wood = np.array((104, 76, 52)) + rng.normal(0, 18)
        ends = [(-0.1 * size, y - slope * (x + 0.1 * size)), (1.1 * size, y + slope * (1.1 * size - x))]
        for shift, colour in ((0.5, wood * 0.8), (0.35, wood), (0.2, wood * 1.2)):
            line = [(px, py + shift * thickness) for px, py in ends]
            draw.line(line, fill=_bytes(colour), width=max(1, round(thickness * (2 - 2 * shift) * 0.7)))
        for _ in range(rng.integers(1, 5)):
            px = rng.uniform(0, size)
            _leaf(draw, (px, y + slope * (px - x)), rng.uniform(0.07, 0.13) * size, _bytes(_pick(_FOLIAGE, rng)), rng)
    elif scene.kind == "rock":
        stone = np.array((136, 130, 124)) + rng.normal(0, 18)
        width = rng.uniform(0.32, 0.5) * size
        draw.ellipse((x - width, y - 0.02 * size, x + width, y + 0.7 * size), fill=_bytes(stone * 0.82))
        draw.ellipse((x - 0.9 * width, y - 0.02 * size, x + 0.75 * width, y + 0.5 * size), fill=_bytes(stone))
    elif scene.kind == "water":
        for k in range(3):
            width, height = (0.16 + 0.1 * k) * size, (0.02 + 0.012 * k) * size
            draw.arc((x - width, y - height, x + width, y + height), 0, 360, fill=(206, 222, 228), width=1)
    elif scene.kind == "grass":
        for _ in range(24):
            px, py = rng.uniform(0, size), y + rng.uniform(-0.02, 0.2) * size
            tip = (px + rng.uniform(-0.02, 0.02) * size, py - rng.uniform(0.03, 0.08) * size)
            draw.line([(px, py), tip], fill=_bytes(_pick(_GROUND["grass"], rng) * 0.85), width=2)
    else:
        for _ in range(12):
            px, py = rng.uniform(0, size), y + rng.uniform(0, 0.2) * size
            radius = rng.uniform(0.006, 0.016) * size
            draw.ellipse((px, py, px + 2 * radius, py + radius), fill=_bytes(_pick(_GROUND["sand"], rng) * 0.8))


def draw_occluder(canvas: Image.Image, numbers: Image.Image, number: int, rng: np.random.Generator) -> None:
    """A leaf or a twig before the bird, written into `numbers` as well."""
    size = canvas.width
    if rng.random() < 0.5:
        where = rng.uniform(0.25, 0.75, 2) * size
        length, colour = rng.uniform(0.12, 0.2) * size, _bytes(_pick(_FOLIAGE, rng))
        state = rng.bit_generator.state
        _leaf(ImageDraw.Draw(canvas), where, length, colour, rng)
        rng.bit_generator.state = state
        _leaf(ImageDraw.Draw(numbers), where, length, number, rng)
    else:
        ends = [(rng.uniform(0, size), -2), (rng.uniform(0, size), size + 2)]
        width = max(2, round(rng.uniform(0.012, 0.022) * size))
        ImageDraw.Draw(canvas).line(ends, fill=_bytes(np.array((96, 72, 52)) + rng.normal(0, 14)), width=width)
        ImageDraw.Draw(numbers).line(ends, fill=number, width=width)


def add_light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Exposure, tint, contrast, a soft lens at times, and the noise of a sensor."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7)) * image.width / 96))
    pixels = np.asarray(image, dtype=np.float32)
    contrast, exposure = rng.uniform(0.85, 1.12), rng.uniform(0.86, 1.12)
    tint = rng.normal(1, 0.025, 3)
    pixels = ((pixels - 128) * contrast + 128) * (exposure * tint).astype(np.float32)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 5))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _blob(draw, size, colour, rng, *, reach: float, top_only: bool = False) -> None:
    x, y = rng.uniform(0, size), rng.uniform(0, size * (0.5 if top_only else 1))
    width, height = rng.uniform(0.3, 1, 2) * reach * size
    draw.ellipse((x - width, y - height, x + width, y + height), fill=(*_bytes(colour), int(rng.integers(130, 256))))


def _leaf(draw, where, length: float, fill, rng) -> None:
    angle, slim = rng.uniform(0, 2 * np.pi), rng.uniform(0.18, 0.3)
    u = np.linspace(0, 1, 9)
    upper = np.stack([u, slim * np.sin(np.pi * u)], axis=1)
    outline = np.concatenate([upper, upper[::-1] * (1, -1)]) * length
    cosine, sine = np.cos(angle), np.sin(angle)
    points = outline @ np.array([[cosine, sine], [-sine, cosine]]) + np.asarray(where)
    draw.polygon(points.ravel().tolist(), fill=fill)


def _pick(palette, rng) -> np.ndarray:
    """One of the palette, in a shade of its own."""
    return np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 10) + rng.normal(0, 6, 3)


def _any_colour(rng) -> tuple[int, int, int]:
    return _bytes(_pick(list(COLOURS.values()), rng))


def _bytes(colour) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(np.round(colour), 0, 255))

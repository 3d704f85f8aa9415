"""Draws one picture: a person of `meru.data.synthetic.pedestrians.figure` in a street, and the visible regions.

While the layers are painted, a second image keeps the region visible at each pixel, which decides what captions may
mention. Street, occluders and light do not depend on the look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from meru.data.synthetic.pedestrians.figure import VIEWS, Figure
from meru.data.synthetic.pedestrians.head import FRAME
from meru.data.synthetic.pedestrians.looks import COLOURS, Look, second_colour
from meru.data.synthetic.pedestrians.shapes import REGIONS, Layer

WIDTH, HEIGHT = 64, 128
_SUPERSAMPLING = 2
_MARGIN = 32  # around the picture, for shapes that extend beyond it
_IN_FRONT = 255  # in the image of regions
# The smallest area of a region that can be recognised, in pixels of the file at the usual size of a person.
_LEAST_AREA = {"hair": 12, "glasses": 12, "hat": 16, "upper": 120, "lower": 90, "shoes": 14, "bag": 24}
_LEAST_SHARE = 0.45  # of the area that would be visible without occlusion

_WALLS = ((168, 156, 140), (120, 112, 108), (196, 188, 176), (148, 104, 84), (98, 104, 112), (176, 180, 186))
_GROUNDS = ((136, 134, 132), (106, 108, 112), (172, 166, 156), (150, 140, 130))
_LEAVES = ((62, 96, 52), (88, 122, 60), (112, 128, 76), (48, 76, 50))


class Picture(NamedTuple):
    """An image and its contents.

    Args:
        visible: Those of `REGIONS` that can be recognised.
        view: front, back or side.
        walking: Whether the person is walking or standing.
        head: Left, top, width and height of the head's box, pixels; it may reach beyond the image.
    """

    image: Image.Image
    visible: frozenset[str]
    view: str
    walking: bool
    head: tuple[float, float, float, float]


def draw_picture(look: Look, *, view: str | None = None, rng: np.random.Generator) -> Picture:
    """Draw one picture of a person, in `view` or a random one; the same state of `rng` gives the same picture."""
    view = view or str(rng.choice(VIEWS))
    walking = bool(rng.random() < 0.65)
    figure = Figure(look, view=view, walking=walking, rng=rng)
    size = np.array((WIDTH, HEIGHT)) * _SUPERSAMPLING
    canvas = Image.new("RGB", tuple((size + 2 * _MARGIN).tolist()))
    canvas.paste(_street(size, rng), (_MARGIN, _MARGIN))
    regions = Image.new("L", canvas.size)
    place, scale = _placement(look, size, rng)
    _paint_shadow(canvas, place, scale, rng)
    cloth = _cloth(look, canvas.size, place(np.zeros(2)), scale)
    light = 3 if rng.random() < 0.5 else -3
    for layer in figure.layers:
        _paint(canvas, regions, layer, place, cloth, light)
    whole = np.bincount(np.asarray(regions).ravel(), minlength=256)
    frame = (_MARGIN, _MARGIN, *(size + _MARGIN).tolist())
    canvas, regions = canvas.crop(frame), regions.crop(frame)
    if rng.random() < 0.3:
        _draw_in_front(canvas, regions, rng)
    seen = np.bincount(np.asarray(regions).ravel(), minlength=256)
    size_factor = (_SUPERSAMPLING * scale / (0.86 * size[1])) ** 2
    visible = frozenset(
        region
        for number, region in enumerate(REGIONS, start=1)
        if region in _LEAST_AREA
        and seen[number] >= max(_LEAST_AREA[region] * size_factor, _LEAST_SHARE * whole[number])
    )
    return Picture(_lit(canvas.reduce(_SUPERSAMPLING), rng), visible, view, walking, _head_box(place))


def _placement(look: Look, size: np.ndarray, rng: np.random.Generator) -> tuple[Callable, float]:
    """The map from the figure's frame to pixels of the canvas, and pixels per unit."""
    width, height = size
    scale = height * rng.uniform(0.76, 0.9) * (1.0 if look.gender == "man" else 0.97)
    top = rng.uniform(0.02, 0.06) * scale + rng.uniform(0, 1) * (0.96 * height - scale)
    offset = np.array((width * rng.uniform(0.42, 0.58), top)) + _MARGIN
    lean, breadth = rng.normal(0, 0.02), rng.uniform(0.96, 1.1) * (1 if rng.random() < 0.5 else -1)
    shape = scale * np.array([[breadth, 0.0], [lean, 1.0]])
    return lambda points: points @ shape + offset, scale


def _head_box(place: Callable) -> tuple[float, float, float, float]:
    """The box of the head in pixels of the file: left, top, width and height."""
    (left, top), (right, bottom) = FRAME
    corners = place(np.array([(left, top), (right, top), (left, bottom), (right, bottom)]))
    corners = (corners - _MARGIN) / _SUPERSAMPLING
    low, high = corners.min(axis=0), corners.max(axis=0)
    return tuple(round(float(value), 1) for value in (*low, *(high - low)))


def _cloth(look: Look, size: tuple[int, int], origin: np.ndarray, scale: float) -> Image.Image:
    """The texture of the upper clothes, as large as the canvas; the pattern moves with the person."""
    first, second = (np.array(COLOURS[colour]) for colour in (look.upper_colour, second_colour(look.upper_colour)))
    x, y = np.meshgrid(*((np.arange(length) - start) / scale for length, start in zip(size, origin, strict=True)))
    if look.pattern == "striped":
        share = (y / 0.056 % 1 < 0.45).astype(float)
    elif look.pattern == "checked":
        share = ((x / 0.07 % 1 < 0.5) * 0.5 + (y / 0.07 % 1 < 0.5) * 0.5).astype(float)
    elif look.pattern == "dotted":
        row = np.floor(y / 0.05)
        across, along = (x / 0.058 + 0.5 * (row % 2)) % 1 - 0.5, y / 0.05 % 1 - 0.5
        share = (across**2 + along**2 < 0.3**2).astype(float)
    else:
        share = np.zeros_like(x)
    pixels = first + share[..., None] * (second - first)
    return Image.fromarray(pixels.astype(np.uint8))


def _paint(canvas, regions, layer: Layer, place: Callable, cloth: Image.Image, light: int) -> None:
    outlines = [place(outline) for outline in layer.outlines]
    points = np.concatenate(outlines)
    # Room around the shape, so that shifted content does not wrap around to the other side.
    corner = np.maximum(np.floor(points.min(axis=0)).astype(int) - 4, 0)
    width, height = (np.minimum(np.ceil(points.max(axis=0)).astype(int) + 5, canvas.size) - corner).tolist()
    if width <= 0 or height <= 0:
        return
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        draw.polygon((outline - corner).ravel().tolist(), fill=255)
    box = (*corner.tolist(), *np.add(corner, (width, height)).tolist())
    sheet = cloth.crop(box) if layer.patterned else Image.new("RGB", mask.size, _rgb(layer.colour))
    sheet = sheet.point(lambda value: round(value * layer.shade))
    # The side away from the light is darker: limbs stand out against clothes of the same colour.
    canvas.paste(sheet.point(lambda value: round(0.74 * value)), box, mask)
    canvas.paste(sheet, box, ImageChops.darker(mask, ImageChops.offset(mask, light, -1)))
    regions.paste(REGIONS.index(layer.region) + 1, box, mask)


def _paint_shadow(canvas: Image.Image, place: Callable, scale: float, rng: np.random.Generator) -> None:
    x, y = place(np.array((0.0, 0.985)))
    width, height = scale * rng.uniform(0.1, 0.18), scale * 0.018
    box = (x - width, y - height, x + width, y + height)
    ImageDraw.Draw(canvas, "RGBA").ellipse(box, fill=(20, 20, 24, int(rng.integers(70, 140))))


def _street(size: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Walls, windows, trees, parked cars and a pavement, out of focus."""
    width, height = size.tolist()
    horizon = height * rng.uniform(0.3, 0.66)
    image = Image.new("RGB", (width, height), _any(_WALLS, rng))
    draw = ImageDraw.Draw(image, "RGBA")
    left = -rng.uniform(0, 0.5) * width
    while left < width:
        right, top = left + rng.uniform(0.3, 0.8) * width, rng.uniform(-0.2, 0.4) * horizon
        wall = np.array(_any(_WALLS, rng))
        draw.rectangle((left, top, right, horizon), fill=_rgb(wall))
        pane, step, rise = _rgb(wall * rng.uniform(0.45, 0.8)), rng.uniform(16, 34), rng.uniform(24, 44)
        for x in np.arange(left + 6, right - 8, step):
            for y in np.arange(top + 8, horizon - 10, rise):
                draw.rectangle((x, y, x + 0.55 * step, y + 0.6 * rise), fill=pane)
        left = right
    for _ in range(rng.integers(0, 3)):
        x, y, reach = rng.uniform(0, width), rng.uniform(0, horizon), rng.uniform(10, 26)
        for _ in range(7):
            a, b = rng.normal((x, y), 0.5 * reach)
            draw.ellipse((a - reach, b - reach, a + reach, b + reach), fill=(*_any(_LEAVES, rng), 220))
    if rng.random() < 0.45:
        x, high, long = rng.uniform(-0.3, 0.9) * width, rng.uniform(18, 30), rng.uniform(50, 90)
        paint = _any_colour(rng)
        draw.rounded_rectangle((x, horizon - high, x + long, horizon + 4), radius=7, fill=paint)
        draw.rounded_rectangle((x + 0.2 * long, horizon - 1.6 * high, x + 0.8 * long, horizon - high + 4), radius=6,
                               fill=_rgb(0.6 * np.array(paint)))
    ground = np.array(_any(_GROUNDS, rng))
    draw.rectangle((0, horizon, width, height), fill=_rgb(ground))
    draw.rectangle((0, horizon, width, horizon + rng.uniform(2, 7)), fill=_rgb(ground * rng.uniform(0.7, 1.25)))
    kind, vanishing = rng.integers(3), rng.uniform(-1, 2) * width
    if kind == 0:  # slabs
        for x in np.linspace(-2 * width, 3 * width, 16):
            draw.line((vanishing, horizon - 40, x, height), fill=_rgb(ground * 0.86), width=1)
        for y in horizon + (height - horizon) * np.linspace(0.05, 1, 6) ** 1.6:
            draw.line((0, y, width, y), fill=_rgb(ground * 0.86), width=1)
    elif kind == 1:  # a zebra crossing
        for y in np.arange(horizon + 14, height, 24):
            draw.polygon([(0, y), (width, y + 3), (width, y + 13), (0, y + 10)], fill=(214, 214, 210, 190))
    for _ in range(rng.integers(0, 4)):
        x, y, wide = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 22)
        draw.rectangle((x, y, x + wide, y + rng.uniform(6, 26)), fill=(*_any_colour(rng), 200))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3.5)))


def _draw_in_front(canvas: Image.Image, regions: Image.Image, rng: np.random.Generator) -> None:
    """Draw a pole, a car or a bush in front of the person."""
    width, height = canvas.size
    draw, mark, kind = ImageDraw.Draw(canvas), ImageDraw.Draw(regions), rng.integers(3)
    if kind == 0:
        x, thick, grey = rng.uniform(0.1, 0.9) * width, rng.uniform(7, 15), rng.uniform(60, 150)
        pole = (x, -2, x + thick, height + 2)
        draw.rectangle(pole, fill=_rgb((grey, grey, grey + 6)))
        draw.rectangle((x + 0.65 * thick, -2, x + thick, height + 2), fill=_rgb((0.7 * grey,) * 3))
        mark.rectangle(pole, fill=_IN_FRONT)
    elif kind == 1:
        top, paint = height * rng.uniform(0.62, 0.86), _any_colour(rng)
        left = rng.uniform(-0.6, 0.6) * width
        for shape, box, fill in (
            ("body", (left, top, left + 1.2 * width, height + 30), paint),
            ("window", (left + 14, top + 7, left + 1.2 * width - 14, top + 24), (58, 66, 76)),
        ):
            draw.rounded_rectangle(box, radius=16 if shape == "body" else 6, fill=_rgb(fill))
            mark.rounded_rectangle(box, radius=16 if shape == "body" else 6, fill=_IN_FRONT)
    else:
        middle, top = rng.uniform(0, width), height * rng.uniform(0.78, 0.95)
        for _ in range(26):
            x, y = rng.normal(middle, 0.24 * width), rng.uniform(top, height)
            reach = rng.uniform(6, 13)
            box = (x - reach, y - reach, x + reach, y + reach)
            draw.ellipse(box, fill=_any(_LEAVES, rng))
            mark.ellipse(box, fill=_IN_FRONT)


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with random contrast, exposure, colour cast, light from one side, noise and, at times, blur."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.65)))
    pixels = np.asarray(image, dtype=np.float32)
    contrast, exposure = rng.uniform(0.82, 1.1), rng.uniform(0.82, 1.12) * rng.normal(1, 0.028, 3)
    across = 1 + rng.normal(0, 0.06) * np.linspace(-1, 1, WIDTH)[None, :, None]
    down = 1 + rng.normal(0, 0.06) * np.linspace(-1, 1, HEIGHT)[:, None, None]
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(1, 6)
    pixels = ((pixels - 128) * contrast + 128) * exposure * across * down + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _any(palette, rng: np.random.Generator) -> tuple[int, int, int]:
    """A random colour of the palette, in a random shade."""
    return _rgb(np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 12) + rng.normal(0, 5, 3))


def _any_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour that clothes could have."""
    return _any(tuple(COLOURS.values()), rng)


def _rgb(values) -> tuple[int, int, int]:
    return tuple(min(max(round(float(value)), 0), 255) for value in values)

"""The head of a synthetic person: face, hair, glasses and cap, in the frame of `Figure`."""

from __future__ import annotations

import numpy as np

from meru.data.synthetic.pedestrians.looks import COLOURS, HAIR_COLOURS, SKINS, Look
from meru.data.synthetic.pedestrians.shapes import Layer, arc, box, ellipse, limb

# Larger than in reality: hair, glasses and hat have to be recognisable in small pictures.
_HEAD_SIZE = 1.2
_CHIN = np.array((0.0, 0.15))
# Left, top, right and bottom of the head with a cap, without hair that hangs down.
FRAME = ((-0.09, -0.035), (0.1, 0.155))
_HAIR_END = {"short": 0.105, "shoulder-length": 0.19, "long": 0.32}
_FRAME, _LENS = (24, 24, 28), (150, 172, 186)


def head_layers(look: Look, view: str) -> list[Layer]:
    """The layers of the head, from back to front."""
    if view == "back":
        return [_layer("body", ellipse(0, 0.074, 0.056, 0.066), colour=SKINS[look.skin]), *hair_from_behind(look)]
    side = view == "side"
    layers = [] if look.hair_length == "short" else [_long_hair(look, side)]
    layers.append(_layer("body", ellipse(0.008 if side else 0, 0.074, 0.054, 0.07), colour=SKINS[look.skin]))
    layers += _profile(look) if side else _face(look)
    if look.glasses:
        layers += _glasses(side)
    return layers + (_cap(look.hat, view) if look.hat else [])


def hair_from_behind(look: Look) -> list[Layer]:
    """The hair from behind, and a cap on it."""
    end = _HAIR_END[look.hair_length]
    wide = 0.045 if look.hair_length == "short" else 0.074
    below = [(-0.062, 0.08), (-wide, end), (0, end + 0.012), (wide, end), (0.062, 0.08)]
    hair = _layer("hair", [*below, *arc(0, 0.07, 0.063, 0.074, 2.0, 1.0)], colour=HAIR_COLOURS[look.hair_colour])
    return [hair, *(_cap(look.hat, "back") if look.hat else [])]


def _layer(region: str, *outlines, colour, shade: float = 1.0) -> Layer:
    return Layer(region, [_CHIN + _HEAD_SIZE * (np.asarray(outline) - _CHIN) for outline in outlines], colour, shade)


def _lips(look: Look) -> tuple[float, ...]:
    return (176, 62, 66) if look.gender == "woman" else tuple(0.6 * value for value in SKINS[look.skin])


def _face(look: Look) -> list[Layer]:
    eyes = [ellipse(x, 0.07, 0.009, 0.008) for x in (-0.022, 0.022)]
    fringe = [(0.05, 0.052), (0.03, 0.036), (0, 0.046), (-0.03, 0.036), (-0.05, 0.052)]
    hair = [(0.06, 0.085), (0.05, 0.08), *fringe, (-0.05, 0.08), (-0.06, 0.085), *arc(0, 0.07, 0.063, 0.074, 1.0, 2.0)]
    return [
        _layer("body", box(0, 0.116, 0.018, 0.006), colour=_lips(look)),
        _layer("body", *eyes, colour=(36, 28, 28)),
        _layer("hair", hair, colour=HAIR_COLOURS[look.hair_colour]),
    ]


def _profile(look: Look) -> list[Layer]:
    """The face from the side, looking towards positive x."""
    low = (-0.05, 0.116 if look.hair_length == "short" else 0.15)
    hair = [*arc(0, 0.072, 0.062, 0.076, 1.8, 1.0), low, (-0.014, 0.11), (0.004, 0.062), (0.034, 0.042)]
    return [
        _layer("body", [(0.055, 0.06), (0.074, 0.088), (0.055, 0.094)], colour=SKINS[look.skin]),
        _layer("body", box(0.05, 0.114, 0.012, 0.006), colour=_lips(look)),
        _layer("body", ellipse(0.042, 0.068, 0.008, 0.008), colour=(36, 28, 28)),
        _layer("hair", hair, colour=HAIR_COLOURS[look.hair_colour]),
    ]


def _long_hair(look: Look, side: bool) -> Layer:
    """Hair beside or behind the face."""
    end, colour = _HAIR_END[look.hair_length], HAIR_COLOURS[look.hair_colour]
    if side:
        behind = [(0.0, 0.02), (0.01, 0.12), (-0.02, end), (-0.085, end), (-0.075, 0.1), (-0.06, 0.04)]
        return _layer("hair", behind, colour=colour, shade=0.9)
    lock = [(0.03, 0.02), (0.066, 0.05), (0.084, end - 0.04), (0.07, end), (0.036, end - 0.01), (0.044, 0.1)]
    return _layer("hair", lock, np.multiply(lock, (-1, 1)), colour=colour, shade=0.9)


def _glasses(side: bool) -> list[Layer]:
    if side:
        temple = limb((-0.02, 0.062), (0.04, 0.066), 0.006, 0.006)
        return [_layer("glasses", ellipse(0.044, 0.07, 0.02, 0.021), temple, colour=_FRAME)]
    rims = [ellipse(x, 0.071, 0.024, 0.021) for x in (-0.027, 0.027)]
    lenses = [ellipse(x, 0.071, 0.013, 0.011) for x in (-0.027, 0.027)]
    return [
        _layer("glasses", *rims, box(0, 0.066, 0.058, 0.005), colour=_FRAME),
        _layer("glasses", *lenses, colour=_LENS),
    ]


def _cap(hat: str, view: str) -> list[Layer]:
    width = 0.066 if view == "side" else 0.068
    layers = [_layer("hat", arc(0, 0.048, width, 0.062, 1.0, 2.0), colour=COLOURS[hat])]
    if view == "side":
        peak = [(0.03, 0.036), (0.118, 0.05), (0.116, 0.06), (0.03, 0.052)]
        layers.append(_layer("hat", peak, colour=COLOURS[hat], shade=0.75))
    elif view == "front":
        layers.append(_layer("hat", ellipse(0, 0.05, 0.062, 0.014), colour=COLOURS[hat], shade=0.75))
    return layers

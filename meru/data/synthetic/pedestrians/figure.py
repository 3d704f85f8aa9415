"""The figure of a person: layers of outlines, from behind to in front, in a frame of its own.

The frame: x to the side, y downwards, the crown at 0, the soles at 1. In a side view the person looks towards
positive x; a picture may show the figure mirrored.
"""

from __future__ import annotations

import numpy as np

from meru.data.synthetic.pedestrians.head import hair_from_behind, head_layers
from meru.data.synthetic.pedestrians.looks import COLOURS, HAIR_COLOURS, SKINS, Look
from meru.data.synthetic.pedestrians.shapes import Layer, box, down, ellipse, limb

VIEWS = ("front", "back", "side")

_SHOULDER = 0.195
_HIP = 0.49
_HEM = {"shirt": 0.53, "jacket": 0.54, "coat": 0.73, "hoodie": 0.535, "sweater": 0.52, "T-shirt": 0.52}


class Figure:
    """One person in one pose.

    Args:
        look: Appearance of the person.
        view: One of `VIEWS`.
        walking: Whether the person is walking or standing.
        rng: Random generator for the pose.
    """

    def __init__(self, look: Look, *, view: str, walking: bool, rng: np.random.Generator):
        self.look, self.view, self.side = look, view, view == "side"
        self.skin, self.hair = SKINS[look.skin], HAIR_COLOURS[look.hair_colour]
        self.dark = tuple(0.55 * value for value in COLOURS[look.upper_colour])  # seams, hems and buttons
        man = look.gender == "man"
        self.shoulders, self.waist, self.hips = (0.13, 0.105, 0.102) if man else (0.112, 0.082, 0.108)
        self.bulk = 1.12 if look.upper in ("coat", "jacket", "hoodie") else 1.0
        self.stride = rng.uniform(0.2, 0.42) if walking else rng.uniform(0, 0.07)
        self.spread = rng.uniform(0.02, 0.09)
        self.lifted = rng.uniform(0.02, 0.06) if walking else 0.0
        self.arm_angles = rng.uniform(0.12, 0.3, 2)
        self.arm_swing = rng.uniform(0.5, 1.3) * self.stride * (1 if rng.random() < 0.5 else -1)
        self.bent_arm = int(rng.integers(6))  # 0 or 1: that arm is bent at the elbow
        self.bag_is_near = rng.random() < 0.7
        self.layers: list[Layer] = []
        self._draw()

    def _add(self, region: str, *outlines, colour=None, shade: float = 1.0) -> None:
        patterned = colour is None
        outlines = [np.asarray(outline, dtype=float) for outline in outlines]
        colour = COLOURS[self.look.upper_colour] if patterned else colour
        self.layers.append(Layer(region, outlines, colour, shade, patterned))

    def _draw(self) -> None:
        bag = self.look.bag.kind if self.look.bag else None
        arms = self._arms()
        if self.side:
            self._arm(*arms[0], shade=0.72)
            if bag in ("handbag", "shoulder bag") and not self.bag_is_near:
                self._bag(bag, arms[0][2])
        elif self.look.hair_length != "short":
            self._add("hair", box(0, 0.1, 0.05, 0.09), colour=self.hair, shade=0.7)
        self._legs()
        self._torso()
        if bag == "backpack" and self.view != "back":
            self._bag(bag, None)
        self.layers += head_layers(self.look, self.view)
        for arm in arms[self.side :]:
            self._arm(*arm, shade=0.95)
        if bag == "backpack" and self.view == "back":
            self._bag(bag, None)
            if self.look.hair_length == "long":
                self.layers += hair_from_behind(self.look)
        if bag in ("handbag", "shoulder bag") and (self.bag_is_near or not self.side):
            self._bag(bag, arms[1][2])

    # Legs

    def _legs(self) -> None:
        look, colour = self.look, COLOURS[self.look.lower_colour]
        for which, (hip, knee, ankle) in enumerate(self._leg_joints()):
            shade = 0.78 if self.side and which == 0 else 1.0
            if look.lower in ("shorts", "skirt"):
                self._add("body", limb(hip, knee, 0.05, 0.034), limb(knee, ankle, 0.036, 0.024),
                          colour=self.skin, shade=shade)
            if self.side or look.lower in ("shorts", "skirt"):
                self._shoe(ankle, shade, which)
            if look.lower == "shorts":
                end = hip + 0.86 * (knee - hip)
                self._add("lower", limb(hip, end, 0.062, 0.06), colour=colour, shade=shade)
            elif look.lower != "skirt":
                narrow = 0.034 if look.lower == "jeans" else 0.044
                leg = limb(hip, knee, 0.062, 0.048), limb(knee, ankle, 0.049, narrow)
                self._add("lower", *leg, colour=colour, shade=shade)
                if look.lower == "jeans":  # the worn thigh, the turned-up end
                    pale = tuple(0.7 * value + 0.3 * 225 for value in colour)
                    worn = limb(hip + 0.45 * (knee - hip), knee, 0.022, 0.016)
                    cuff = limb(ankle - (0.02, 0.012), ankle - (-0.02, 0.012), 0.014, 0.014)
                    self._add("lower", worn, cuff, colour=pale, shade=shade)
                if not self.side:
                    self._shoe(ankle, shade, which)
        top = 0.45
        if look.lower == "skirt":
            flare = 0.13 if not self.side else 0.1 + 0.12 * self.stride
            self._add("lower", [(-0.09, top), (0.09, top), (flare, 0.69), (0, 0.7), (-flare, 0.69)], colour=colour)
        else:
            half = 0.07 if self.side else 0.96 * self.hips
            self._add("lower", [(-half, top), (half, top), (half, 0.53), (0, 0.56), (-half, 0.53)], colour=colour)

    def _leg_joints(self):
        for which, sign in enumerate((-1, 1)):
            if self.side:
                hip, angle = np.array((0.0, _HIP)), sign * self.stride
                bend = 0.5 * self.stride if sign < 0 else 0.1 * self.stride
                knee = hip + 0.235 * down(angle)
                yield hip, knee, knee + 0.225 * down(angle - bend)
            else:
                hip = np.array((sign * 0.052, _HIP))
                knee = hip + (0.235 - 0.3 * self.lifted * which) * down(sign * self.spread)
                yield hip, knee, knee + (0.225 - 0.7 * self.lifted * which) * down(0.4 * sign * self.spread)

    def _shoe(self, ankle: np.ndarray, shade: float, which: int) -> None:
        colour = COLOURS[self.look.shoes]
        x, y = ankle
        if self.side:
            shoe = [(-0.036, -0.012), (0.02, -0.014), (0.05, 0.012), (0.092, 0.022), (0.096, 0.042), (-0.038, 0.042)]
            self._add("shoes", np.add(shoe, ankle), colour=colour, shade=shade)
        else:
            length = 0.038 if self.view == "front" else 0.03
            outward = 0.012 * (1 if which else -1)
            self._add("shoes", ellipse(x + outward, y + 0.018, 0.044, length), colour=colour, shade=shade)

    # Upper clothes and arms

    def _torso(self) -> None:
        look, hem = self.look, _HEM[self.look.upper]
        flare = 0.015 if look.upper == "coat" else 0.0
        self._add("body", limb((0, 0.12), (0, 0.18), 0.034, 0.036), colour=self.skin, shade=0.88)
        if self.side:
            chest = 0.075 if look.gender == "man" else 0.086
            half = [(-0.03, 0.158), (0.03, 0.16), (chest, 0.26), (0.068, 0.38), (0.068 + flare, hem)]
            back = [(-0.078 - flare, hem), (-0.058, 0.4), (-0.076, 0.25), (-0.06, 0.185)]
            self._add("upper", self.bulk * np.array((1, 0)) * (half + back) + np.array((0, 1)) * (half + back))
        else:
            right = [(0.035, 0.152), (self.shoulders, 0.185), (self.shoulders, 0.26), (self.waist, 0.38),
                     (self.hips + 0.004 + flare, 0.5), (self.hips + 0.006 + 2 * flare, hem)]
            right = np.array(right) * (self.bulk, 1)
            self._add("upper", np.concatenate([right, right[::-1] * (-1, 1)]))
        if look.upper in ("hoodie", "sweater", "jacket"):  # the ribbed hem
            half = 0.068 * self.bulk if self.side else self.hips * self.bulk + 0.004
            self._add("upper", box(0, hem - 0.008, half, 0.011), colour=self.dark)
        {"hoodie": self._hood, "jacket": self._zip, "coat": self._belt, "shirt": self._collar}.get(
            look.upper, self._neckline
        )()

    def _hood(self) -> None:
        front = self.view == "front"
        x, width = (-0.035, 0.06) if self.side else (0, 0.08)
        y, height = (0.162, 0.026) if front else (0.178, 0.042)
        self._add("upper", ellipse(x, y, width, height), shade=0.8)
        if front:
            self._add("upper", [(-0.05, 0.41), (0.05, 0.41), (0.075, 0.5), (-0.075, 0.5)], shade=0.78)
            strings = [limb((x, 0.175), (1.2 * x, 0.26), 0.006, 0.006) for x in (-0.022, 0.022)]
            self._add("upper", *strings, colour=COLOURS["white"])

    def _zip(self) -> None:
        """Draw a jacket, open over white clothes."""
        if self.view == "front":
            hem = _HEM["jacket"]
            inside = [(-0.032, 0.155), (0.032, 0.155), (0.026, hem), (-0.026, hem)]
            self._add("body", inside, colour=(226, 226, 222))
            edges = [limb((x, 0.16), (0.85 * x, hem), 0.006, 0.006) for x in (-0.034, 0.034)]
            self._add("upper", *edges, colour=self.dark)
        else:
            self._add("upper", box(0, 0.162, 0.044, 0.016), colour=self.dark)

    def _belt(self) -> None:
        """Draw the belt, lapels, buttons and seams of a coat."""
        half, hem = 0.068 * self.bulk if self.side else self.waist * self.bulk + 0.01, _HEM["coat"]
        self._add("upper", box(0, 0.415, half, 0.012), colour=self.dark)
        if self.view == "front":
            for s in (-1, 1):
                lapel = [(s * 0.012, 0.27), (s * 0.075, 0.215), (s * 0.05, 0.15), (s * 0.03, 0.155)]
                buttons = [ellipse(s * 0.032, y, 0.01, 0.01) for y in (0.33, 0.47, 0.54)]
                self._add("upper", lapel, *buttons, colour=self.dark)
            self._add("upper", limb((0, 0.28), (0, hem), 0.004, 0.004), colour=self.dark)
        elif not self.side:
            self._add("upper", limb((0, 0.55), (0, hem), 0.005, 0.005), colour=self.dark)

    def _collar(self) -> None:
        """Draw the collar and the buttons of a shirt."""
        if self.view == "front":
            collar = [[(0, 0.2), (s * 0.05, 0.2), (s * 0.042, 0.148), (s * 0.03, 0.15)] for s in (-1, 1)]
            self._add("body", [(-0.03, 0.15), (0.03, 0.15), (0, 0.2)], colour=self.skin)
            self._add("upper", *collar, shade=0.72)
            self._add("upper", limb((0, 0.2), (0, _HEM["shirt"]), 0.005, 0.005), colour=self.dark)
        else:
            self._add("upper", box(0, 0.157, 0.042, 0.011), shade=0.72)

    def _neckline(self) -> None:
        if self.view == "front":
            depth = 0.02 if self.look.upper == "sweater" else 0.032
            self._add("upper", ellipse(0, 0.156, 0.05, depth + 0.012), shade=0.75)
            self._add("body", ellipse(0, 0.15, 0.038, depth), colour=self.skin)

    def _arms(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Shoulder, elbow and hand, the far arm first."""
        arms = []
        for which, sign in enumerate((-1, 1)):
            bent = which == self.bent_arm
            if self.side:
                shoulder, angle = np.array((-0.006, _SHOULDER + 0.018)), sign * self.arm_swing
                elbow = shoulder + 0.16 * down(angle)
                hand = elbow + 0.15 * down(angle + (1.3 if bent else 0.25))
            else:
                shoulder = np.array((sign * (self.shoulders * self.bulk - 0.022), _SHOULDER + 0.014))
                elbow = shoulder + 0.165 * down(sign * self.arm_angles[which])
                hand = elbow + (0.1 if bent else 0.15) * down(-1.0 * sign if bent else 0.08 * sign)
            arms.append((shoulder, elbow, hand))
        return arms

    def _arm(self, shoulder: np.ndarray, elbow: np.ndarray, hand: np.ndarray, *, shade: float) -> None:
        wide = 0.034 * self.bulk
        self._add("body", ellipse(hand[0], hand[1] + 0.014, 0.024, 0.03), colour=self.skin, shade=shade)
        if self.look.upper == "T-shirt":
            self._add("body", limb(shoulder, elbow, 0.028, 0.025), limb(elbow, hand, 0.025, 0.02),
                      colour=self.skin, shade=shade)
            self._add("upper", limb(shoulder, shoulder + 0.6 * (elbow - shoulder), 0.04, 0.04), shade=0.88 * shade)
        else:
            self._add("upper", limb(shoulder, elbow, wide + 0.006, wide), limb(elbow, hand, wide, 0.028),
                      shade=0.88 * shade)

    # Bags

    def _bag(self, kind: str, hand: np.ndarray | None) -> None:
        colour = COLOURS[self.look.bag.colour]
        if kind == "backpack":
            if self.view == "front":
                s = self.shoulders * self.bulk
                straps = [limb((x * 0.6 * s, 0.166), (x * 0.7 * s, 0.36), 0.016, 0.014) for x in (-1, 1)]
                self._add("bag", *straps, colour=colour)
            elif self.side:
                self._add("bag", box(-0.125, 0.295, 0.062, 0.125), colour=colour)
                self._add("bag", box(-0.155, 0.345, 0.04, 0.055), colour=colour, shade=0.72)
                self._add("bag", limb((-0.045, 0.175), (0.025, 0.26), 0.013, 0.012), colour=colour, shade=0.8)
            else:
                self._add("bag", box(0, 0.31, 0.088, 0.13), colour=colour)
                self._add("bag", box(0, 0.365, 0.064, 0.055), colour=colour, shade=0.72)
        elif kind == "handbag":
            x, y = hand
            handle = [limb((x + dx, y + 0.06), (x + 0.3 * dx, y + 0.014), 0.007, 0.007) for dx in (-0.036, 0.036)]
            self._add("bag", *handle, colour=colour, shade=0.75)
            body = np.array([(-0.05, 0.055), (0.05, 0.055), (0.066, 0.15), (-0.066, 0.15)])
            self._add("bag", body + hand, colour=colour)
        else:
            start, end = ((0.01, 0.165), (-0.01, 0.44)) if self.side else ((-0.075, 0.165), (0.1, 0.44))
            self._add("bag", limb(start, end, 0.011, 0.011), colour=colour, shade=0.8)
            self._add("bag", box(end[0], 0.495, 0.066, 0.055), colour=colour)
            self._add("bag", box(end[0], 0.468, 0.066, 0.026), colour=colour, shade=0.72)

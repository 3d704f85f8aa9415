"""Which texts may be met on a walk if the user does not say."""

import pytest
import torch

from meru.evaluation.traversal import Candidates, End, chosen_filter
from meru.geometry.spaces import Hyperboloid, Sphere

SPACE = Hyperboloid(1.0)
START = End(torch.tensor([1.5, 0.0]), text="a red bird")
ROOT = End(torch.zeros(2), text="root")


def texts(**points):
    names = tuple(name.replace("_", " ") for name in points)
    return Candidates(names, ("caption",) * len(names), torch.tensor(list(points.values())), (None,) * len(names))


def test_cones_are_used_if_one_contains_the_start():
    assert chosen_filter(SPACE, START, ROOT, texts(a_bird=[0.5, 0.0], a_fish=[0.0, 0.5]), "auto") == "cone"
    assert chosen_filter(SPACE, START, ROOT, texts(a_fish=[0.0, 0.5]), "auto") == "radius"


def test_a_text_does_not_count_as_more_general_than_itself():
    """It lies in its own cone; by cones, nothing but the root would be met behind it."""
    known = texts(a_red_bird=[1.5, 0.0], a_fish=[0.0, 0.5])
    assert chosen_filter(SPACE, START, ROOT, known, "auto") == "radius"
    assert chosen_filter(SPACE, START, ROOT, texts(a_red_bird=[1.5, 0.0]), "auto") == "radius"


def test_what_the_user_says_is_kept_and_a_sphere_has_no_cones():
    known = texts(a_bird=[0.5, 0.0])
    assert [chosen_filter(SPACE, START, ROOT, known, each) for each in ("radius", "none")] == ["radius", "none"]
    assert chosen_filter(Sphere(), START, ROOT, known, "auto") == "none"
    with pytest.raises(ValueError, match="general=wide: choose one of auto"):
        chosen_filter(SPACE, START, ROOT, known, "wide")

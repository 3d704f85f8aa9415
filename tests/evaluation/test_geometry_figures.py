"""Figures of a model's geometry, on points that are easy to place, and what is said about them."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from meru.errors import UserError
from meru.evaluation.geometry import discovery_geometry, evaluate_geometry, spread_out, unmatched
from meru.geometry import poincare
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere
from meru.reports.geometry import format_geometry, geometry_figure, geometry_table
from meru.reports.hints import hints

CPU = torch.device("cpu")
IMAGES = torch.tensor([[2.0, 0.0], [0.0, 4.0], [-2.0, 0.0]])
TEXTS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.0, 0.05], "wing": [3.0, 4.0]}


def figures_of(space, **entailment):
    model = SimpleNamespace(
        space=space, similarity=space.similarity, embed_image=lambda images: space.lift(IMAGES),
        embed_text=lambda tokens: space.lift(tokens), loss={"entailment": {"minimum_radius": 0.1, **entailment}},
    )  # fmt: skip
    batch = {"image": torch.zeros(3, 3, 1, 1), "class_index": torch.tensor([0, 1, 1]), "image_index": torch.arange(3)}
    return evaluate_geometry(
        model,
        lambda change: [batch],
        captions=[["a"], ["b", "left out"], ["c"]],
        tokenizer=lambda texts: torch.tensor([TEXTS[text] for text in texts]),
        device=CPU,
        captions_per_image=1,
        texts={"part_phrase": ["wing"], "nothing": []},
    )


def test_figures_of_points_in_flat_space():
    figures = figures_of(Euclidean())
    assert figures["radius/image/50"] == 2 and figures["radius/part_phrase/50"] == 5
    assert not any("nothing" in name for name in figures)
    # Two captions point at their image; the third, up, has one to the left.
    assert figures["angle/matched/50"] == pytest.approx(0, abs=1e-6)
    assert figures["angle/matched/95"] == pytest.approx(81)
    # The image of the third caption lies to the left and a little below, behind its apex.
    assert figures["share_in_cone/matched"] == pytest.approx(2 / 3)
    assert figures["share_in_dead_radius/caption"] == pytest.approx(1 / 3)
    assert figures["share_in_dead_radius/part_phrase"] == 0
    assert figures["share_of_ties/text_to_image"] == pytest.approx(4 / 9)  # b and c are as far from left as from right
    assert figures["modality_gap"] == pytest.approx(math.hypot(0 - 1 / 3, 1 / 3 - 2 / 3), rel=1e-5)
    assert figures["alignment"] == pytest.approx(2 / 3) and figures["dimension"] == 2
    assert "bending" not in figures and "curvature" not in figures


def test_figures_of_points_in_a_curved_space():
    figures = figures_of(Hyperboloid(4.0))
    assert figures["radius/image/50"] == pytest.approx(2, rel=1e-5)
    assert figures["curvature"] == 4 and figures["curved_radius/image"] == pytest.approx(4, rel=1e-5)
    assert figures["bending"] > 0.1 and figures["share_at_limit/image"] == 0
    narrow = figures_of(Hyperboloid(4.0), across_aperture=0.5, within_aperture=1.2)
    assert narrow["half_aperture/50"] == pytest.approx(figures["half_aperture/50"] / 2)


def test_a_sphere_has_neither_radii_nor_cones():
    figures = figures_of(Sphere())
    assert not any(name.startswith(("radius", "share_in", "curv", "half")) for name in figures)
    assert figures["angle/matched/95"] == pytest.approx(81)
    assert "angle/matched" in format_geometry(figures, "test split")
    assert geometry_figure(figures, "test split").axes


def test_unmatched_pairs_are_of_different_classes_if_there_are_any():
    classes = torch.tensor([0, 0, 0, 1, 0, 2])
    own = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    other = unmatched(own, classes)
    assert (classes[other] != classes[own]).all()
    assert torch.equal(unmatched(own, torch.zeros(6, dtype=torch.long)), own)


def test_samples_reach_from_the_first_to_the_last():
    assert spread_out(3).tolist() == [0, 1, 2] and not len(spread_out(0))
    many = spread_out(5001)
    assert len(many) == len(many.unique()) == 2048 and many[0] == 0 and many[-1] == 5000


class Flat(torch.nn.Module):
    """Features are the images' values, and so are their projections; class 0 is predicted for a positive first one."""

    temperature = 0.1

    def features(self, images):
        return images.flatten(1)[:, :2]

    def projection(self, features):
        return features

    def class_logits(self, features):
        return torch.stack([features[:, 0], -features[:, 0]], dim=1)


class Discoverer(Flat):
    """The same with a ball."""

    curvature, clip = 0.5, 1.0

    def lift(self, features):
        return poincare.exp_map0(poincare.clip_features(features, self.clip), self.curvature)


def discovered(model):
    points = torch.tensor([[3.0, 4.0], [6.0, 8.0], [-0.3, 0.4], [0.5, 0.0]])
    images = torch.zeros(4, 3, 1, 1)
    images[:, :2, 0, 0] = points
    facts = {
        "image_index": torch.arange(4),
        "label": torch.tensor([0, 0, 1, 1]),
        "labelled": torch.tensor([True, False, False, False]),
    }
    empty = {"image": images[:0], **{name: value[:0] for name, value in facts.items()}}
    return discovery_geometry(model, [{"image": images, **facts}, empty], num_old=1, device=CPU), points


def test_figures_of_discovered_classes():
    figures, points = discovered(Discoverer())
    assert figures["norm/projected/50"] == pytest.approx((0.5 + 5) / 2)
    assert figures["clip"] == 1 and figures["share_at_clip"] == 0.5
    assert figures["radius/image/95"] == pytest.approx(2)
    assert figures["share_of_new_in_old"] == 0.5 and figures["share_of_old_in_new"] == 0
    lifted = Discoverer().lift(points)
    within = [poincare.distance(lifted[i], lifted[j], 0.5).item() for i, j in ((0, 1), (2, 3))]
    between = [poincare.distance(lifted[i], lifted[j], 0.5).item() for i in (0, 1) for j in (2, 3)]
    assert figures["distance/within_class"] == pytest.approx(sum(within) / 2, rel=1e-5)
    assert figures["distance/between_classes"] == pytest.approx(sum(between) / 4, rel=1e-5)
    assert "clip" in geometry_table({"one": figures}, "title") and len(geometry_figure(figures).axes) == 2


def test_the_clip_acts_on_scaled_features():
    class Scaled(Discoverer):
        feature_scale = 0.15

        def lift(self, features):
            return super().lift(self.feature_scale * features)

    figures, _ = discovered(Scaled())
    assert figures["share_at_clip"] == 0.25  # lengths 0.75, 1.5, 0.075, 0.075
    assert figures["norm/projected/50"] == pytest.approx((0.5 + 5) / 2)
    line = [line for line in geometry_figure(figures).axes[1].lines if line.get_linestyle() == ":"]
    assert line[0].get_xdata()[0] == pytest.approx(1 / 0.15)
    assert "feature_scale" in geometry_table({"one": figures}, "title")


def test_without_a_ball_distances_of_classes_are_angles():
    figures, _ = discovered(Flat())
    angle = math.degrees(math.atan2(4, -3))
    assert figures["distance/within_class"] == pytest.approx(angle / 2, rel=1e-5)
    assert "clip" not in figures and "radius/image/50" not in figures


def test_no_image_at_all_is_one_line():
    with pytest.raises(UserError, match="no image can be decoded"):
        discovery_geometry(Discoverer(), [], num_old=1, device=CPU)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"share_at_clip": 0.99, "bending": 0.0}, ["99% of the features lie at the clip", "flat ones by 0.0%"]),
        ({"share_at_clip": 0.8}, ["80% of the features lie at the clip"]),
        ({"share_at_clip": 0.4}, []),
        ({"bending": 0.012}, ["differ from flat ones by 1.2% on average"]),
        ({"share_in_cone/matched": 0.98, "share_in_cone/unmatched": 0.97}, ["98% of images.*97% of images of other"]),
        (
            {"share_in_cone/matched": 0.0, "exterior_angle/matched/50": 168.0, "half_aperture/50": 10.0},
            ["only 0% of images .* 168 degrees, the half aperture 10"],
        ),
        ({"share_in_dead_radius/class_name": 0.6}, ["60% of class names lie in the dead radius"]),
        (
            {"gradient_norm/a/all": 2.0, "gradient_norm/b/all": 0.01, "cosine_to_total/b": -0.5},
            ["beside that of a: b 0.5 % of its length", "b pulls against the whole loss: .* -0.50"],
        ),
        ({"gradient_norm/a/all": 2.0, "gradient_norm/b/all": 0.04}, ["beside that of a: b 2 % of its length"]),
        ({"gradient_norm/a/all": 2.0, "gradient_norm/b/all": 0.1}, []),
        ({"gradient_norm/a/all": None, "gradient_norm/all": 1.0, "gradient_norm/b/c/all": 2.0}, []),
        ({"gradient_norm/a/all": 0.0, "gradient_norm/b/all": -1.0}, []),
        ({"share_in_cone/matched": 0.0, "exterior_angle/matched/50": None}, []),
        ({"effective_rank/image": 3.0, "dimension": 64.0}, ["features of images fill 3.0 of 64 dimensions"]),
        ({"share_of_ties/text_to_image": 0.2}, ["20.0% of the scores tie .text to image."]),
        ({"share_of_new_in_old": 0.75}, ["75% of the unlabelled images of new classes"]),
        ({"bending": 0.4, "share_of_ties/text_to_image": 0.001, "share_in_cone/matched": None}, []),
    ],
)  # fmt: skip
def test_hints_give_their_number(figures, said):
    found = hints(figures, loss={"entailment": {"weight": 0.2}})
    assert len(found) == len(said)
    for sentence, pattern in zip(found, said, strict=True):
        assert re.search(pattern, sentence), sentence


def test_there_are_at_most_three_hints_and_none_about_a_term_that_is_off():
    striking = {f"share_at_limit/{kind}": 1.0 for kind in "abcde"}
    assert len(hints(striking, loss={})) == 3
    assert hints({"share_in_cone/matched": 1.0}, loss={"entailment": {"weight": 0.0}}) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "cone"}, ["entailment is 0 without gradient; so do", "aperture has no gradient$"]),
        ({"kind": "argent"}, []),
        ({"slope": 0.1}, ["entailment is 0.1 times the exterior angle; so do", "aperture has no gradient$"]),
        ({"apex_floor": 2.0}, ["beyond the floor .apex_floor.; so do", "apex_floor pushes apexes outwards there$"]),
    ],
)
def test_hints_about_cones_fit_the_kind_of_entailment(settings, said):
    figures = {"share_in_cone/matched": 1.0, "share_in_cone/unmatched": 0.9, "share_in_dead_radius/caption": 0.8}
    found = hints(figures, loss={"entailment": {"weight": 0.2, **settings}})
    assert len(found) == len(said)
    for sentence, pattern in zip(found, said, strict=True):
        assert re.search(pattern, sentence), sentence
    far = {"share_in_cone/matched": 0.0, "exterior_angle/matched/50": 90.0, "half_aperture/50": 9.0}
    found = hints(far, loss={"entailment": {"weight": 0.2, **settings}})
    assert ["without apex_floor" in sentence for sentence in found] == ["apex_floor" in settings] * bool(said)


def test_quantiles_that_are_missing_are_dashes():
    figures = {"radius/image/5": None, "radius/image/50": 1.0, "norm/projected/50": None, "share_at_clip": None}
    table = geometry_table({"": figures}, "title")
    assert "1 (–––)" in table and table.count("–  ") == 2
    assert geometry_figure(figures).axes


def test_the_table_shows_runs_side_by_side_and_dashes_for_what_one_lacks():
    runs = {
        "one": {"radius/image/5": 0.5, "radius/image/50": 1.0, "radius/image/95": 1.5, "share_at_clip": 0.25},
        "two": {"curvature": 0.01, "gradient_norm/entailment/all": 2.0, "gradient_norm/entailment/visual": 1.0},
    }
    rows = geometry_table(runs, "title").splitlines()
    assert rows[0] == "title" and rows[1].split() == ["one", "two"]
    cells = {row.split()[0]: row for row in rows[2:]}
    assert "1 (0.5–1.5)" in cells["radius/image"] and "–  distance from the origin" in cells["radius/image"]
    assert "25.0 %" in cells["share_at_clip"] and "0.0100" in cells["curvature"]
    assert set(cells) == {"radius/image", "share_at_clip", "curvature", "gradient_norm/entailment"}

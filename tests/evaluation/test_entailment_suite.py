"""Pairs of images and captions from coarse to fine, their scores in cones, and what a sphere gives instead."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from meru.data.datasets.caption_lists import CaptionLists
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.evaluation.entailment import entailment_figure, evaluate_entailment, format_entailment, pairs, score_pairs
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere

CPU = torch.device("cpu")
# Two images out on two axes; "thing" is near the origin, the other captions lie on the way to their image.
POINTS = {
    "": [0.7, 0.7],
    "thing": [0.05, 0.05],
    "bird": [0.5, 0.0],
    "red bird": [1.0, 0.0],
    "car": [0.0, 0.5],
    "blue car": [0.0, 1.0],
}
IMAGES = torch.tensor([[1.5, 0.0], [0.0, 1.5]])
LISTS = [("thing", "bird", "red bird"), ("thing", "car", "blue car")]


def record(number, captions):
    return ImageRecord(Path(f"{number}.jpg"), number, captions)


def subject(space, lists=LISTS, data=CaptionLists, images=IMAGES):
    records = tuple(record(number, captions) for number, captions in enumerate(lists))
    lift = space.lift
    model = SimpleNamespace(
        space=space,
        similarity=space.similarity,
        radius=space.radius,
        embed_image=lambda _: lift(images),
        embed_text=lambda tokens: lift(tokens),
        loss={"entailment": {"minimum_radius": 0.1}},
    )
    batch = {"image": torch.zeros(len(records), 3, 1, 1), "image_index": torch.arange(len(records))}
    batch["class_index"] = torch.tensor([each.class_index for each in records])
    return SimpleNamespace(
        model=model,
        device=CPU,
        data=data((), (), (), records, class_kind="image"),
        records=lambda: records,
        batches_of=lambda _: [batch],
        tokenize=lambda texts: torch.tensor([POINTS[text] for text in texts]),
    )


@pytest.mark.parametrize("space", [Euclidean(), Hyperboloid(1.0)])
def test_images_in_the_cones_of_their_own_captions_are_told_from_others(space):
    figures = evaluate_entailment(subject(space))
    assert figures["positive_pairs"] == 6 and figures["negative_pairs"] == 2
    for score in ("clamped", "margin"):
        assert figures[f"{score}/average_precision"] == figures[f"{score}/area_under_roc"] == 1
    assert figures["share_in_cone/positive"] == 1 and figures["share_in_cone/negative"] == 0
    # The captions on the axes are in one line with their image: θ = 0 and the score 1, four times.
    assert figures["clamped/share_of_ties"] == pytest.approx(1) and figures["clamped/share_of_zeros"] == 0.25
    assert figures["hierarcaps/order_correlation"] == 1
    distances = [figures[f"distance_from_root/{place}"] for place in (1, 2, 3, "image")]
    assert distances == sorted(distances)
    table = format_entailment(figures, "test split")
    assert "6 positive and 2 negative pairs" in table and "100.0 of positive pairs" in table and "τ 1.000" in table
    assert len(entailment_figure(figures, "title").axes) == 2


def test_a_sphere_is_ranked_by_its_cosine_and_says_so():
    figures = evaluate_entailment(subject(Sphere()))
    assert not any(name.startswith(("clamped", "margin", "share_in_cone")) for name in figures)
    assert figures["similarity/average_precision"] == 1
    # Of the three captions, "thing" has the direction of the empty one, and the others are equally far from it.
    assert figures["distance_from_root/1"] == pytest.approx(0, abs=1e-6)
    apart = 2 * math.sin(math.pi / 8)
    assert figures["distance_from_root/2"] == figures["distance_from_root/3"] == pytest.approx(apart)
    assert figures["hierarcaps/order_correlation"] == pytest.approx(2 / math.sqrt(6))
    table = format_entailment(figures, "test split")
    assert "no cones" in table and "ω" not in table and "τ 0.816" in table
    assert entailment_figure(figures).axes


def test_scores_of_pairs_are_what_the_formulas_give():
    space = Euclidean()
    model = SimpleNamespace(space=space, similarity=space.similarity, loss={})
    images, texts = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    scores = score_pairs(model, images, texts, torch.tensor([0, 1]), torch.tensor([0, 0]))
    # The first image is straight ahead, θ = 0; the second one straight to the side, θ = π/2.
    aperture = math.asin(0.1)
    assert scores["margin"].tolist() == pytest.approx([aperture, aperture - math.pi / 2])
    assert scores["clamped"].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert scores["similarity"].tolist() == pytest.approx([-1, -1])


def test_negatives_are_finest_captions_of_other_images_that_are_not_ones_own():
    records = [record(number, ("thing", f"kind {number % 2}", f"number {number}")) for number in range(150)]
    records[1] = record(1, ("thing", "number 0"))  # an image with the same finest caption
    records[2] = record(0, ("object", "another list of image 0"))
    rows, captions, positive = pairs(records)
    every = zip(rows.tolist(), captions, positive.tolist(), strict=True)
    of_first = [caption for row, caption, right in every if row == 0 and not right]
    assert len(of_first) == 100 == len(set(of_first))
    assert not {"number 0", "another list of image 0"} & set(of_first) and all("number" in each for each in of_first)
    assert positive.sum() == sum(len(each.captions) for each in records)
    again = pairs(records)
    assert torch.equal(rows, again[0]) and captions == again[1]
    assert captions != pairs(records, seed=1)[1]


def test_two_lists_of_one_image_count_as_one_image():
    lists = [*LISTS, ("thing", "red bird")]
    given = subject(Euclidean(), lists, images=IMAGES[[0, 1, 0]])
    records = (*given.records()[:2], record(0, lists[2]))
    given.records = lambda: records
    figures = evaluate_entailment(given)
    assert figures["positive_pairs"] == 8 and figures["negative_pairs"] == 4
    assert figures["hierarcaps/recall"] == 1


def test_captions_without_order_and_without_negatives_are_refused():
    with pytest.raises(UserError, match="captions from coarse to fine.*data=hierarcaps"):
        evaluate_entailment(subject(Euclidean(), data=ImageTextData))
    with pytest.raises(UserError, match="all images have the same captions"):
        evaluate_entailment(subject(Euclidean(), [LISTS[0], LISTS[0]]))

"""The bias towards old classes: its figures and correction, on logits of which the answer is known."""

import pytest
import torch

from meru.data.discovery.splits import DiscoverySplit
from meru.evaluation.bias import (
    best_of_groups,
    corrected,
    described_bias,
    expected_old_share,
    offset_of,
    with_offset,
)
from meru.evaluation.classes import format_discovery
from meru.evaluation.stages import format_stages


def random_logits(n=200, classes=7, bias=2.0, old=3):
    logits = torch.randn(n, classes, generator=torch.Generator().manual_seed(0))
    logits[:, :old] += bias
    return logits


def read_of(logits, old=3, labelled=50):
    chosen = torch.arange(len(logits)) < labelled
    best = {"prediction": logits.argmax(dim=1), "confidence": logits.softmax(dim=1).amax(dim=1), "labelled": chosen}
    return best | best_of_groups(logits, old)


def split_of(n=200, labelled=50):
    chosen = torch.arange(n) < labelled
    return DiscoverySplit(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), chosen)


@pytest.mark.parametrize("offset", [0.0, -1.3, 4.0])
def test_an_offset_does_what_adding_it_to_all_old_logits_does(offset):
    logits = random_logits()
    shifted = logits.double()
    shifted[:, :3] += offset
    found = with_offset(read_of(logits), offset)
    assert torch.equal(found["prediction"], shifted.argmax(dim=1))
    assert torch.allclose(found["confidence"].double(), shifted.softmax(dim=1).amax(dim=1), rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.8])
def test_full_strength_predicts_that_share_as_old(share):
    read = read_of(random_logits())
    found = with_offset(read, offset_of(read["group_peak"], share))
    assert (found["prediction"] < 3).sum() == round(share * 200)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.001])
def test_a_share_that_leaves_no_image_for_a_group_has_no_offset(share):
    with pytest.raises(ValueError, match="leaves none"):
        offset_of(read_of(random_logits())["group_peak"], share)


def test_the_expected_share_is_the_true_one_when_classes_are_equally_large():
    """Ten classes of 30 images, four of them old with 12 labelled images each: 4 · 18 of 252 unlabelled ones."""
    labelled = (torch.arange(300) < 120) & (torch.arange(300) % 30 < 12)
    split = DiscoverySplit(torch.zeros(300, 3, 1, 1), torch.arange(300) // 30, labelled)
    assert expected_old_share(split, num_old=4, num_classes=10) == pytest.approx(72 / 252)
    assert expected_old_share(split, num_old=4, num_classes=100) == 0.0  # more labels than expected images


def test_a_correction_takes_no_true_label_and_strength_scales_it():
    split, read = split_of(), read_of(random_logits())
    options = {"num_old": 3, "num_classes": 7}
    expected = expected_old_share(split, **options)  # (3 · 200/7 − 50) / 150
    assert expected == pytest.approx((600 / 7 - 50) / 150)
    _, _, before = corrected(split, read, {}, **options, strength=0.0)
    _, _, half = corrected(split, read, {}, **options, strength=0.5)
    train, test, full = corrected(split, read, dict(read), **options, strength=1.0)
    assert "predicted_old/offset" not in before and before["predicted_old/share"] > 0.8
    assert full["predicted_old/share"] == pytest.approx(round(expected * 150) / 150)
    assert half["predicted_old/offset"] == pytest.approx(full["predicted_old/offset"] / 2)
    assert half["predicted_old/offset"] < 0
    assert before["predicted_old/share"] > half["predicted_old/share"] > full["predicted_old/share"]
    assert torch.equal(train["prediction"], test["prediction"])
    renamed = DiscoverySplit(split.images, torch.arange(200) % 7, split.labelled)
    assert corrected(renamed, read, {}, **options, strength=1.0)[2] == full


def test_without_a_correction_predictions_are_untouched():
    read = read_of(random_logits())
    train, test, _ = corrected(split_of(), read, {}, num_old=3, num_classes=7, strength=0.0)
    assert train is read and test == {}


def test_nothing_to_correct_is_said_and_left(caplog):
    logits = random_logits()
    only_old = {name: value for name, value in read_of(logits, old=7).items() if "group" not in name}
    assert best_of_groups(logits, 7) == {}
    for split, read, classes in ((split_of(), only_old, 7), (split_of(labelled=160), read_of(logits, labelled=160), 7)):
        train, _, figures = corrected(split, read, {}, num_old=3, num_classes=classes, strength=1.0)
        assert train is read and "predicted_old/offset" not in figures
    assert caplog.text.count("nothing is adjusted") == 2


def test_a_corrected_table_marks_the_rows_of_the_classifier_and_no_others():
    figures = {f"{row}/all/accuracy": 0.5 for row in ("discovery", "kmeans", "inductive")}
    table = format_discovery(figures, "all images", adjusted=True)
    assert "one assignment (v2) (adjusted)" in table and "test images (adjusted)" in table
    assert table.count("adjusted") == 2 and "adjusted" not in format_discovery(figures, "all images")
    stages = format_stages({"stage/1/classes": 4.0, "stage/1/all/accuracy": 0.5}, adjusted=True)
    assert "lost: forgetting), not adjusted" in stages


def test_the_line_of_the_table():
    figures = {"predicted_old/share": 0.5, "predicted_old/expected_share": 0.25, "predicted_old/offset": -1.0}
    assert described_bias({}) == ""
    assert described_bias(figures).strip() == (
        "unlabelled images predicted as old classes by the rows of the classifier, with 1.000 subtracted from the "
        "logits of old classes: 50.0 (25.0 if old and new classes are equally large)"
    )

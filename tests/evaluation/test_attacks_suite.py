"""`suite=attacks` and `suite=attacks_discovery` on models that are small enough to know."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.evaluation.attacks import evaluate_attacks, sampled
from meru.evaluation.attacks_discovery import (
    attacks_discovery_figure,
    evaluate_attacks_discovery,
    format_attacks_discovery,
)
from meru.reports.attacks import attacks_figure, format_attacks

COLOURS = ("red", "green", "blue")
LABELS = torch.arange(3).repeat_interleave(4)
SETTINGS = {
    "attack_images": 12, "attack_steps": 4, "attack_strengths": [1, 40], "captions_per_image": None, "split": None,
}  # fmt: skip


def picture(label, number):
    """An image in which the channel of its class is a little brighter, by a number of its own."""
    image = torch.full((3, 4, 4), 100 + number, dtype=torch.uint8)
    image[label] += 30
    return image


PICTURES = torch.stack([picture(label, place) for place, label in enumerate(LABELS.tolist())])


class Model:
    """Embeds an image by its mean colour, a caption by the colour that it names."""

    on_sphere = False

    def embed_image(self, images):
        images = images / 255 if images.dtype == torch.uint8 else images
        mean = images.mean(dim=(2, 3))
        points = mean - mean.mean(dim=1, keepdim=True) + 1e-4
        return F.normalize(points, dim=1) if self.on_sphere else points

    def embed_text(self, tokens):
        return F.one_hot(tokens[:, 0], 3).float()

    def similarity(self, queries, gallery):
        return 10 * F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).t()

    def radius(self, points):
        return points.norm(dim=1)


def subject(model=None, **changes):
    captions = [(f"a {COLOURS[label]} bird", f"{COLOURS[label]} wings") for label in LABELS.tolist()]
    records = tuple(ImageRecord(Path(f"{n}.png"), int(LABELS[n]), captions[n]) for n in range(12))
    data = ImageTextData(COLOURS, (), (), records)

    def tokenize(texts):
        return torch.tensor([[next((n for n, each in enumerate(COLOURS) if each in text), 0)] for text in texts])

    def batches_of(some):
        places = torch.tensor([int(record.path.stem) for record in some])
        yield {"image": PICTURES[places], "image_index": torch.arange(len(some)), "class_index": LABELS[places]}

    return SimpleNamespace(
        model=model or Model(), data=data, records=lambda: records, batches_of=batches_of, tokenize=tokenize,
        settings={**SETTINGS, **changes}, device=torch.device("cpu"),
    )  # fmt: skip


def test_retrieval_survives_weak_attacks_and_not_strong_ones():
    figures = evaluate_attacks(subject())
    for direction in ("text_to_image", "image_to_text"):
        assert figures[f"clean/{direction}/class/recall@1"] == 1
        for attack in ("pgd", "apgd_ce", "apgd_dlr", "apgd"):
            assert figures[f"{attack}/1/{direction}/class/recall@1"] == 1
            assert figures[f"{attack}/40/{direction}/class/recall@1"] < 0.6
    assert figures["apgd/40/auroc_above"] + figures["apgd/40/auroc_below"] == pytest.approx(1)
    assert figures["apgd/40/chance_auroc_below"] == 0.5
    assert figures["caption/order/text_to_image/class/recall@1"] == 1  # the words are a set to this model
    assert figures["caption/deletion_worst/text_to_image/class/recall@1"] < 1  # the colour is gone
    table = format_attacks(figures, "test split")
    assert "worse of APGD-CE and APGD-DLR, ε = 40" in table and "12 images, 24 captions" in table
    assert "captions, synonyms, least similar of 4 draws" in table
    assert len(attacks_figure(figures, "test split").axes) == 4


def test_on_a_sphere_no_distance_gives_an_attack_away():
    model = Model()
    model.on_sphere = True
    figures = evaluate_attacks(subject(model, attack_strengths=[2], attack_images=6))
    assert figures["pgd/2/auroc_above"] is None and figures["pgd/2/auroc_below"] is None
    assert attacks_figure(figures).axes and "PGD, ε = 2" in format_attacks(figures, "")


def test_the_sample_is_seeded_and_has_wrong_captions():
    records = subject().records()
    assert sampled(records, 5) == sampled(records, 5) and len(sampled(records, 5)) == 5
    assert sampled(records, 50) == list(records)
    with pytest.raises(UserError, match="of fewer than three classes"):
        given = subject()
        given.records = lambda: records[:4]
        evaluate_attacks(given)


def test_a_model_without_gradients_is_one_line():
    class Exported(Model):
        @torch.no_grad()
        def embed_image(self, images):
            return super().embed_image(images)

    with pytest.raises(UserError, match="no gradient with respect to the pixels"):
        evaluate_attacks(subject(Exported()))


class Classifier(Model):
    """Predicts the brightest colour."""

    temperature, num_classes, curvature = 0.1, 3, 1.0

    def predict(self, images):
        return 10 * self.embed_image(images)

    class_logits = predict

    def embed_ball(self, images):
        return 0.5 * self.embed_image(images).tanh()


def discovery(model, *, labels=LABELS, **changes):
    split = DiscoverySplit(PICTURES, labels, torch.arange(12) == 0)
    data = DiscoveryData(COLOURS, 2, split, split.where(torch.zeros(12, dtype=torch.bool)))

    def batches(images, known):
        yield {"image": images, **known}

    settings = {**SETTINGS, **changes}
    return SimpleNamespace(model=model, data=data, batches=batches, settings=settings, device=torch.device("cpu"))


def test_a_classifier_loses_its_predictions_and_classes_stay_assigned():
    figures = evaluate_attacks_discovery(discovery(Classifier()))
    assert figures["images"] == 11 and figures["clean/changed"] == 0
    assert [figures[f"clean/{group}/accuracy"] for group in ("all", "old", "new")] == [1, 1, 1]
    assert figures["apgd/1/all/accuracy"] == 1 and figures["apgd/40/changed"] == 1
    # A new assignment would give classes that are all mistaken for one other class full marks again.
    assert figures["apgd/40/all/accuracy"] == 0
    assert figures["clean/all/chance_accuracy"] == pytest.approx((3 * 3 + 4 * 4 + 4 * 4) / 11**2)
    assert 0 <= figures["apgd/40/auroc_below"] <= 1
    assert "PGD, ε = 40" in format_attacks_discovery(figures, "unlabelled images")
    assert len(attacks_discovery_figure(figures).axes) == 4


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (Model(), {}, "which this model does not have: choose suite=attacks"),
        (Classifier(), {"labels": LABELS.where(torch.arange(12) < 11, -1)}, "classes of some images are not known"),
        (Classifier(), {"split": "validation"}, "no validation split"),
    ],
)
def test_what_cannot_be_attacked_is_one_line(model, changes, said):
    with pytest.raises(UserError, match=said):
        evaluate_attacks_discovery(discovery(model, **changes))

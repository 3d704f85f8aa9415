"""Classes found by k-means on the features of any tower, and by the classifier of a run of category discovery."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.errors import UserError
from meru.evaluation.discovery import classes_found_figure, evaluate_discovery, format_classes_found

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])


def subject(features, *, labelled=None, names=("a", "b", "c"), split=None, classifies=False, decodes=True):
    """Images whose features are given, all of the tower; embeddings are the features turned around."""
    labelled = torch.zeros(len(LABELS), dtype=torch.bool) if labelled is None else labelled
    images = torch.arange(len(LABELS), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    train = DiscoverySplit(images, LABELS, labelled)
    data = DiscoveryData(names, 2, train, train.where(torch.zeros(len(LABELS), dtype=torch.bool)))
    tower = SimpleNamespace(embed_image=lambda batch: -features[batch[:, 0, 0, 0].long()])
    tower.image_features = lambda batch: features[batch[:, 0, 0, 0].long()]
    if classifies:
        tower.features, tower.class_logits = tower.image_features, lambda rows: F.normalize(rows, dim=-1)

    def batches(images, known):
        kept = slice(None) if decodes else slice(0)
        return [{"image": images[kept], **{name: values[kept] for name, values in known.items()}}]

    return SimpleNamespace(
        model=tower, data=data, batches=batches, settings={"split": split}, device=torch.device("cpu")
    )


SEPARATE = torch.eye(3)[LABELS] + 0.01 * torch.rand(12, 3, generator=torch.Generator().manual_seed(0))


def test_classes_that_lie_apart_are_found_by_every_grouping():
    figures = evaluate_discovery(subject(SEPARATE, classifies=True))
    for row in ("kmeans", "kmeans_embedded", "classifier"):
        assert [figures[f"{row}/{group}/accuracy"] for group in ("all", "old", "new")] == [1, 1, 1]
        assert 0.3 < figures[f"{row}/all/chance_accuracy"] < 0.8
    table = format_classes_found(figures, "unlabelled images")
    assert "12 images, 8 of old and 4 of new classes; 3 classes" in table and "the run's classifier" in table
    assert classes_found_figure(figures, "title").axes


def test_only_unlabelled_images_are_grouped_and_a_tower_alone_has_one_row():
    labelled = torch.arange(12) < 2
    given = subject(SEPARATE, labelled=labelled)
    given.model.embed_image = given.model.image_features
    figures = evaluate_discovery(given)
    assert figures["kmeans/old/images"] == 6 and figures["kmeans/new/images"] == 4
    assert not any(name.startswith(("kmeans_embedded", "classifier")) for name in figures)


def test_what_cannot_be_grouped_is_one_line():
    for given, said in (
        (subject(SEPARATE, split="validation"), "no validation split"),
        (subject(SEPARATE, split="test"), "split=test: the data have no test images"),
        (subject(SEPARATE, decodes=False), "none of the 12 images decodes"),
        (subject(SEPARATE, names=tuple("abcdefghijklm")), "12 images cannot be grouped into the 13 classes"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_discovery(given)

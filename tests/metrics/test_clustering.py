"""k-means finds separated blobs, and how many there are."""

import math

import pytest
import torch

from meru.metrics.clustering import (
    _smooth_maximum,
    estimate_num_classes,
    kmeans,
    principal_components,
    whitened,
)
from meru.metrics.discovery import discovery_metrics


def blobs(classes, of_each=20, spread=0.15, dimension=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(classes, dimension, generator=generator), dim=1) * 2
    labels = torch.arange(classes).repeat_interleave(of_each)
    return centres[labels] + spread * torch.randn(len(labels), dimension, generator=generator), labels


def half_labelled(labels, num_old):
    """Every second image of the old classes."""
    return (labels < num_old) & (torch.arange(len(labels)) % 2 == 0)


def test_separated_blobs_are_found():
    features, labels = blobs(6)
    clusters = kmeans(features, 6, seed=1)
    assert discovery_metrics(clusters, labels, 3)["discovery/all/accuracy"] == 1
    assert torch.equal(clusters, kmeans(features, 6, seed=1))


@pytest.mark.parametrize(("classes", "num_old", "seed"), [(20, 10, 0), (20, 10, 1), (30, 20, 0), (12, 11, 0)])
def test_the_number_of_classes_is_estimated_within_a_tenth(classes, num_old, seed):
    features, labels = blobs(classes, dimension=16, seed=seed)
    labelled = half_labelled(labels, num_old)
    hidden = torch.where(labelled, labels, 0)  # true labels of the others must not matter
    number, scores = estimate_num_classes(features, hidden, labelled, num_old, maximum=3 * num_old, seed=seed)
    assert abs(number - classes) <= classes / 10, scores
    assert all(0 <= score <= 1 for score in scores.values()) and number in scores
    assert (number, scores) == estimate_num_classes(features, hidden, labelled, num_old, maximum=3 * num_old, seed=seed)


def test_the_estimate_is_that_of_a_part_of_many_rows():
    features, labels = blobs(10, of_each=100, dimension=16)
    labelled = half_labelled(labels, 6)
    number, _ = estimate_num_classes(features, labels, labelled, 6, maximum=25, most=300)
    assert abs(number - 10) <= 1


def test_one_lucky_number_does_not_win():
    hill = {number: 1 - abs(math.log(number / 100)) for number in (60, 80, 90, 95, 100, 105, 110, 125, 160)}
    assert _smooth_maximum(hill) == 100
    assert _smooth_maximum({**hill, 160: 0.9}) in (95, 100, 105)
    assert _smooth_maximum({number: number / 100 for number in range(50, 90, 5)}) == 85
    assert _smooth_maximum({7: 0.5}) == 7 and _smooth_maximum({7: 0.5, 9: 0.5}) == 7


def test_components_keep_distances_where_there_are_enough():
    features, _ = blobs(5, dimension=6)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(0))).Q
    flat = torch.cat([features, torch.zeros(len(features), 4)], dim=1) @ rotation
    reduced = principal_components(flat, 6)
    torch.testing.assert_close(torch.cdist(reduced, reduced), torch.cdist(features, features), atol=1e-2, rtol=1e-3)
    assert principal_components(flat, 20).shape == (100, 10)


def test_whitening_shrinks_what_labelled_images_of_a_class_differ_in():
    features, labels = blobs(6, of_each=50)
    features[:, 0] += 30 * torch.randn(len(features), generator=torch.Generator().manual_seed(1))
    labelled = half_labelled(labels, 4)
    white = whitened(features, torch.where(labelled, labels, 99), labelled, shrinkage=1e-6)
    assert discovery_metrics(kmeans(features, 6), labels, 4)["discovery/new/accuracy"] < 0.7
    assert discovery_metrics(kmeans(white, 6), labels, 4)["discovery/new/accuracy"] > 0.9
    spread = torch.cat([white[labelled & (labels == each)] for each in range(4)]).view(4, 25, 8)
    variance = (spread - spread.mean(dim=1, keepdim=True)).flatten(0, 1).square().sum(dim=0) / 96
    torch.testing.assert_close(variance, torch.ones(8), atol=0.3, rtol=0)
    one_each = torch.zeros_like(labelled)
    one_each[[0, 50, 100]] = True
    assert torch.equal(whitened(features, labels, one_each), features)


def test_what_cannot_be_clustered():
    features, labels = blobs(4)
    labelled = half_labelled(labels, 3)
    with pytest.raises(ValueError, match="81 clusters of 80 rows"):
        kmeans(features, 81)
    with pytest.raises(ValueError, match="1 labelled classes, 10 labelled rows: at least two"):
        estimate_num_classes(features, labels, half_labelled(labels, 1), 1, maximum=8)
    with pytest.raises(ValueError, match="maximum=81"):
        estimate_num_classes(features, labels, labelled, 3, maximum=81)
    with pytest.raises(ValueError, match="maximum=3"):
        estimate_num_classes(features, labels, labelled, 4, maximum=3)
    features[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        kmeans(features, 4)
    with pytest.raises(ValueError, match="NaN or infinite"):
        estimate_num_classes(features, labels, labelled, 3, maximum=8)

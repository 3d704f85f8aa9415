"""k-means finds separated blobs, keeps labelled rows in their class, and tells how many blobs there are."""

import pytest
import torch

from meru.evaluation.clustering import estimate_num_classes, kmeans, semi_supervised_kmeans
from meru.evaluation.discovery import discovery_metrics


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


def test_labelled_rows_stay_and_clusters_of_old_classes_bear_their_numbers():
    features, labels = blobs(6)
    labelled = half_labelled(labels, 3)
    features[0] = features[-1]  # labelled 0, but where class 5 is
    clusters = semi_supervised_kmeans(features, labels, labelled, 6)
    assert torch.equal(clusters[labelled], labels[labelled])
    assert torch.equal(clusters[labels < 3], labels[labels < 3])
    assert discovery_metrics(clusters, labels, 3)["discovery/all/accuracy"] == 1


@pytest.mark.parametrize(("classes", "num_old"), [(20, 10), (30, 20)])
def test_the_number_of_classes_is_estimated_within_a_sixth(classes, num_old):
    features, labels = blobs(classes, dimension=16)
    hidden = torch.where(half_labelled(labels, num_old), labels, 0)  # true labels of the others must not matter
    number, scores = estimate_num_classes(
        features, hidden, half_labelled(labels, num_old), num_old, maximum=3 * num_old
    )
    assert abs(number - classes) <= classes / 6, scores
    assert all(-0.5 <= score <= 1 for score in scores.values()) and number in scores


def test_without_labels_and_with_identical_points():
    features, labels = blobs(4)
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    clusters = semi_supervised_kmeans(features, labels, nobody, 4, seed=1)
    assert len(clusters.unique()) == 4
    same = semi_supervised_kmeans(torch.ones(5, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=bool), 3)
    assert same.shape == (5,)


def test_what_cannot_be_clustered():
    features, labels = blobs(4)
    labelled = half_labelled(labels, 3)
    with pytest.raises(ValueError, match="2 clusters for 3 labelled classes"):
        semi_supervised_kmeans(features, labels, labelled, 2)
    with pytest.raises(ValueError, match="81 clusters of 80 rows"):
        kmeans(features, 81)
    with pytest.raises(ValueError, match="too few to hide"):
        estimate_num_classes(features, labels, labelled, 3, maximum=8)
    with pytest.raises(ValueError, match="maximum=3"):
        estimate_num_classes(features, labels, labelled, 4, maximum=3)
    features[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        kmeans(features, 4)

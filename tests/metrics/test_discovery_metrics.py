"""Discovery figures against every possible assignment, and the laws they obey."""

import itertools

import pytest
import torch

from meru.metrics.discovery import discovery_metrics


def best_of_all(predictions, labels, clusters, classes):
    """The most images that any one-to-one map from clusters to classes makes right, and the map."""
    numbers = list(range(classes)) + [None] * max(0, clusters - classes)
    return max(
        ((sum(assigned[p] == y for p, y in zip(predictions, labels, strict=True)), assigned)
         for assigned in itertools.permutations(numbers, clusters)),
        key=lambda pair: pair[0],
    )  # fmt: skip


def random(n, clusters, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    noise = torch.randint(0, clusters, (n,), generator=generator)
    kept = torch.rand(n, generator=generator) < 0.4
    return torch.where(kept, labels.clamp(max=clusters - 1), noise), labels


@pytest.mark.parametrize(("clusters", "classes"), [(4, 4), (3, 5), (6, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_that_of_the_best_assignment(clusters, classes, seed):
    predictions, labels = random(40, clusters, classes, seed)
    most, _ = best_of_all(predictions.tolist(), labels.tolist(), clusters, classes)
    assert discovery_metrics(predictions, labels, 2)["discovery/all/accuracy"] == pytest.approx(most / 40)


def test_one_assignment_serves_old_and_new_and_they_add_up_to_all():
    for seed in range(10):
        predictions, labels = random(200, 8, 7, seed)
        figures = discovery_metrics(predictions, labels, 3)
        old, new = figures["discovery/old/images"], figures["discovery/new/images"]
        parts = old * figures["discovery/old/accuracy"] + new * figures["discovery/new/accuracy"]
        assert figures["discovery/all/accuracy"] == pytest.approx(parts / (old + new), rel=1e-12)
        assert figures["discovery_v1/all/accuracy"] >= figures["discovery/all/accuracy"]


def test_names_of_clusters_do_not_matter():
    predictions, labels = random(100, 6, 6, 0)
    renamed = torch.tensor([40, 3, 17, 8, 1, 99])[predictions]
    first, second = discovery_metrics(predictions, labels, 3), discovery_metrics(renamed, labels, 3)
    assert {k: v for k, v in first.items() if "chance" not in k} == {
        k: pytest.approx(v) for k, v in second.items() if "chance" not in k
    }


def test_two_assignments_let_a_cluster_serve_twice():
    """One cluster of class 0, old, and class 1, new: v1 calls everything right."""
    figures = discovery_metrics(torch.zeros(6, dtype=torch.long), torch.tensor([0, 0, 0, 0, 1, 1]), 1)
    assert figures["discovery/all/accuracy"] == pytest.approx(4 / 6) and figures["discovery/new/accuracy"] == 0
    assert figures["discovery_v1/all/accuracy"] == 1
    assert figures["discovery_balanced/all/accuracy"] == 0.5
    assert figures["discovery/all/adjusted_rand_index"] == 0


def test_perfect_and_random_predictions():
    labels = torch.arange(60) % 6
    perfect = discovery_metrics(5 - labels, labels, 3)
    for name in ("discovery/new/accuracy", "discovery_v1/old/accuracy", "discovery_balanced/all/accuracy"):
        assert perfect[name] == 1
    assert perfect["discovery/all/normalized_mutual_information"] == pytest.approx(1)
    assert 1 / 6 < perfect["discovery/all/chance_accuracy"] < 0.4  # the assignment makes the best of noise
    for row in ("discovery_balanced", "discovery_v1"):  # classes are equally large; two assignments fit noise better
        assert perfect["discovery/all/chance_accuracy"] <= perfect[f"{row}/all/chance_accuracy"] + 1e-12
    assert perfect["discovery_v1/all/chance_accuracy"] > perfect["discovery_balanced/all/chance_accuracy"]


def test_only_old_or_only_new_images():
    labels = torch.tensor([0, 0, 1])
    assert not any(name.startswith("discovery/new") for name in discovery_metrics(labels, labels, 2))
    assert not any(name.startswith("discovery/old") for name in discovery_metrics(labels, labels, 0))


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0, 1], [0], "predictions of shape"),
        ([], [], "no images"),
        ([0, -1], [0, 1], "not be negative"),
        ([0, 1], [0, -1], "not be negative"),
    ],
)
def test_what_cannot_be_measured(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        discovery_metrics(torch.tensor(predictions, dtype=torch.long), torch.tensor(labels, dtype=torch.long), 1)


def test_images_taken_for_the_other_kind_of_class_in_a_small_table():
    """Cluster 0 is old class 0, 1 is new class 2, 2 is old class 1; 2 + 1 of 6 new images are old, 2 of 11 old new."""
    counts = {(0, 0): 5, (2, 1): 4, (1, 2): 3, (0, 2): 2, (2, 3): 1, (1, 0): 2}
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    predictions, labels = torch.tensor(pairs).T
    figures = discovery_metrics(predictions, labels, 2)
    assert figures["discovery/new_as_old/share"] == pytest.approx(3 / 6)
    assert 0 < figures["discovery/new_as_old/chance_share"] < 1
    assert figures["discovery/old_as_new/share"] == pytest.approx(2 / 11)
    assert 0 < figures["discovery/old_as_new/chance_share"] < 1


def test_unassigned_clusters_are_not_old_ones():
    predictions, labels = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1])
    assert discovery_metrics(predictions, labels, 1)["discovery/new_as_old/share"] == 0
    swapped = discovery_metrics(predictions, 1 - labels, 1)  # now the unassigned cluster is of the old class
    assert swapped["discovery/old_as_new/share"] == 0
    assert "discovery/new_as_old/share" not in discovery_metrics(predictions, labels, 2)

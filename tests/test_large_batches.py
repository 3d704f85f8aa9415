"""Models compute losses of large batches by tiles: the same loss and gradients, in one process and in two."""

import math

import pytest
import torch
from process_groups import results_of
from test_distributed import BATCH, CASES, SIGMOID, WORLD, build, gradients, whole_batch
from torch.nn.parallel import DistributedDataParallel

from meru.geometry import tiles
from meru.geometry.spaces import Sphere
from meru.losses import tiled
from meru.models.clip import CLIP
from meru.models.large_batches import goes_by_tiles
from meru.models.meru import MERU

KINDS = [*CASES, (MERU, "image", SIGMOID)]


def model_of(case, *, by_tiles, margin_source="intra"):
    model = build(*KINDS[case])
    model.tiled_from = 0 if by_tiles else math.inf
    model.loss = model.loss | {"semantic_margin": model.loss["semantic_margin"] | {"margin_source": margin_source}}
    return model


def step_of(model, batch):
    output = model(batch)
    output.loss.backward()
    return output.loss.detach(), gradients(model)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(tiles.TILE, "cpu", (4, 5))


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: name + text, **tolerance)


@pytest.mark.parametrize("margin_source", ["intra", "cross"])
@pytest.mark.parametrize("case", range(len(KINDS)))
def test_a_step_by_tiles_is_a_step_on_whole_matrices(case, margin_source, monkeypatch):
    calls = []
    original = tiled._TiledContrast.apply
    monkeypatch.setattr(tiled._TiledContrast, "apply", lambda *given: calls.append(given) or original(*given))
    found, of_tiles = step_of(model_of(case, by_tiles=True, margin_source=margin_source), whole_batch())
    assert calls
    calls.clear()
    expected, of_matrix = step_of(model_of(case, by_tiles=False, margin_source=margin_source), whole_batch())
    assert not calls
    torch.testing.assert_close(found, expected)
    assert_same(of_tiles, of_matrix, atol=2e-5, rtol=1e-3)


def test_squared_distances_and_growing_soft_labels_go_by_tiles_too():
    batch = whole_batch() | {"epoch": torch.tensor(0.3)}
    losses = []
    for by_tiles in (True, False):
        model = model_of(2, by_tiles=by_tiles)
        model.squares_distance = True
        losses.append(step_of(model, batch))
    torch.testing.assert_close(losses[0][0], losses[1][0])
    assert_same(losses[0][1], losses[1][1], atol=2e-5, rtol=1e-3)


def steps_by_tiles(rank):
    share = BATCH // WORLD
    batch = {name: value[rank * share :][:share] for name, value in whole_batch().items()}
    steps = []
    for case in range(len(KINDS)):
        model = model_of(case, by_tiles=True)
        parallel = DistributedDataParallel(model)
        output = parallel(batch)
        output.loss.backward()
        steps.append((output.loss.detach(), gradients(model)))
    return steps


@pytest.fixture(scope="module")
def steps_of_two():
    """Loss and gradients of every case in each of two processes, which are started once."""
    return results_of(steps_by_tiles)


@pytest.mark.parametrize("case", range(len(KINDS)))
def test_two_processes_by_tiles_are_one_on_whole_matrices(case, steps_of_two):
    expected, of_one = step_of(model_of(case, by_tiles=False), whole_batch())
    (first_loss, first), (second_loss, second) = (steps[case] for steps in steps_of_two)
    torch.testing.assert_close((first_loss + second_loss) / 2, expected)
    assert_same(first, of_one, atol=3e-5, rtol=1e-3)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tiles_are_used_from_a_million_pairs_on():
    model = build(CLIP, "pair")
    assert not goes_by_tiles(model, 1023) and goes_by_tiles(model, 1024)


def test_a_model_or_space_that_compares_in_its_own_way_is_left_alone():
    class OwnSpace(Sphere):
        """Compares in another way."""

    class OwnSimilarity(CLIP):
        """Compares in another way."""

        def similarity(self, queries, gallery):
            return 2 * super().similarity(queries, gallery)

    class InOwnSpace(CLIP):
        """In a space of its own."""

        space = OwnSpace()

    assert not any(goes_by_tiles(build(kind, "pair"), 4096) for kind in (OwnSimilarity, InOwnSpace))

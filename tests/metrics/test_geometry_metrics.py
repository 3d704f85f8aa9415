"""Measures of how features fill their space, against loops and cases that are known."""

import math

import pytest
import torch
from torch.nn import functional as F

from meru.geometry import lorentz
from meru.metrics.geometry import alignment, angles, bending, effective_rank, modality_gap, quantiles, tied, uniformity


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def centred_columns(count, rank):
    """Orthonormal columns `(count, rank)` with mean 0."""
    columns = some(count, rank)
    return torch.linalg.qr(columns - columns.mean(dim=0)).Q


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_of_equal_singular_values_is_their_number(rank):
    directions = torch.linalg.qr(some(8, rank, seed=1)).Q
    features = 3 * centred_columns(20, rank) @ directions.T + 7  # an offset is not a dimension
    assert effective_rank(features) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_unequal_singular_values_follows_the_entropy():
    features = centred_columns(20, 2) * torch.tensor([3.0, 1.0])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("row", [torch.zeros(4), some(4)])
def test_equal_rows_have_effective_rank_0(row):
    assert effective_rank(row.expand(9, 4)) == 0


def test_quantiles_are_those_of_torch_and_need_a_value():
    values = some(7, 13)
    expected = torch.quantile(values.double(), torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    assert [*quantiles(values).values()] == pytest.approx(expected)
    assert quantiles(torch.tensor([2.0])) == {"5": 2, "50": 2, "95": 2}
    with pytest.raises(ValueError, match="of nothing"):
        quantiles(values[:0])


def test_gap_of_two_modalities_is_the_distance_of_their_mean_directions():
    x, y = torch.tensor([[2.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert modality_gap(x, y) == pytest.approx(math.sqrt(2))
    assert modality_gap(x, 4 * x) == pytest.approx(0)


def test_alignment_and_uniformity_are_those_of_loops():
    x, y = some(6, 5), some(6, 5, seed=1)
    directions = F.normalize(x, dim=-1)
    expected = [(directions[i] - F.normalize(y[i], dim=0)).square().sum().item() for i in range(6)]
    assert alignment(x, y) == pytest.approx(sum(expected) / 6, rel=1e-5)
    pairs = [
        math.exp(-2 * (directions[i] - directions[j]).square().sum().item()) for i in range(6) for j in range(i)
    ]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    assert uniformity(x[:1]) is None and uniformity(x[:1].expand(3, 5)) == pytest.approx(0)


def test_angles_are_in_degrees_and_exact_for_near_directions():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1e-9]], dtype=torch.float64)
    assert angles(x, y).tolist() == pytest.approx([0, 90, 180, math.degrees(1e-9)])


def test_a_score_is_tied_if_another_equals_it():
    scores = torch.tensor([[1.0, 2.0, 1.0, 3.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    assert tied(scores).tolist() == [0.5, 0, 1]
    assert tied(scores[:, :1]).tolist() == [0, 0, 0]


def test_distances_bend_with_the_radius_only_where_space_is_curved():
    directions = F.normalize(some(50, 3), dim=-1)
    x, y = directions[:25], directions[25:]
    bent = []
    for radius in (1e-3, 0.5, 2.0):
        points = (lorentz.exp_map0(radius * each.double(), 1.0) for each in (x, y))
        bent.append(bending(lorentz.distance(*points, 1.0), radius * x, radius * y))
    assert abs(bent[0]) < 1e-3 and bent[0] < bent[1] < bent[2] and bent[2] > 0.2
    assert bending((x - y).norm(dim=-1), x, y) == pytest.approx(0, abs=1e-6)
    assert bending(torch.zeros(4), x[:4], x[:4]) is None

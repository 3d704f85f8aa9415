"""ARGENT's entailment and regulariser of norms, by loops, at their limits, and where points meet."""

import math

import pytest
import torch

from meru.geometry import lorentz
from meru.geometry.spaces import Euclidean, Hyperboloid
from meru.losses.entailment import entailment_angle, norm_regulariser

SPACES = [Hyperboloid(0.5), Hyperboloid(2.0), Euclidean()]


def pairs(dtype=torch.float64, count=12):
    generator = torch.Generator().manual_seed(0)
    general = 0.5 * torch.randn(count, 3, generator=generator, dtype=dtype)
    specific = torch.randn(count, 3, generator=generator, dtype=dtype)
    specific[::2] = 2 * general[::2] + 0.2 * specific[::2]  # every other one almost straight beyond
    return general, specific


def printed(general, specific, curvature, within_modality):
    """One pair by the printed formulas, with arccosines; curvature 0 is flat space."""
    x, y = general.tolist(), specific.tolist()
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    norm_x, square_y = math.sqrt(sum(a * a for a in x)), sum(b * b for b in y)
    if curvature:
        x_time, y_time = (math.sqrt(1 / curvature + square) for square in (norm_x**2, square_y))
        inner = curvature * (dot - x_time * y_time)
        angle = math.acos((y_time + x_time * inner) / (norm_x * math.sqrt(inner**2 - 1)))
        distance = math.acosh(-inner) / math.sqrt(curvature)
    else:
        distance = math.dist(x, y)
        angle = math.acos((dot - norm_x**2) / (norm_x * distance))
    if within_modality:
        angle *= 1 - math.exp(-distance)
    return angle**2 / 2 if angle <= 1 else angle - 0.5


@pytest.mark.parametrize("within_modality", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_it_is_the_printed_formula(space, within_modality):
    general, specific = pairs()
    ours = entailment_angle(general, specific, space, within_modality=within_modality)
    curvature = getattr(space, "curvature", 0)
    expected = [printed(x, y, curvature, within_modality) for x, y in zip(general, specific, strict=True)]
    assert min(expected) < 0.5 < max(expected)  # both branches of Huber's loss
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("within_modality", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_gradients_are_those_of_differences(space, within_modality):
    general, specific = (each.requires_grad_() for each in pairs(count=4))
    assert torch.autograd.gradcheck(
        lambda x, y: entailment_angle(x, y, space, within_modality=within_modality), (general, specific)
    )


@pytest.mark.parametrize("space", [Hyperboloid(1.0), Euclidean()])
def test_far_apart_the_weight_within_a_modality_is_one_and_near_it_is_the_distance(space):
    general, specific = pairs()
    loss = {within: entailment_angle(general, 1e4 * specific, space, within_modality=within) for within in (0, 1)}
    torch.testing.assert_close(loss[1], loss[0], rtol=2e-3, atol=0)
    beside = general + 1e-4 * specific
    weighted, plain = (entailment_angle(general, beside, space, within_modality=within) for within in (True, False))
    angle = space.exterior_angle(general, beside)
    torch.testing.assert_close(weighted, (space.distance(general, beside) * angle) ** 2 / 2, rtol=1e-3, atol=0)
    assert (weighted < 1e-6 * plain).all()


@pytest.mark.parametrize("within_modality", [False, True])
@pytest.mark.parametrize("space", [Hyperboloid(1.0), Euclidean()])
def test_gradients_are_finite_where_points_meet_at_the_origin_and_far_out(space, within_modality):
    far = lorentz.exp_map0(torch.tensor([20.0, 0.0]))
    places = torch.stack([torch.zeros(2), torch.tensor([1e-6, 0.0]), torch.tensor([0.3, 0.4]), far, -far])
    general, specific = (each.requires_grad_() for each in (places[:, None].clone(), places[None].clone()))
    loss = entailment_angle(general, specific, space, within_modality=within_modality)
    loss.sum().backward()
    assert loss.isfinite().all() and general.grad.isfinite().all() and specific.grad.isfinite().all()
    assert (loss.diagonal() == 0).all() and (loss[0] == 0).all()


def test_an_apex_within_the_dead_radius_of_cones_is_still_taught():
    general = torch.tensor([[0.05, 0.0]], requires_grad=True)
    specific = torch.tensor([[0.5, 0.5]], requires_grad=True)
    entailment_angle(general, specific, Hyperboloid(1.0)).sum().backward()
    assert general.grad.norm() > 0.1 and specific.grad.norm() > 0.1


def test_the_norm_regulariser_is_the_printed_one_and_finite_at_the_origin():
    points = torch.tensor([[0.1, 0.0], [0.3, 0.4], [3.0, 4.0], [3e4, 0.0]], requires_grad=True)
    norms = [0.1, 0.5, 5.0, 3e4]
    expected = torch.tensor([norm**2 - math.log(norm) for norm in norms])
    torch.testing.assert_close(norm_regulariser(points), expected, rtol=1e-6, atol=1e-6)
    norm_regulariser(points).sum().backward()
    torch.testing.assert_close(points.grad.norm(dim=1), torch.tensor([abs(2 * n - 1 / n) for n in norms]))
    near = torch.tensor([[0.0, 0.0], [1e-8, 0.0], [1e-4, 0.0]], requires_grad=True)
    norm_regulariser(near).sum().backward()
    assert near.grad.isfinite().all() and (near.grad[1:, 0] < 0).all()  # descent leads away from the origin
    assert near.grad.norm(dim=1).max() <= 5000.1


def test_the_norm_regulariser_is_smallest_at_the_root_of_a_half():
    norms = torch.linspace(0.1, 2, 1901)
    assert norms[norm_regulariser(norms[:, None]).argmin()].item() == pytest.approx(0.5**0.5, abs=1e-3)

"""HypGCD's two losses against loops over the printed formulas, and where there is nothing to learn from."""

import math

import pytest
import torch
from torch.nn import functional as F

from meru.geometry import poincare
from meru.losses.hypgcd import (
    category_loss,
    choose_ancestor,
    contrast_with_centres,
    draw_members,
    draw_triplets,
    gumbel_noise,
    local_hierarchy_loss,
    midpoint_distances,
    reciprocal_neighbours,
)
from meru.losses.hypgcd_released import released_category_loss, released_distance, released_hierarchy_loss


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ball(n, dimension=6, c=0.1, seed=0):
    return poincare.exp_map0(poincare.clip_features(random(n, dimension, seed=seed), 2.3), c)


def distance(x, y, c):
    return poincare.distance(x.double(), y.double(), c).item()


# ---------------------------------------------------------------- HCL
def looped_category(points, classes, c, temperature, smoothing):
    present = sorted(set(classes))
    centres = {k: poincare.einstein_midpoint(points[[y == k for y in classes]].double(), None, c) for k in present}
    losses = []
    for z, y in zip(points, classes, strict=True):
        logits = {k: -distance(z, centres[k], c) / temperature for k in present}
        total = math.log(sum(map(math.exp, logits.values())))
        target = {k: 1 - smoothing if k == y else smoothing / (len(present) - 1) for k in present}
        losses.append(-sum(target[k] * (logits[k] - total) for k in present))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("temperature", "smoothing"), [(1.0, 0.1), (0.1, 0.0)])
def test_category_loss_equals_the_loops(temperature, smoothing):
    points, classes = ball(9), [3, 0, 3, 7, 7, 0, 0, 3, 7]
    expected = looped_category(points, classes, 0.1, temperature, smoothing)
    ours = category_loss(points, torch.tensor(classes), 0.1, temperature=temperature, smoothing=smoothing)
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_absent_classes_do_not_matter_except_as_released():
    """In the released code a class that the batch lacks has its centre at the origin, and all are driven from there."""
    points, classes = ball(6), torch.tensor([0, 0, 1, 1, 2, 2])
    assert category_loss(points, classes, 0.1) == category_loss(points, 5 * classes, 0.1)
    released = [released_category_loss(points, classes, 0.1, num_classes=number) for number in (3, 4, 10)]
    torch.testing.assert_close(released[0], category_loss(points, classes, 0.1))
    assert released[0] < released[1] < released[2]


@pytest.mark.parametrize("released", [False, True])
def test_riemannian_gradients_are_the_plain_ones_times_the_inverse_metric(released):
    """The authors' weight of 0.1 is meant with this factor: 0.094 at the clip of 2.3, and at most ¼."""
    classes, c = torch.tensor([0, 1, 0, 2, 1, 0]), 0.1
    found = {}
    for riemannian in (False, True):
        points = ball(6).requires_grad_()
        if not released:
            loss = category_loss(points, classes, c, riemannian=riemannian)
        elif riemannian:
            loss = released_category_loss(points, classes, c, num_classes=5)
        else:
            loss = contrast_with_centres(points, classes, 5, c, temperature=1.0, smoothing=0.1)
        loss.backward()
        found[riemannian] = loss.detach(), points.grad
    factor = ((1 - c * ball(6).square().sum(dim=1, keepdim=True)) / 2).square()
    torch.testing.assert_close(found[True][0], found[False][0])
    torch.testing.assert_close(found[True][1], factor * found[False][1])
    at_the_clip = poincare.exp_map0(torch.tensor([[2.3, 0.0]]), c).square().sum()
    assert ((1 - c * at_the_clip) / 2).square().item() == pytest.approx(0.0942, abs=1e-4)


def test_one_class_teaches_nothing_but_has_a_gradient():
    points = ball(4).requires_grad_()
    loss = category_loss(points, torch.zeros(4, dtype=torch.long), 0.1)
    loss.backward()
    assert loss.item() == 0 and points.grad.abs().sum() == 0


# ---------------------------------------------------------------- LHL
def looped_hierarchy(points, c, i, j, k, margin):
    """With the most likely ancestor among the points; float64."""
    d = [[distance(x, y, c) for y in points] for x in points]
    total = 0.0
    for a, b, e in zip(i.tolist(), j.tolist(), k.tolist(), strict=True):
        pair = min(range(len(points)), key=lambda r: max(d[a][r], d[b][r]))
        triple = min(range(len(points)), key=lambda r: max(d[a][r], d[b][r], d[e][r]))
        if pair != triple:
            total += max(0, d[a][pair] - d[a][triple] + margin) + max(0, d[b][pair] - d[b][triple] + margin)
            total += max(0, d[e][triple] - d[e][pair] + margin)
    return total / len(i)


def test_local_hierarchy_equals_the_loops():
    points, classes = ball(14), torch.arange(14) % 3
    torch.manual_seed(0)
    triplets = draw_triplets(poincare.pairwise_distance(points, points, 0.1), classes, neighbours=6, triplets=5)
    torch.manual_seed(0)
    loss = local_hierarchy_loss(points, classes, 0.1, neighbours=6, triplets=5, sample_ancestors=False)
    assert loss.item() == pytest.approx(looped_hierarchy(points, 0.1, *triplets, 0.1), rel=1e-3)


def test_gradients_are_those_of_all_triplets_also_of_those_left_out():
    points, classes = ball(14).requires_grad_(), torch.arange(14) % 3
    torch.manual_seed(0)
    local_hierarchy_loss(points, classes, 0.1, neighbours=6, triplets=5, sample_ancestors=False).backward()
    found, points.grad = points.grad, None
    torch.manual_seed(0)
    distances = poincare.pairwise_distance(points, points, 0.1)
    i, j, k = draw_triplets(distances.detach(), classes, neighbours=6, triplets=5)
    rows = [distances[member] for member in (i, j, k)]
    of_pair = torch.maximum(rows[0], rows[1])
    reach = of_pair, torch.maximum(of_pair, rows[2])
    pair, triple = (choose_ancestor(-each / 0.1, torch.zeros_like(each)) for each in reach)
    near, far = ([(choice * row).sum(dim=1) for row in rows] for choice in (pair, triple))
    signs = (1, 1, -1)
    hinges = sum(torch.relu(s * (a - b) + 0.1) for s, a, b in zip(signs, near, far, strict=True))
    torch.where(pair.argmax(dim=1) != triple.argmax(dim=1), hinges, 0).mean().backward()
    torch.testing.assert_close(found, points.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [0.01, 1.0])
def test_midpoints_need_the_distances_only(size):
    points = poincare.exp_map0(size * random(5, 6).double(), 0.1)
    points[4] = points[3]
    distances = poincare.pairwise_distance(points, points, 0.1).float()
    sets = [torch.tensor([0, 3, 1]), torch.tensor([1, 4, 2]), torch.tensor([2, 0, 3])]
    for members in (sets[:2], sets):
        midpoint = poincare.einstein_midpoint(torch.stack([points[member] for member in members], 1), None, 0.1)
        found = midpoint_distances(distances, members, sets, 0.1)
        for point, distance_to_midpoint in zip(sets, found, strict=True):
            expected = poincare.distance(points[point], midpoint, 0.1)
            # In the set of one point alone nothing but rounding is left, and the root of that.
            torch.testing.assert_close(distance_to_midpoint.double(), expected, rtol=1e-4, atol=2e-3 * size)


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("size", [1e-3, 0.1, 2.0])
def test_a_point_at_the_midpoint_of_its_set_has_a_bounded_gradient(size, gap):
    """In the middle of the others, the third point's distance to the midpoint of all is 0 but for rounding."""
    ends = poincare.exp_map0(size * random(100, 6).double() / 6**0.5, 0.1).view(2, 50, 6)
    middle = poincare.einstein_midpoint(ends.transpose(0, 1), None, 0.1) + gap * size * random(50, 6).double()
    points = torch.cat([*ends, middle]).float().requires_grad_()
    indices = torch.arange(150).chunk(3)
    (found,) = midpoint_distances(poincare.pairwise_distance(points, points, 0.1), indices, indices[2:], 0.1)
    (gradient,) = torch.autograd.grad(found.sum(), points)
    slope = 2 / (1 - 0.1 * points.detach().square().sum(1))  # of a distance, at most
    assert (gradient.norm(dim=1) <= 1.2 * slope).all()
    exact = points.detach().double()
    all_three = poincare.einstein_midpoint(torch.stack(exact.chunk(3), 1), None, 0.1)
    expected = poincare.distance(exact[100:], all_three, 0.1)
    torch.testing.assert_close(found.detach().double(), expected, rtol=0.1, atol=3e-3 * size)



def test_triplets_are_reciprocal_neighbours_and_others():
    points, classes = ball(20), torch.arange(20) % 4
    distances = poincare.pairwise_distance(points, points, 0.1)
    i, j, k = draw_triplets(distances, classes, neighbours=5, triplets=7)
    alike = (-distances).exp() + (classes[:, None] == classes) + 2 * torch.eye(20)
    near = [set(row.topk(5).indices.tolist()) for row in alike]
    for a, b, e in zip(i.tolist(), j.tolist(), k.tolist(), strict=True):
        assert a != b and b in near[a] and a in near[b]
        assert e != a and not (e in near[a] and a in near[e])
    counts = torch.bincount(i, minlength=20)
    for a in range(20):
        reciprocal = [b for b in near[a] if b != a and a in near[b]]
        assert counts[a] == (7 if len(reciprocal) > 1 else 0)


def test_no_reciprocal_neighbours_no_loss():
    points = ball(3).requires_grad_()
    loss = local_hierarchy_loss(points, torch.arange(3), 0.1, neighbours=1)
    loss.backward()
    assert loss.item() == 0 and points.grad.abs().sum() == 0
    whole = local_hierarchy_loss(ball(3), torch.zeros(3, dtype=torch.long), 0.1, neighbours=30)
    assert whole.item() == 0  # all are reciprocal: there is no third


def test_same_ancestors_count_nothing():
    """Two crowds: a single proxy is the ancestor of everything."""
    points, classes = ball(8), torch.arange(8) % 2
    loss = local_hierarchy_loss(
        points, classes, 0.1, neighbours=4, ancestors="proxies", proxies=ball(1, seed=3), margin=1.0
    )
    assert loss.item() == 0


@pytest.mark.parametrize("ancestors", ["batch", "midpoint", "proxies"])
@pytest.mark.parametrize("exclude", [False, True])
def test_every_kind_of_ancestor_has_finite_gradients(ancestors, exclude):
    features, proxies = random(16, 6).requires_grad_(), (0.5 * random(10, 6, seed=1)).requires_grad_()
    torch.manual_seed(0)
    loss = local_hierarchy_loss(
        poincare.exp_map0(features, 0.1),
        torch.arange(16) % 4,
        0.1,
        neighbours=6,
        triplets=4,
        ancestors=ancestors,
        proxies=poincare.exp_map0(proxies, 0.1),
        exclude_members=exclude,
    )
    loss.backward()
    assert loss > 0 and features.grad.isfinite().all() and features.grad.abs().sum() > 0
    if ancestors == "proxies":
        assert proxies.grad.abs().sum() > 0


def test_points_that_coincide_have_finite_gradients():
    features = torch.zeros(8, 6, requires_grad=True)
    points = poincare.exp_map0(features, 0.1)
    classes = torch.arange(8) % 2
    (category_loss(points, classes, 0.1) + local_hierarchy_loss(points, classes, 0.1, neighbours=4)).backward()
    assert features.grad.isfinite().all()


def test_ancestors_are_chosen_by_their_probability_and_members_can_be_excluded():
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(4000, 1)
    noise = gumbel_noise(logits)
    assert choose_ancestor(logits, noise).mean(dim=0).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    noise[:, 0] = -math.inf
    assert choose_ancestor(logits, noise).mean(dim=0).tolist() == pytest.approx([0, 0.6, 0.4], abs=0.03)
    soft = logits[:1].clone().requires_grad_()
    choice = choose_ancestor(soft, torch.zeros(1, 3))
    assert choice.tolist() == [[1, 0, 0]]
    (choice * torch.tensor([1.0, 0, 0])).sum().backward()
    assert soft.grad[0].tolist() == pytest.approx([0.25, -0.15, -0.1])


def mobius_distance(x, y, c):
    """2/√c artanh(√c‖(−x) ⊕ y‖) vector by vector, 1e-5 on its denominator, the cut at 1 − 1e-5 straight through."""
    product, square_x, square_y = x @ y, x @ x, y @ y
    numerator = (1 - c * square_x) * y - (1 - 2 * c * product + c * square_y) * x
    added = numerator / (1 - 2 * c * product + c**2 * square_x * square_y + 1e-5)
    ratio = c**0.5 * added.norm()
    return 2 / c**0.5 * torch.atanh(ratio + (ratio.clamp(max=1 - 1e-5) - ratio).detach())


@pytest.mark.parametrize("norm", [0.5, 3.16, 8.0])
def test_released_distances_and_their_gradients_equal_the_printed_formula(norm):
    """Also beyond the edge of the ball, at 3.162, where most ratios are cut off and yet have a gradient."""
    x, y = (norm * F.normalize(random(n, 6, seed=n), dim=1) for n in (5, 4))
    y[0] = 1.02 * x[0]  # cut off at the edge
    weight = random(5, 4, seed=2)
    ours = [each.clone().requires_grad_() for each in (x, y)]
    loops = [each.double().requires_grad_() for each in (x, y)]
    found = released_distance(*ours, 0.1)
    expected = torch.stack([torch.stack([mobius_distance(a, b, 0.1) for b in loops[1]]) for a in loops[0]])
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, loops, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=5e-3, atol=5e-3 * b.grad.abs().max().item())
        assert a.grad.abs().max() > 0


def test_in_the_released_code_a_point_may_be_the_third_of_its_own_triplet():
    points, classes = ball(12), torch.arange(12) % 3
    distances = poincare.pairwise_distance(points, points, 0.1)
    near = reciprocal_neighbours(distances, classes, 4)
    i, _, k = draw_members(near, ~near, 50)
    assert (i == k).any()
    i, _, k = draw_triplets(distances, classes, neighbours=4, triplets=50)
    assert not (i == k).any()


def test_released_distances_are_right_inside_the_ball_and_not_monotone_outside():
    x, y = ball(5), ball(4, seed=1)
    expected = poincare.pairwise_distance(x, y, 0.1)
    torch.testing.assert_close(released_distance(x, y, 0.1), expected, rtol=1e-3, atol=1e-3)
    norms, axes = torch.tensor([1.0, 3.1, 4.0, 8.0]), torch.eye(2)  # two at a right angle, ever further out
    measured = [released_distance(norm * axes[:1], norm * axes[1:], 0.1).item() for norm in norms]
    assert measured[0] < measured[1] > measured[2] > measured[3]
    loss = released_hierarchy_loss(3 * random(16, 6), torch.arange(16) % 4, 0.1, neighbours=6)
    assert loss.isfinite()


def test_unknown_ancestors_are_refused():
    with pytest.raises(ValueError, match="ancestors=gods: choose one of batch, midpoint, proxies"):
        local_hierarchy_loss(ball(4), torch.arange(4), 0.1, ancestors="gods")


def test_float32_under_autocast():
    points, classes = poincare.exp_map0(random(12, 6), 0.1), torch.arange(12) % 3
    expected = category_loss(points, classes, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = category_loss(points, classes, 0.1)
    torch.testing.assert_close(found, expected)

"""Points of any dimension in the disk: true distances from the origin, and the directions in which they spread most."""

import pytest
import torch

from meru.geometry import poincare
from meru.geometry.disk import DiskView, unit_radius
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere

SPACES = [Hyperboloid(0.3), Hyperboloid(2.0), Euclidean(), Sphere()]


def tangents(count=60, dimension=6, seed=0):
    """Vectors that spread most in the first two directions, around a mean in the third."""
    spread = torch.tensor([2.0, 1.0, 0.05, 0.05, 0.05, 0.05][:dimension])
    vectors = spread * torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))
    return vectors + (torch.eye(dimension)[2] if dimension > 2 else 0)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_distances_from_the_origin_are_kept(space):
    points = space.lift(0.3 * tangents())
    placed = DiskView.fit(space, points).place(space, points)
    ball, c = space.in_ball(points.double())
    distance = poincare.distance_to_origin(ball, c)
    found = poincare.distance_to_origin(placed, 1.0)
    torch.testing.assert_close(found, distance * float(c) ** 0.5, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(placed.norm(dim=-1), unit_radius(space, points))


def test_the_plane_is_that_of_the_largest_spread():
    space = Hyperboloid(1.0)
    plane = DiskView.fit(space, space.lift(0.1 * tangents(2000))).plane
    torch.testing.assert_close(plane.abs(), torch.eye(6, dtype=torch.float64)[:2], atol=0.1, rtol=0)


def test_the_difference_between_the_means_of_groups_is_not_what_is_shown():
    space = Hyperboloid(1.0)
    images, texts = 0.1 * tangents(500), 0.1 * tangents(500, seed=1)
    texts[:, 5] += 5.0  # as far apart as images and captions are
    plane = DiskView.fit(space, space.lift(images), space.lift(texts)).plane
    assert plane[:, 5].abs().max() < 0.1 and plane[:, 2].abs().max() < 0.1


def test_a_way_to_the_origin_is_a_straight_line():
    space = Hyperboloid(1.0)
    points = space.lift(tangents(20))
    view = DiskView.fit(space, points)
    way = space.geodesic(points[:1].expand(5, -1), torch.zeros(5, 6), torch.linspace(0, 0.9, 5))
    directions = torch.nn.functional.normalize(view.place(space, way), dim=-1)
    torch.testing.assert_close(directions, directions[:1].expand(5, -1))
    assert (view.place(space, way).norm(dim=-1).diff() < 0).all()


def test_one_point_and_points_of_any_shape_are_placed():
    space = Hyperboloid(1.0)
    points = space.lift(tangents(12))
    view = DiskView.fit(space, points)
    placed = view.place(space, points)
    torch.testing.assert_close(view.place(space, points[3]), placed[3])
    torch.testing.assert_close(view.place(space, points.view(3, 4, 6)), placed.view(3, 4, 2))
    assert not view.place(space, torch.zeros(6)).any()


def test_two_dimensions_are_kept_up_to_a_rotation_and_fewer_are_refused():
    space = Hyperboloid(1.0)
    points = space.lift(tangents(10, 2))
    placed = DiskView.fit(space, points).place(space, points)
    ball = space.in_ball(points.double())[0]
    torch.testing.assert_close(torch.cdist(placed, placed), torch.cdist(ball, ball), rtol=1e-5, atol=1e-6)
    for groups in ((torch.zeros(3, 1),), (), (torch.zeros(0, 4),)):
        with pytest.raises(ValueError, match="at least two dimensions"):
            DiskView.fit(space, *groups)

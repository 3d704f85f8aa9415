"""The exponential map of scaled vectors."""

import pytest
import torch

from meru.geometry import lorentz


@pytest.mark.parametrize("length", [1e-3, 1.0, 40.0])
def test_a_scale_is_that_of_the_vectors(length):
    """Also of vectors that are shortened."""
    torch.manual_seed(0)
    v, scale, c = length * torch.randn(5, 4, dtype=torch.float64), torch.tensor(0.3), torch.tensor(0.7)
    given = [each.double().requires_grad_() for each in (v, scale, c)]
    together = lorentz.exp_map0(given[0], given[2], scale=given[1])
    apart = lorentz.exp_map0(given[0] * given[1], given[2])
    torch.testing.assert_close(together, apart)
    weights = torch.randn_like(apart)
    for found, expected in zip(
        torch.autograd.grad(together, given, weights), torch.autograd.grad(apart, given, weights), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

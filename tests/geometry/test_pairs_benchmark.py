"""The benchmark of pairs compares implementations of one and the same operation."""

import pytest
import torch

from meru.benchmarks import pairs


@pytest.mark.parametrize("name", pairs.operations())
def test_all_implementations_agree(name):
    methods = pairs.operations()[name]
    x, y = pairs.sample(40, 12, "cpu", scale=0.15 if name.startswith("ball") else 1.0)
    if name.startswith("sphere"):
        x, y = (each / each.norm(dim=-1, keepdim=True) for each in (x, y))
    expected = methods[pairs.OURS](x, y)
    assert len(methods) > 1
    for method in methods.values():
        value = method(x, y)
        value = value[..., -expected.shape[-1] :] if value.ndim > 1 else value  # geoopt's time component is the first
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


def test_a_row_of_the_table():
    name = "distance"
    cells = pairs.row(name, pairs.operations()[name], batch=8, dimension=4, repeats=1, device="cpu")
    assert cells[0] == name and len(cells) == 6 and cells[2].endswith("×") and "→" in cells[5]

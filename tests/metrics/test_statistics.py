"""Means, deviations and paired differences against examples computed by hand and tabulated quantiles."""

import math

import pytest

from meru.metrics.statistics import Difference, mean_and_deviation, paired_difference, t_quantile

# Two-sided 95 % quantiles of Student's t for n − 1 degrees of freedom, from printed tables.
TABULATED = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262, 31: 2.042}


@pytest.mark.parametrize("n", TABULATED)
def test_quantiles_are_those_of_tables(n):
    assert t_quantile(n - 1) == pytest.approx(TABULATED[n], abs=5e-4)
    assert t_quantile(n - 1, 0.99) > t_quantile(n - 1) > t_quantile(n - 1, 0.9) > 0


def test_the_quantile_of_one_degree_is_that_of_cauchy_and_of_many_the_normal_one():
    assert t_quantile(1) == pytest.approx(math.tan(math.pi * 0.475))
    assert t_quantile(10**7) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (2, 0.0), (2, 1.0)])
def test_other_arguments_have_no_quantile(degrees, confidence):
    with pytest.raises(ValueError, match="degrees ≥ 1"):
        t_quantile(degrees, confidence)


def test_the_deviation_divides_by_one_less_than_the_number():
    assert mean_and_deviation([0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.1))
    assert mean_and_deviation([0.4]) == (0.4, None)


def test_a_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, so 2 ± 4.3027 / √3."""
    found = paired_difference({0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}, {2: 33.0, 0: 11.0, 1: 22.0, 5: -99.0})
    assert found == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414, 3), abs=1e-4)
    assert not found.excludes_zero


def test_two_pairs_by_hand():
    """Differences 4 and 6: mean 5, deviation √2, half width 12.7062 · √2 / √2."""
    assert paired_difference({0: 0.0, 1: 0.0}, {0: 4.0, 1: 6.0}) == pytest.approx((5.0, -7.7062, 17.7062, 2), abs=1e-4)


def test_pairing_takes_out_what_seeds_have_in_common():
    first = {seed: 10.0 * seed for seed in range(5)}
    second = {seed: figure + 1 + 0.1 * (-1) ** seed for seed, figure in first.items()}
    assert paired_difference(first, second).excludes_zero
    assert paired_difference(second, first).excludes_zero


def test_one_pair_has_no_interval_and_none_no_difference():
    assert paired_difference({0: 0.1}, {0: 0.3, 1: 0.5}) == (pytest.approx(0.2), None, None, 1)
    assert paired_difference({0: 0.1}, {1: 0.3}) is None


def test_an_interval_that_ends_at_zero_does_not_exclude_it():
    assert not Difference(1e-16, 1e-16, 1e-16, 2).excludes_zero  # rounding
    assert not Difference(1.0, 0.0, 2.0, 3).excludes_zero and not Difference(0.0, 0.0, 0.0, 2).excludes_zero
    assert Difference(-1.0, -2.0, -1e-6, 3).excludes_zero and not Difference(5.0, None, None, 1).excludes_zero

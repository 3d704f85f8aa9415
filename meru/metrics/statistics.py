"""Means, deviations and paired differences of figures over seeds, with intervals of Student's t distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
ROUNDING = 1e-9  # differences of figures below it are rounding errors


class Difference(NamedTuple):
    """The mean of paired differences and its confidence interval.

    Attributes:
        mean: Mean difference, second minus first.
        low, high: Ends of the interval; None with one pair.
        pairs: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; False with one pair."""
        return self.low is not None and self.high is not None and (self.low > ROUNDING or self.high < -ROUNDING)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and for at least two values the sample standard deviation (divisor n − 1)."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t > 0 with P(|T| ≤ t) = `confidence` for Student's distribution with `degrees` ≥ 1 degrees of freedom."""
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError(f"needs degrees ≥ 1 and 0 < confidence < 1, got {degrees} and {confidence}")
    from scipy.special import stdtrit  # here: training imports this file, and SciPy would delay its first step

    return float(stdtrit(degrees, (1 + confidence) / 2))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """Compare two methods over the seeds that both have: mean of `second` − `first` ± t s / √n.

    A seed fixes what both methods share, such as the order of the images, so the differences vary less than the
    figures. n − 1 degrees of freedom (Student, "The Probable Error of a Mean", Biometrika 1908).

    Args:
        first, second: Seed → figure.
        confidence: Probability of the interval.

    Returns:
        None without a common seed.
    """
    differences = [second[seed] - first[seed] for seed in first if seed in second]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    if deviation is None:
        return Difference(mean, None, None, 1)
    count = len(differences)
    reach = t_quantile(count - 1, confidence) * deviation / math.sqrt(count)
    return Difference(mean, mean - reach, mean + reach, count)

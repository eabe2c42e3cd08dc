"""Confidence intervals of a proportion, a mean over problems, and a difference of pairs.

SciPy computes all of them except Newcombe's, which it lacks. It is imported where it is needed,
because `scipy.stats` takes as long to import as JAX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
"""Lower and upper bound."""


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Returns Wilson's score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
      successes: number of successes among `n`.
      n: number of trials; 0 gives (0, 1), since nothing is known.
      level: confidence, in (0, 1).

    Raises:
      ValueError: not 0 <= successes <= n, or `level` is outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    from scipy import stats

    test = stats.binomtest(int(successes), int(n))
    interval = test.proportion_ci(_checked(level), method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(
    values: Sequence[float] | np.ndarray,
    seed: int,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Returns the percentile bootstrap interval of a mean (Efron 1979).

    This is for means over problems with several samples each. Problems are resampled, since the
    samples of one problem are not independent.

    Args:
      values: [n] one number per problem, n >= 1.
      seed: seed of the resampling; the same seed gives the same interval.
      level: confidence, in (0, 1).
      resamples: number of resamples.

    Raises:
      ValueError: `values` is empty or not one-dimensional, or `level` is outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("the bootstrap needs one value per problem, and at least one problem")
    _checked(level)
    if values.size == 1:  # SciPy requires two; every resample of one value is that value
        return float(values[0]), float(values[0])
    from scipy import stats

    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, (1 << 22) // values.size),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def newcombe(both: int, only_a: int, only_b: int, neither: int, level: float = 0.95) -> Interval:
    """Returns Newcombe's interval of a difference of paired proportions, b minus a.

    Method 10 of Newcombe (1998): the Wilson intervals of both rates, squared and added, with the
    correlation phi of the pairs (continuity-corrected where it is positive).

    Args:
      both: pairs in which a and b succeeded.
      only_a: pairs in which a alone succeeded.
      only_b: pairs in which b alone succeeded.
      neither: pairs in which neither succeeded.
      level: confidence, in (0, 1).
    """
    n = both + only_a + only_b + neither
    rate_a, rate_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = wilson(both + only_a, n, level)
    low_b, high_b = wilson(both + only_b, n, level)
    margins = (both + only_b) * (only_a + neither) * (both + only_a) * (only_b + neither)
    product = float(both * neither - only_a * only_b)
    if product > 0:
        product = max(0.0, product - n / 2)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(of_b: float, of_a: float) -> float:
        return math.sqrt(max(0.0, of_b**2 - 2 * phi * of_b * of_a + of_a**2))

    centre = rate_b - rate_a
    low = centre - distance(rate_b - low_b, high_a - rate_a)
    high = centre + distance(high_b - rate_b, rate_a - low_a)
    return max(-1.0, low), min(1.0, high)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return level

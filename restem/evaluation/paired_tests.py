"""Hypothesis tests of two policies on the same problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from restem.evaluation import intervals

_EXACT_FLIPS = 16
"""Maximum number of differing problems for which all sign patterns are counted."""
_RANDOM_FLIPS = 20_000
"""Number of random sign patterns if more problems differ."""


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """The difference of two policies, a and b, on the same problems."""

    n: int
    """Number of problems."""
    difference: float
    """Mean score of b minus mean score of a."""
    ci: tuple[float, float]
    """Confidence interval of the difference."""
    p_value: float
    """Two-sided p-value under the hypothesis that a and b are exchangeable on every problem."""
    only_a: int
    """Number of problems on which a scored more than b."""
    only_b: int
    """Number of problems on which b scored more than a."""
    method: Literal["mcnemar", "sign-flip"]
    """"mcnemar" for scores of 0 and 1, "sign-flip" for any others."""

    @property
    def name(self) -> str:
        """Returns the name of the test in words."""
        return "exact McNemar test" if self.method == "mcnemar" else "sign-flip test"

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at the 5% level."""
        return self.p_value < 0.05


def paired_test(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Compares two policies problem by problem.

    Scores of 0 and 1 take the exact two-sided McNemar test, and Newcombe's interval for paired
    proportions. Other scores, such as success rates, take the sign-flip permutation test of the
    mean difference, and the bootstrap interval over problems.

    Args:
      a: [n] scores of the first policy.
      b: [n] scores of the second, in the same order of problems.
      level: confidence of the interval.
      seed: seed of the resampling; unused for scores of 0 and 1.

    Raises:
      ValueError: the shapes differ, or there is no problem.
    """
    a = np.asarray(a, np.float64)
    b = np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"a paired test needs two lists of one length, not {a.shape}, {b.shape}")
    difference = b - a
    only_a, only_b = int(np.sum(difference < 0)), int(np.sum(difference > 0))
    binary = bool(np.all((a == 0) | (a == 1)) and np.all((b == 0) | (b == 1)))
    if binary:
        both = int(np.sum((a == 1) & (b == 1)))
        p_value = mcnemar(only_a, only_b)
        ci = intervals.newcombe(both, only_a, only_b, a.size - both - only_a - only_b, level)
    else:
        p_value = sign_flip(difference, seed)
        ci = intervals.bootstrap(difference, seed, level)
    return PairedTest(
        n=int(a.size),
        difference=float(np.mean(difference)),
        ci=ci,
        p_value=p_value,
        only_a=only_a,
        only_b=only_b,
        method="mcnemar" if binary else "sign-flip",
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (McNemar 1947).

    It is that of a binomial test with probability 1/2 on the discordant pairs; 1.0 if there are
    none.

    Args:
      only_a: pairs in which a alone succeeded.
      only_b: pairs in which b alone succeeded.
    """
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats  # slow to import

    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def sign_flip(difference: np.ndarray, seed: int) -> float:
    """Returns the two-sided p-value of "the mean difference is zero" by flips of signs.

    Exact if at most 16 problems differ; else 20,000 random flips are counted with the observed one.

    Args:
      difference: [n] score of b minus score of a, per problem.
      seed: seed of the random flips.
    """
    nonzero = difference[difference != 0]
    if nonzero.size == 0:
        return 1.0
    if nonzero.size == 1:  # SciPy requires two; both signs are equally extreme
        return 1.0
    from scipy import stats  # slow to import

    # Swapping the scores of a pair flips the sign of its difference.
    result = stats.permutation_test(
        (nonzero, np.zeros_like(nonzero)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**_EXACT_FLIPS if nonzero.size <= _EXACT_FLIPS else _RANDOM_FLIPS,
        batch=max(1, (1 << 20) // nonzero.size),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)

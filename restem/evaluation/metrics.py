"""The metrics of an evaluation: pass@k, majority vote, difficulty, macro averages.

These functions take NumPy arrays and return numbers; they do not depend on runs or samples.
Evaluations, tables and figures all use these definitions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from restem.evaluation.intervals import Interval

DIFFICULTIES = ("easy", "medium", "hard", "very hard")
"""The paper's four buckets of problems (section 5.3, figure 8), by the base policy's success rate
at T = 1.0: at least 75%, 50 to 75%, 25 to 50%, below 25%. An edge belongs to the easier bucket."""

_EDGES = (0.75, 0.50, 0.25)


def pass_at_k(n, c, k):
    """Returns the unbiased estimate of the chance that at least one of k samples is correct.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1), computed as a product of factors in
    [0, 1] without binomial coefficients: exact for c = 0 and c > n - k, else exact to rounding.

    Args:
      n: number of samples drawn; an int or integer array.
      c: number of correct ones among them, 0 <= c <= n; broadcasts with n.
      k: number of samples allowed, 1 <= k <= n; an int.

    Returns:
      A float, or a float64 array of the broadcast shape.

    Raises:
      ValueError: k < 1, k > n, or c outside [0, n].
    """
    n, c = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64))
    if k < 1 or np.any(k > n):
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples per problem")
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("the number of correct samples must be between 0 and n")
    # C(n-c, k) / C(n, k) = prod_{i=0}^{k-1} (n-c-i) / (n-i); a factor is 0 once n-c-i is.
    steps = np.arange(k).reshape((k,) + (1,) * n.ndim)
    factors = np.maximum(n - c - steps, 0) / (n - steps)
    result = 1.0 - np.prod(factors, axis=0)
    return float(result) if result.ndim == 0 else result


def mean_pass_at_k(correct: Sequence[Sequence[bool]] | np.ndarray, k: int) -> float:
    """Returns the mean over problems of the unbiased pass@k.

    Args:
      correct: [problems, samples] booleans; rows may differ in length, but each has at least k.
      k: number of samples allowed.

    Raises:
      ValueError: no problems, or a problem with fewer than k samples.
    """
    if len(correct) == 0:
        raise ValueError("pass@k of no problems")
    n = np.array([len(row) for row in correct])
    c = np.array([int(np.count_nonzero(np.asarray(row, bool))) for row in correct])
    return float(np.mean(pass_at_k(n, c, k)))


def maj_at_k(keys: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Returns the chance that the majority answer of k of n samples is right.

    The k samples are drawn without replacement. The result is the exact mean over all C(n, k)
    subsets, computed without drawing any; k = n gives the usual maj@n. Two conventions:

    - Ties are broken uniformly at random, so a two-way tie with the right answer counts 1/2 (the
      expectation; the order of the samples plays no part).
    - A sample without an answer (key None) casts no vote but counts as one of the k. A subset
      without any vote is wrong.

    Worked example: keys ["5", "5", "7"], of which "5" is right. k = 3: "5" wins, 1.0. k = 2: the
    subsets are {5,5}: 1, {5,7} twice: 1/2 each, so 2/3.

    Args:
      keys: [n] answers; equal keys are the same answer, None is no answer.
      correct: [n] whether each sample is right. If samples of one answer disagree (because the
        grader timed out on one of them), a win of that answer counts by its share of right ones.
      k: number of votes.

    Raises:
      ValueError: lengths differ, or k is outside [1, n].
    """
    if len(keys) != len(correct):
        raise ValueError(f"{len(keys)} answers but {len(correct)} verdicts")
    if not 1 <= k <= len(keys):
        raise ValueError(f"maj@{k} of {len(keys)} samples")
    votes: dict[Hashable, int] = {}
    right: dict[Hashable, int] = {}
    for key, mark in zip(keys, correct, strict=True):
        if key is not None:
            votes[key] = votes.get(key, 0) + 1
            right[key] = right.get(key, 0) + bool(mark)
    blank = len(keys) - sum(votes.values())
    total = 0.0
    for key, count in votes.items():
        if right[key]:
            others = sorted((m for other, m in votes.items() if other != key), reverse=True)
            total += right[key] / count * _wins(count, tuple(others), blank, k)
    return min(1.0, total)


@functools.lru_cache(maxsize=1 << 16)
def _wins(own: int, others: tuple[int, ...], blank: int, k: int) -> float:
    """Returns the chance that an answer of `own` samples has the most of k votes, ties shared.

    Sums over t, the number of votes of the winner, and j, the number of answers tied with it: a
    generating function of two variables, x for samples drawn and y for ties. Answers with fewer
    than t samples can neither beat nor tie, so they pool with the blanks (Vandermonde), and at most
    n / t answers need a convolution. Each coefficient C(m, s) is multiplied by p^s (1-p)^(m-s) with
    p = k / n, which cancels in the quotient and keeps every number a probability for any n.
    """
    n = own + sum(others) + blank
    if k == n:
        best = max(others, default=0)
        return 0.0 if own < best else 1.0 / (1 + others.count(own))
    p = k / n
    total = 0.0
    for t in range(1, min(own, k) + 1):
        rest = k - t
        rivals = [m for m in others if m >= t]
        pool = blank + sum(m for m in others if m < t)
        ties = min(len(rivals), rest // t)
        ways = np.zeros((rest + 1, ties + 1))
        free = _binomial(pool, p)[: rest + 1]
        ways[: len(free), 0] = free
        for m in rivals:
            weight = _binomial(m, p)
            step = np.zeros_like(ways)
            for s in range(min(t, rest + 1)):
                step[s:] += weight[s] * ways[: rest + 1 - s]
            if ties and t <= rest:
                step[t:, 1:] += weight[t] * ways[: rest + 1 - t, :-1]
            ways = step
        total += _binomial(own, p)[t] * float(ways[rest] @ (1.0 / np.arange(1, ties + 2)))
    return total / float(_binomial(n, p)[k])


@functools.lru_cache(maxsize=4096)
def _binomial(n: int, p: float) -> np.ndarray:
    """Returns the [n + 1] probabilities of a binomial(n, p), 0 < p < 1."""
    from scipy import stats  # slow to import

    return stats.binom.pmf(np.arange(n + 1), n, p)


def mean_maj_at_k(
    keys: Sequence[Sequence[Hashable | None]],
    correct: Sequence[Sequence[bool]] | np.ndarray,
    k: int,
) -> float:
    """Returns the mean over problems of `maj_at_k`.

    Args:
      keys: [problems, samples] answers; rows may differ in length.
      correct: [problems, samples] whether each sample is right.
      k: number of votes.

    Raises:
      ValueError: no problems, or a problem with fewer than k samples.
    """
    if len(keys) == 0:
        raise ValueError("maj@k of no problems")
    pairs = zip(keys, correct, strict=True)
    return float(np.mean([maj_at_k(row, marks, k) for row, marks in pairs]))


def means_by_part(rates: Sequence[float], parts: Sequence[Hashable]) -> dict[Hashable, float]:
    """Returns the mean rate of each part, in the order of first occurrence.

    Args:
      rates: [n] rates.
      parts: [n] the part that each rate belongs to.
    """
    grouped: dict[Hashable, list[float]] = {}
    for rate, part in zip(rates, parts, strict=True):
        grouped.setdefault(part, []).append(rate)
    return {part: sum(inside) / len(inside) for part, inside in grouped.items()}


def macro_average(
    rates: Sequence[float],
    intervals: Sequence[Interval],
    parts: Sequence[Hashable],
) -> tuple[float, Interval]:
    """Returns the mean over parts of the mean rate within each part, and its interval.

    The interval combines those of the rates (MOVER, Zou and Donner 2008): with weights w_i and
    independent rates r_i in [l_i, u_i], it extends from m - sqrt(sum w_i^2 (r_i - l_i)^2) to
    m + sqrt(sum w_i^2 (u_i - r_i)^2). It has the confidence level of the given intervals, and a
    positive width even if all rates are 0 or 1.

    Args:
      rates: [n] rates on disjoint sets of problems, such as accuracies of tasks.
      intervals: [n] confidence intervals of the rates.
      parts: [n] labels; rates of one label count once, together.

    Raises:
      ValueError: there are no rates.
    """
    means = means_by_part(rates, parts)
    if not means:
        raise ValueError("a macro average needs at least one rate")
    sizes = {part: sum(other == part for other in parts) for part in means}
    below = above = 0.0
    for rate, (low, high), part in zip(rates, intervals, parts, strict=True):
        weight = 1 / (sizes[part] * len(means))
        below += (weight * (rate - low)) ** 2
        above += (weight * (high - rate)) ** 2
    mean = sum(means.values()) / len(means)
    return mean, (mean - math.sqrt(below), mean + math.sqrt(above))


def difficulty(success_rates: Sequence[float | np.floating] | np.ndarray) -> list[str]:
    """Returns the paper's bucket (`DIFFICULTIES`) of each problem.

    Args:
      success_rates: [n] share of correct samples of the base policy, in [0, 1].

    Raises:
      ValueError: a rate is outside [0, 1].
    """
    rates = np.asarray(success_rates, np.float64)
    if np.any(~((rates >= 0) & (rates <= 1))):
        raise ValueError("success rates must be within [0, 1]")
    return [DIFFICULTIES[sum(rate < edge for edge in _EDGES)] for rate in rates]

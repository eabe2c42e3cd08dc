"""The statistics of evaluation: pass@k, majority vote, intervals, paired tests, difficulty.

Pure numpy, no pipeline nouns: numbers in, numbers out. `evaluate` and `report` both stand on this
file, so a figure and the table beside it can never disagree about a definition.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Hashable, Sequence

import numpy as np

DIFFICULTIES = ("easy", "medium", "hard", "very hard")
"""The paper's four buckets of problems (section 5.3, figure 8), by the base policy's success rate
at T = 1.0: at least 75 %, 50 to 75 %, 25 to 50 %, below 25 %. An edge is the easier side's."""

_EDGES = (0.75, 0.50, 0.25)


def pass_at_k(n, c, k):
    """Unbiased estimate of the chance that at least one of k samples is correct.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1), as a product of factors in [0, 1] so
    that no binomial coefficient is ever formed: exact for c = 0 and c > n - k, and to rounding
    between.

    Args:
      n: samples drawn; int or integer array.
      c: correct ones among them, 0 <= c <= n; broadcasts with n.
      k: samples allowed, 1 <= k <= n; one int.

    Returns:
      A float, or a float64 array of the broadcast shape.

    Raises:
      ValueError: k < 1, k > n, or c outside [0, n].
    """
    n, c = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64))
    if k < 1 or np.any(k > n):
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of every problem")
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("the number of correct samples must be between 0 and n")
    # C(n-c, k) / C(n, k) = prod_{i=0}^{k-1} (n-c-i) / (n-i); a factor is 0 once n-c-i is.
    steps = np.arange(k).reshape((k,) + (1,) * n.ndim)
    factors = np.maximum(n - c - steps, 0) / (n - steps)
    result = 1.0 - np.prod(factors, axis=0)
    return float(result) if result.ndim == 0 else result


def mean_pass_at_k(correct: Sequence[Sequence[bool]] | np.ndarray, k: int) -> float:
    """Mean over problems of the unbiased pass@k.

    Args:
      correct: [problems, samples] of booleans; a ragged sequence of rows is fine, as long as every
        row has at least k samples.
      k: samples allowed.

    Raises:
      ValueError: no problems, or a problem with fewer than k samples.
    """
    if len(correct) == 0:
        raise ValueError("pass@k of no problems")
    n = np.array([len(row) for row in correct])
    c = np.array([int(np.count_nonzero(np.asarray(row, bool))) for row in correct])
    return float(np.mean(pass_at_k(n, c, k)))


def maj_at_k(keys: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Chance that the majority answer of k samples, drawn from n without replacement, is right.

    Exact for every k <= n, with no subset ever drawn: it is the mean over all C(n, k) subsets.
    k = n gives the usual maj@n. Two conventions:

    - A tie is broken uniformly at random among the tied answers, so that a two-way tie with the
      right answer counts 1/2 (the expectation; no order of samples plays a part).
    - A sample without an answer (key None) casts no vote but takes its place among the k. A subset
      without any vote is wrong.

    Worked example: keys ["5", "5", "7"], of which "5" is right. k = 3: "5" wins, 1.0. k = 2: the
    subsets are {5,5}: 1, {5,7} twice: 1/2 each, so 2/3.

    Args:
      keys: [n] answers as equivalence classes: equal keys are the same answer. None is no answer.
      correct: [n] whether each sample is right. Where samples of one class disagree (a grader that
        timed out on one of them), a win of the class counts by its share of right ones.
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
    """Chance that a class of `own` samples has the most of k votes, ties shared.

    Sums over t, the winner's votes, and j, the classes tied with it: a two-variable generating
    function, x for samples drawn and y for ties. Classes with fewer than t samples can neither
    beat nor tie, so they pool with the blanks (Vandermonde), and at most n / t classes need a
    convolution. Each coefficient C(m, s) carries p^s (1-p)^(m-s) with p = k / n, which cancels in
    the quotient and keeps every number a probability, whatever n.
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
    """[n + 1] probabilities of a binomial(n, p), 0 < p < 1, by logarithms."""
    s = np.arange(n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in s])
    return np.exp(logs + s * math.log(p) + (n - s) * math.log1p(-p))


def mean_maj_at_k(
    keys: Sequence[Sequence[Hashable | None]],
    correct: Sequence[Sequence[bool]] | np.ndarray,
    k: int,
) -> float:
    """Mean over problems of `maj_at_k`; both arguments are [problems][samples]."""
    if len(keys) == 0:
        raise ValueError("maj@k of no problems")
    pairs = zip(keys, correct, strict=True)
    return float(np.mean([maj_at_k(row, marks, k) for row, marks in pairs]))


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927), without continuity correction.

    Args:
      successes: how many of n; need not be whole (a mean of fractions times n is conservative).
      n: trials. 0 gives (0, 1): nothing is known.
      level: confidence, in (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    z = _z(level)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula is exactly 0 or 1 but for rounding.
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + spread) / scale)
    return low, high


def bootstrap_ci(
    values: Sequence[float] | np.ndarray,
    seed: int,
    level: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979).

    For per-problem means of several samples: problems are what is resampled, since samples of one
    problem are not independent.

    Args:
      values: [n] one number a problem, n >= 1.
      seed: of the resampling; the same seed gives the same interval.
      level: confidence, in (0, 1).
      resamples: how many.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("the bootstrap wants one value a problem, at least one")
    tail = (1 - _check_level(level)) / 2
    low, high = np.quantile(_resampled_means(values, seed, resamples), [tail, 1 - tail])
    return float(low), float(high)


def means_by_part(rates: Sequence[float], parts: Sequence[Hashable]) -> dict[Hashable, float]:
    """The mean rate of each part, parts in the order of their first occurrence."""
    grouped: dict[Hashable, list[float]] = {}
    for rate, part in zip(rates, parts, strict=True):
        grouped.setdefault(part, []).append(rate)
    return {part: sum(inside) / len(inside) for part, inside in grouped.items()}


def macro_average(
    rates: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    parts: Sequence[Hashable],
) -> tuple[float, tuple[float, float]]:
    """The mean over parts of the mean rate within each, and its interval.

    The interval is made of those of the rates (Zou and Donner 2008, MOVER): with weights w_i and
    independent rates r_i in [l_i, u_i], from m - sqrt(sum w_i^2 (r_i - l_i)^2) to
    m + sqrt(sum w_i^2 (u_i - r_i)^2). It keeps the level of theirs, and does not vanish where all
    rates are 0 or 1.

    Args:
      rates: [n] of different problems each, such as accuracies of tasks.
      intervals: [n] of the rates.
      parts: [n] equal for rates that count once together.
    """
    means = means_by_part(rates, parts)
    if not means:
        raise ValueError("the macro average of nothing")
    sizes = {part: sum(other == part for other in parts) for part in means}
    below = above = 0.0
    for rate, (low, high), part in zip(rates, intervals, parts, strict=True):
        weight = 1 / (sizes[part] * len(means))
        below += (weight * (rate - low)) ** 2
        above += (weight * (high - rate)) ** 2
    mean = sum(means.values()) / len(means)
    return mean, (mean - math.sqrt(below), mean + math.sqrt(above))


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Two policies on the same problems."""

    n: int
    """Problems."""
    difference: float
    """Mean of b minus mean of a."""
    ci: tuple[float, float]
    """Interval of the difference."""
    p_value: float
    """Two-sided, under "a and b are exchangeable on every problem"."""
    only_a: int
    """Problems where a scored more than b."""
    only_b: int
    """Problems where b scored more than a."""
    method: str
    """"mcnemar" (right/wrong scores) or "sign-flip" (any other scores)."""


def paired_test(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Compares two policies problem by problem.

    Scores of 0 and 1: the exact two-sided McNemar test (a binomial test on the problems where the
    two differ), and Newcombe's interval for paired proportions (Newcombe 1998, method 10). Other
    scores, such as success rates: the sign-flip permutation test of the mean difference (exact up
    to 16 problems that differ, else 20,000 random flips counted with the observed one), and the
    bootstrap over problems.

    Args:
      a: [n] scores of the first policy.
      b: [n] scores of the second, in the same order of problems.
      level: confidence of the interval.
      seed: of the resampling; unused for 0/1 scores.

    Raises:
      ValueError: shapes differ or are empty.
    """
    a = np.asarray(a, np.float64)
    b = np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"a paired test wants two equally long lists, not {a.shape}, {b.shape}")
    difference = b - a
    only_a, only_b = int(np.sum(difference < 0)), int(np.sum(difference > 0))
    binary = bool(np.all((a == 0) | (a == 1)) and np.all((b == 0) | (b == 1)))
    if binary:
        p_value = mcnemar(only_a, only_b)
        ci = _newcombe(int(np.sum((a == 1) & (b == 1))), only_b, only_a, a.size, level)
    else:
        p_value = _sign_flip(difference, seed)
        ci = bootstrap_ci(difference, seed, level)
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
    """Exact two-sided McNemar p-value from the two discordant counts.

    min(1, 2 P(X <= min(only_a, only_b))) with X ~ binomial(only_a + only_b, 1/2), in integers; 1.0
    where the two never differ.
    """
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, (2 * tail) / 2**n)


def difficulty(success_rates: Sequence[float | np.floating] | np.ndarray) -> list[str]:
    """The paper's bucket (`DIFFICULTIES`) of each problem, from the base policy's success rate.

    Args:
      success_rates: [n] in [0, 1], correct samples of the base policy over samples.
    """
    rates = np.asarray(success_rates, np.float64)
    if np.any(~((rates >= 0) & (rates <= 1))):
        raise ValueError("success rates must lie in [0, 1]")
    return [DIFFICULTIES[sum(rate < edge for edge in _EDGES)] for rate in rates]


def by_difficulty(
    success_rates: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    """Mean value in each bucket (figure 8): {"easy": {"n": 12, "mean": 0.9}, ...}.

    Args:
      success_rates: [n] of the base policy, which fix the bucket.
      values: [n] what is averaged, such as the success of a later policy on the same problems.

    Returns:
      All four buckets in order; mean is None where a bucket is empty.
    """
    names = np.array(difficulty(success_rates))
    values = np.asarray(values, np.float64)
    if names.shape != values.shape:
        raise ValueError(f"{len(names)} success rates but {len(values)} values")
    result: dict[str, dict[str, float | int | None]] = {}
    for name in DIFFICULTIES:
        inside = values[names == name] if len(names) else values
        mean = float(inside.mean()) if inside.size else None
        result[name] = {"n": int(inside.size), "mean": mean}
    return result


def _check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return level


def _z(level: float) -> float:
    return statistics.NormalDist().inv_cdf(0.5 + _check_level(level) / 2)


def _resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """[resamples] means of as many draws with replacement, in blocks of bounded memory."""
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, (1 << 22) // values.size)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        picks = rng.integers(0, values.size, size=(stop - start, values.size))
        means[start:stop] = values[picks].mean(axis=1)
    return means


def _newcombe(both: int, only_b: int, only_a: int, n: int, level: float) -> tuple[float, float]:
    """Newcombe's (1998) method 10: Wilson intervals of both rates, squared and added, with the
    correlation phi of the pairs (continuity-corrected where positive)."""
    neither = n - both - only_a - only_b
    rate_b, rate_a = (both + only_b) / n, (both + only_a) / n
    low_b, high_b = wilson(both + only_b, n, level)
    low_a, high_a = wilson(both + only_a, n, level)
    margins = (both + only_b) * (only_a + neither) * (both + only_a) * (only_b + neither)
    product = float(both * neither - only_a * only_b)
    if product > 0:
        product = max(0.0, product - n / 2)
    phi = product / math.sqrt(margins) if margins else 0.0
    below, above = rate_b - low_b, high_a - rate_a
    low = math.sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    below, above = rate_a - low_a, high_b - rate_b
    high = math.sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    centre = rate_b - rate_a
    return max(-1.0, centre - low), min(1.0, centre + high)


def _sign_flip(difference: np.ndarray, seed: int, flips: int = 20_000) -> float:
    """Two-sided p-value of mean zero, over flips of the signs of the nonzero differences."""
    nonzero = difference[difference != 0]
    if nonzero.size == 0:
        return 1.0
    # Sums that are equal in real arithmetic may differ in the last bits: count them as equal.
    observed = abs(nonzero.sum()) - 1e-9 * np.abs(nonzero).sum()
    if nonzero.size <= 16:
        codes = np.arange(1 << nonzero.size)[:, None] >> np.arange(nonzero.size)
        sums = np.abs((1 - 2 * (codes & 1)) @ nonzero)
        return float(np.mean(sums >= observed))
    rng = np.random.default_rng(seed)
    hits = 0
    block = max(1, (1 << 22) // nonzero.size)
    for start in range(0, flips, block):
        size = (min(block, flips - start), nonzero.size)
        sums = np.abs((1 - 2 * rng.integers(0, 2, size=size)) @ nonzero)
        hits += int(np.sum(sums >= observed))
    return (hits + 1) / (flips + 1)

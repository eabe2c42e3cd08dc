"""The numbers in `evals/TASK.json`, computed from the answers of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from restem.evaluation import intervals, metrics
from restem.records import Sample

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Values of k for pass@k and maj@k, up to the number of samples, which is added."""


def greedy_report(answers: Sequence[Sample]) -> dict[str, Any]:
    """Returns pass@1 of one answer per problem, its 95% Wilson interval, and how answers failed."""
    n = len(answers)
    share = lambda values: sum(values) / max(1, n)
    correct = sum(s.correct for s in answers)
    return {
        "n": n,
        "correct": correct,
        "pass@1": correct / max(1, n),
        "ci95": list(intervals.wilson(correct, n)),
        **reward_report(answers),
        "truncated": share(s.finish_reason == "length" for s in answers),
        "unformatted": share(s.unformatted for s in answers),
        "mean_tokens": share(len(s.token_ids) for s in answers),
    }


def reward_report(samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns the mean reward, and whether rewards are binary: 1 if correct, else 0."""
    return {
        "mean_reward": sum(s.reward for s in samples) / max(1, len(samples)),
        "binary": all(s.reward == s.correct for s in samples),
    }


def sampled_report(sampled: Sequence[Sample]) -> dict[str, Any]:
    """Returns the metrics of n samples per problem, where n is the smallest number of any problem.

    Unbiased pass@k (Chen et al. 2021), maj@k (Wang et al. 2023), and average success with its 95%
    bootstrap interval over problems.
    """
    by_problem = _by_problem(sampled)
    n = min(map(len, by_problem.values()))
    ks = sorted({k for k in KS if k <= n} | {n})
    correct = np.array([[s.correct for s in group[:n]] for group in by_problem.values()])
    answers = [[s.final_answer for s in group[:n]] for group in by_problem.values()]
    rates = correct.mean(axis=1)
    return {
        "num_samples": n,
        "pass@k": {str(k): metrics.mean_pass_at_k(correct, k) for k in ks},
        "maj@k": {str(k): metrics.mean_maj_at_k(answers, correct, k) for k in ks},
        "average_success": float(rates.mean()),
        "average_success_ci95": list(intervals.bootstrap(rates, seed=0)),
    }


def difficulty_report(sampled: Sequence[Sample], base: Sequence[Sample]) -> dict[str, Any]:
    """Returns the mean success in each bucket of the base policy's success (section 5.3, figure 8).

    Args:
      sampled: samples of the policy that is evaluated.
      base: samples of the base policy; problems that they lack are left out.

    Returns:
      By bucket of `metrics.DIFFICULTIES`: `n`, the number of problems, and `mean`, None if n is 0.
    """
    success, of_base = _success(sampled), _success(base)
    shared = [p for p in success if p in of_base]
    names = np.array(metrics.difficulty([of_base[p] for p in shared]))
    rates = np.array([success[p] for p in shared])
    report = {}
    for bucket in metrics.DIFFICULTIES:
        members = rates[names == bucket]
        report[bucket] = {
            "n": len(members),
            "mean": float(members.mean()) if len(members) else None,
        }
    return report


def _success(samples: Sequence[Sample]) -> dict[str, float]:
    """Returns the share of correct samples of each problem."""
    return {p: float(np.mean([s.correct for s in g])) for p, g in _by_problem(samples).items()}


def _by_problem(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.problem_id, []).append(sample)
    return grouped

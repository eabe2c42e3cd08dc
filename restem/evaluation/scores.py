"""The numbers in `evals/TASK.json`, computed from the answers of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from restem.evaluation import intervals, metrics
from restem.records import Sample

EQUALITY_KINDS = ("math", "numeric", "exact")
"""Kinds of grader for which a correct answer is one that equals the gold answer."""

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Values of k for pass@k and maj@k, up to the number of samples, which is added."""


@dataclasses.dataclass(frozen=True)
class Attempts:
    """The samples of one problem, without their texts."""

    correct: list[bool] = dataclasses.field(default_factory=list)
    answers: list[str | None] = dataclasses.field(default_factory=list)
    """Final answers in the form that was compared."""

    @property
    def success(self) -> float:
        """Share of correct samples."""
        return float(np.mean(self.correct))

    def votes(self, kind: str) -> list[str | None]:
        """Returns the answer that each sample votes for; equal strings are the same answer.

        A grader that compares answers accepts many forms of the gold answer, such as 1000 and
        10^3; these share one vote. A rejected sample shares it too if its answer is written as an
        accepted one, because it was rejected for another reason. Other answers are told apart by
        number and text.

        Args:
          kind: kind of the task's grader.
        """
        if kind not in EQUALITY_KINDS:
            return self.answers
        pairs = zip(self.answers, self.correct, strict=True)
        accepted = {answer for answer, correct in pairs if correct and answer is not None}
        gold = min(accepted, default=None)
        return [gold if answer in accepted else answer for answer in self.answers]


def attempts(samples: Iterable[Sample]) -> dict[str, Attempts]:
    """Returns the samples of each problem, in the order in which they come."""
    grouped: dict[str, Attempts] = {}
    for sample in samples:
        of_problem = grouped.setdefault(sample.problem_id, Attempts())
        of_problem.correct.append(sample.correct)
        of_problem.answers.append(sample.final_answer)
    return grouped


def greedy_report(answers: Iterable[Sample]) -> dict[str, Any]:
    """Returns pass@1 of one answer per problem, its 95% Wilson interval, and how answers failed.

    Given several answers per problem, all of them count.
    """
    n = correct = truncated = unformatted = tokens = 0
    rewards = _Rewards()
    for s in answers:
        n += 1
        correct += s.correct
        truncated += s.finish_reason == "length"
        unformatted += s.unformatted
        tokens += len(s.token_ids)
        rewards.add(s)
    share = lambda count: count / max(1, n)
    return {
        "n": n,
        "correct": correct,
        "pass@1": share(correct),
        "ci95": list(intervals.wilson(correct, n)),
        **rewards.report(),
        "truncated": share(truncated),
        "unformatted": share(unformatted),
        "mean_tokens": share(tokens),
    }


@dataclasses.dataclass
class _Rewards:
    """The mean reward, and whether rewards are binary: 1 if correct, else 0."""

    count: int = 0
    total: float = 0.0
    binary: bool = True

    def add(self, sample: Sample) -> None:
        self.count += 1
        self.total += sample.reward
        self.binary &= sample.reward == sample.correct

    def report(self) -> dict[str, Any]:
        return {"mean_reward": self.total / max(1, self.count), "binary": self.binary}


def sampled_report(by_problem: Mapping[str, Attempts], *, kind: str) -> dict[str, Any]:
    """Returns the metrics of all samples, of which problems may have different numbers.

    Unbiased pass@k (Chen et al. 2021), maj@k (Wang et al. 2023), and average success with its 95%
    bootstrap interval over problems. `num_samples`, the largest k, is the smallest number of
    samples of any problem. There is no maj@k of programs, since those that do the same may differ
    in their text, nor if no sample has a final answer.

    Args:
      by_problem: samples of each problem, at least one.
      kind: kind of the task's grader; see `restem.verify.graders`.
    """
    groups = by_problem.values()
    n = min(len(group.correct) for group in groups)
    ks = sorted({k for k in KS if k <= n} | {n})
    correct = [group.correct for group in groups]
    votes = [group.votes(kind) for group in groups]
    rates = [group.success for group in groups]
    report: dict[str, Any] = {
        "num_samples": n,
        "pass@k": {str(k): metrics.mean_pass_at_k(correct, k) for k in ks},
    }
    if kind != "program" and any(vote is not None for row in votes for vote in row):
        report["maj@k"] = {str(k): metrics.mean_maj_at_k(votes, correct, k) for k in ks}
    return report | {
        "average_success": float(np.mean(rates)),
        "average_success_ci95": list(intervals.bootstrap(rates, seed=0)),
    }


def difficulty_report(success: Mapping[str, float], of_base: Mapping[str, float]) -> dict[str, Any]:
    """Returns the mean success in each bucket of the base policy's success (section 5.3, figure 8).

    Args:
      success: share of correct samples of the policy that is evaluated, by problem.
      of_base: that of the base policy; problems that it lacks are left out.

    Returns:
      By bucket of `metrics.DIFFICULTIES`: `n`, the number of problems, and `mean`, None if n is 0.
    """
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

"""How good a policy is: greedy pass@1 and, where asked, pass@k and maj@k, each with an interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from restem import records
from restem.evaluation import grading_sheet, metrics
from restem.records import Problem, Sample, TaskCard
from restem.run import layout
from restem.runtime import distributed, storage
from restem.sampling import Sampling
from restem.steps.generate import sample_shards
from restem.steps.select import final_answer

GREEDY = Sampling(temperature=0.0)


@gin.configurable
def evaluate(
    *,
    policy,
    card: TaskCard,
    problems: Sequence[Problem],
    directory: layout.IterationDir,
    name: str,
    verifier,
    key: int,
    base_answers: Sequence[Sample] | None = None,
    num_samples: int = 0,
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95),
    max_new_tokens: int | None = None,
    slots: int | None = None,
    problems_per_shard: int = 64,
    mesh=None,
) -> dict[str, Any]:
    """Evaluates a policy on one task and writes `evals/NAME.json` and `.parquet`.

    Args:
      policy: what is evaluated.
      card: the task.
      problems: of one split.
      directory: of the iteration that made the policy.
      name: of the evaluation's files: the task, with the split where it is not the test's.
      verifier: of the task's grader.
      key: of the run's seed; the same for every iteration, so that policies meet the same noise.
      base_answers: sampled answers of the base policy to the same problems, for the difficulty
        buckets (section 5.3); the policy's own where it is the base.
      num_samples: solutions a problem for pass@k and maj@k; 0 leaves them out.
      sampling: of those (section 5.2: temperature 1.0, top-p 0.95).
      max_new_tokens: None takes the task's.
      slots: rows of the decode batch; None lets the engine choose.
      problems_per_shard: answers are kept so many problems at a time while it is under way.
      mesh: devices to sample on; see `generate`.

    Returns:
      What the JSON file holds.
    """
    path = directory.evaluation(name)
    if distributed.on_first(f"start of the evaluation on {name}", path.exists):
        return storage.read_json(path)
    timing: dict[str, float] = {}
    settings = dict(
        policy=policy, card=card, problems=problems, max_new_tokens=max_new_tokens, slots=slots,
        verifier=verifier, key=key, mesh=mesh, timing=timing, problems_per_shard=problems_per_shard,
    )  # fmt: skip
    what = f"{directory.path.name}: evaluating {name}"
    answer = dataclasses.replace(GREEDY, temperature=card.temperature)
    parts = directory.evaluation_parts(name)
    sample_shards(parts / "greedy", **settings, sampling=answer, num_samples=1, what=what)
    if num_samples:
        sample_shards(
            parts / "sampled",
            **settings,
            sampling=sampling,
            num_samples=num_samples,
            first_sample=1,  # sample 0 is the greedy one
            what=f"{what} ({num_samples} samples)",
        )

    def merge() -> dict[str, Any]:
        answers = layout.read_shards(parts / "greedy") or []
        report = greedy_report(answers)
        if num_samples:
            sampled = layout.read_shards(parts / "sampled") or []
            report |= sampled_report(sampled)
            report["difficulty"] = difficulty_report(sampled, base_answers or sampled)
            answers += sampled
        seconds = timing.get("seconds", 0.0)
        report |= {
            "task": card.task,
            "split": problems[0].split if problems else "test",
            "policy": policy.reference,
            "seconds": seconds,
            "tokens_per_second": timing.get("tokens", 0) / seconds if seconds else None,
            "prompt_source": card.prompt_source,
            "prefix_sha256": card.prefix_sha256,
        }
        answers.sort(key=lambda s: (s.problem_id, s.sample_index))
        if card.grader["kind"] == "none":
            report |= grading_sheet.write(path.parent / name, card, problems, answers)
        storage.write_table(directory.answers(name), records.samples_to_table(answers))
        storage.write_json(path, report)
        parts.rmtree(missing_ok=True)
        return report

    return distributed.on_first(f"end of the evaluation on {name}", merge)


def greedy_report(answers: Sequence[Sample]) -> dict[str, Any]:
    """Pass@1 of one answer a problem with its 95% Wilson interval, and how answers failed."""
    n = len(answers)
    correct = sum(s.reward >= 1.0 for s in answers)
    low, high = metrics.wilson(correct, n)
    found = [s.verdict is not None and s.verdict.extracted is not None for s in answers]
    return {
        "n": n,
        "correct": correct,
        "pass@1": correct / max(1, n),
        "ci95": [low, high],
        "mean_reward": sum(s.reward for s in answers) / max(1, n),
        "truncated": sum(s.finish_reason == "length" for s in answers) / max(1, n),
        "unformatted": 1.0 - sum(found) / max(1, n),
        "mean_tokens": sum(len(s.token_ids) for s in answers) / max(1, n),
    }


def sampled_report(sampled: Sequence[Sample]) -> dict[str, Any]:
    """Unbiased pass@k (Chen et al. 2021) and maj@k (Wang et al. 2023) of n samples a problem."""
    by_problem = _by_problem(sampled)
    n = min(map(len, by_problem.values()))
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= n} | {n})
    correct = np.array([[s.reward >= 1.0 for s in group[:n]] for group in by_problem.values()])
    answers = [[final_answer(s) for s in group[:n]] for group in by_problem.values()]
    rates = correct.mean(axis=1)
    low, high = metrics.bootstrap_ci(rates, seed=0)
    return {
        "num_samples": n,
        "pass@k": {str(k): metrics.mean_pass_at_k(correct, k) for k in ks},
        "maj@k": {str(k): metrics.mean_maj_at_k(answers, correct, k) for k in ks},
        "average_success": float(rates.mean()),
        "average_success_ci95": [low, high],
    }


def difficulty_report(sampled: Sequence[Sample], base: Sequence[Sample]) -> dict[str, Any]:
    """Mean success in the four buckets of the base policy's success (section 5.3)."""
    success = {p: np.mean([s.reward >= 1.0 for s in g]) for p, g in _by_problem(sampled).items()}
    of_base = {p: np.mean([s.reward >= 1.0 for s in g]) for p, g in _by_problem(base).items()}
    shared = [p for p in success if p in of_base]
    buckets = metrics.difficulty([of_base[p] for p in shared])
    report = {}
    for bucket in ("easy", "medium", "hard", "very hard"):
        members = [success[p] for p, b in zip(shared, buckets, strict=True) if b == bucket]
        report[bucket] = {"n": len(members), "mean": float(np.mean(members)) if members else None}
    return report


def _by_problem(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.problem_id, []).append(sample)
    return grouped

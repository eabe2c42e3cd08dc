"""Evaluation of a policy: greedy pass@1 and, if enabled, pass@k and maj@k, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from restem.evaluation import results
from restem.records import Problem, Sample
from restem.rollout import GREEDY, Rollout
from restem.rollout.shards import sample_shards
from restem.run import layout, reader, trackers
from restem.runtime import distributed, storage
from restem.steps.settings import EvaluateSettings


def evaluate(
    *,
    rollout: Rollout,
    problems: Sequence[Problem],
    directory: layout.IterationDir,
    name: str,
    base_answers: Sequence[Sample] | None = None,
    settings: EvaluateSettings = EvaluateSettings(),
) -> dict[str, Any]:
    """Evaluates a policy on one task and writes `evals/NAME.json` and `.parquet`.

    Args:
      rollout: the policy on the task. Its key is the same in every iteration, so that policies are
        compared under the same noise; `settings` decide how it samples.
      problems: problems of one split.
      directory: directory of the iteration that produced the policy.
      name: name of the evaluation's files: the task, and the split if it is not the test split.
      base_answers: sampled answers of the base policy to the same problems, for the difficulty
        buckets (section 5.3); None if `rollout` is the base policy itself.
      settings: whether pass@k and maj@k are measured, and from which samples.

    Returns:
      The content of the JSON file.
    """
    path = directory.evaluation(name)
    if distributed.run_on_primary(f"start of the evaluation on {name}", path.exists):
        return storage.read_json(path)
    parts = directory.evaluation_parts(name)
    what = f"{directory.path.name}: evaluating {name}"
    shards: dict[str, Any] = dict(problems=problems, problems_per_shard=settings.problems_per_shard)
    rollout = rollout.replace(max_new_tokens=settings.max_new_tokens)
    greedy = rollout.replace(
        sampling=dataclasses.replace(GREEDY, temperature=rollout.card.temperature)
    )
    sample_shards(greedy, parts / "greedy", num_samples=1, what=what, **shards)
    if settings.num_samples:
        sample_shards(
            rollout.replace(sampling=settings.sampling),
            parts / "sampled",
            num_samples=settings.num_samples,
            first_sample=1,  # sample 0 is the greedy one
            what=f"{what} ({settings.num_samples} samples)",
            **shards,
        )

    def merge() -> dict[str, Any]:
        report = results.write(
            path.parent / name,
            card=rollout.card,
            problems=problems,
            greedy=reader.read_shards(parts / "greedy"),
            sampled=reader.read_shards(parts / "sampled"),
            base=base_answers or [],
            policy=rollout.policy.reference,
            timing=dataclasses.asdict(rollout.costs),
        )
        parts.rmtree(missing_ok=True)
        names = ("pass@1", "mean_reward", "average_success")
        values = {f"evaluate/{name}/{value}": report.get(value) for value in names}
        trackers.log(directory.number, values)
        return report

    return distributed.run_on_primary(f"end of the evaluation on {name}", merge)

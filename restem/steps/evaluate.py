"""Evaluation of a policy: greedy pass@1 and, if enabled, pass@k and maj@k, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from restem.errors import UserError
from restem.evaluation import results
from restem.records import Problem
from restem.rollout import GREEDY, Rollout
from restem.rollout.shards import sample_shards
from restem.run import layout, trackers
from restem.runtime import distributed, storage
from restem.steps.settings import EvaluateSettings

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate(
    *,
    rollout: Rollout,
    problems: Sequence[Problem],
    directory: layout.IterationDir,
    name: str,
    of_base: Mapping[str, float] | None = None,
    settings: EvaluateSettings = EvaluateSettings(),
) -> dict[str, Any]:
    """Evaluates a policy on one task and writes `evals/NAME.json` and `.parquet`.

    Args:
      rollout: the policy on the task. Its key is the same in every iteration, so that policies are
        compared under the same noise; `settings` decide how it samples.
      problems: problems of one split, at least one.
      directory: directory of the iteration that produced the policy.
      name: name of the evaluation's files: the task, and the split if it is not the test split.
      of_base: share of correct samples of the base policy by problem, for the difficulty buckets
        (section 5.3); None if `rollout` is the base policy itself, empty if it is not known.
      settings: whether pass@k and maj@k are measured, and from which samples. No samples are
        drawn for a task without a grader, because neither number exists there.

    Returns:
      The content of the JSON file.

    Raises:
      UserError: there are no problems.
    """
    path = directory.evaluation(name)
    if distributed.run_on_primary(f"start of the evaluation on {name}", path.exists):
        return storage.read_json(path)
    if not problems:
        raise UserError(f"{name}: there are no problems to evaluate a policy on")
    if not rollout.card.is_graded:
        settings = dataclasses.replace(settings, num_samples=0)
    parts = directory.evaluation_parts(name)
    what = f"{directory.path.name}: evaluating {name}"
    per_shard = settings.problems_per_shard
    shards: dict[str, Any] = dict(problems=dealt(problems, per_shard), problems_per_shard=per_shard)
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

    def tables(part: str) -> list[pa.Table]:
        # By name: a network file system may list another host's files late.
        names = layout.Shards(len(problems), per_shard)
        return [storage.read_table(names.path(parts / part, i)) for i in range(len(names))]

    def merge() -> dict[str, Any]:
        report = results.write(
            path.parent / name,
            card=rollout.card,
            problems=problems,
            greedy=tables("greedy"),
            sampled=tables("sampled") if settings.num_samples else [],
            of_base=of_base,
            policy=rollout.policy.reference,
            timing=dataclasses.asdict(rollout.costs),
        )
        parts.rmtree(missing_ok=True)
        names = ("pass@1", "mean_reward", "average_success")
        values = {f"evaluate/{name}/{value}": report.get(value) for value in names}
        trackers.log(directory.number, values)
        return report

    return distributed.run_on_primary(f"end of the evaluation on {name}", merge)


def dealt(problems: Sequence[Problem], per_shard: int) -> list[Problem]:
    """Returns the problems in the order of shards to which they are dealt in turn.

    Data sets are sorted by subject or difficulty. Dealt out, the first shards say how the whole
    evaluation is likely to end.
    """
    shards = len(layout.Shards(len(problems), per_shard))
    return [problem for i in range(shards) for problem in problems[i::shards]]

"""How good a policy is: greedy pass@1 and, where asked, pass@k and maj@k, each with an interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin

from restem.evaluation import results
from restem.records import Problem, Sample, TaskCard
from restem.run import layout
from restem.runtime import distributed, storage
from restem.sampling import Sampling
from restem.steps.generate import sample_shards

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
        report = results.write(
            path.parent / name,
            card=card,
            problems=problems,
            greedy=layout.read_shards(parts / "greedy") or [],
            sampled=layout.read_shards(parts / "sampled") or [],
            base=base_answers or [],
            policy=policy.reference,
            timing=timing,
        )
        parts.rmtree(missing_ok=True)
        return report

    return distributed.on_first(f"end of the evaluation on {name}", merge)

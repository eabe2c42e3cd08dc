"""The E-step: samples solutions to the training problems and verifies them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging
from etils import epath

from restem import verify
from restem.errors import UserError
from restem.evaluation import comparisons
from restem.records import PROBLEMS_PER_GROUP, Problem, Sample
from restem.rollout import Rollout, completions, prompts
from restem.rollout.completions import Completed
from restem.rollout.shards import sample_shards
from restem.run import layout, shards, trackers
from restem.run.problems import at
from restem.runtime import distributed, storage
from restem.steps.settings import GenerateSettings
from restem.steps.sums import Sums
from restem.verify.sandbox import layers


class Extend(Protocol):
    """Adds samples to those of the policy, shard by shard.

    Examples are STaR's rationalization, human solutions, Markov chains and the searches that turn
    the policy into an expert (ExIt); see `restem.methods`. One that can fail on a task has a method
    `check(card=, problems=, verifier=)`, which raises UserError before a run begins.
    """

    def __call__(
        self,
        *,
        rollout: Rollout,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        directory: layout.IterationDir,
    ) -> list[Sample]:
        """Returns more verified samples of `problems`, with indices that `samples` do not use.

        Args:
          rollout: the rollout of the E-step, for sampling.
          problems: problems of one shard.
          samples: the policy's verified samples of these problems.
          directory: directory of the iteration.
        """


def generate(
    *,
    rollout: Rollout,
    problems: Sequence[Problem],
    directory: layout.IterationDir,
    settings: GenerateSettings = GenerateSettings(),
    source: str = "policy",
) -> dict[str, Any]:
    """Samples and verifies solutions of `problems` into `directory.samples`.

    Args:
      rollout: the current policy on the task; `settings` decide how it samples.
      problems: the training problems of this iteration.
      directory: directory of the iteration.
      settings: number of solutions per problem, and how they are sampled.
      source: value of `Sample.source` in the policy's samples.

    Returns:
      The content of `generation.json`: counts, seconds and rates.
    """
    if distributed.run_on_primary("start of the E-step", directory.generation.exists):
        return storage.read_json(directory.generation)
    lost_before = verify.shared_counts()
    rollout = rollout.replace(sampling=settings.sampling, max_new_tokens=settings.max_new_tokens)
    if settings.grading is not None:
        rollout = rollout.replace(verifier=settings.grading(rollout.verifier))
    problems, aside = _asked(rollout, problems, settings)
    if isinstance(rollout, Completed):
        rollout.check(problems, settings.num_samples)
    extend = settings.extend
    resumed = sample_shards(
        rollout,
        directory.samples,
        problems=problems,
        num_samples=settings.num_samples,
        problems_per_shard=settings.problems_per_shard,
        source=source,
        extend=extend
        and (
            lambda rollout, problems, samples: extend(
                rollout=rollout, problems=problems, samples=samples, directory=directory
            )
        ),
        what=f"{directory.path.name}: sampling",
    )
    lost: Counter[str] = Counter()
    for of_host in distributed.gather(
        "lost verification workers", dict(verify.shared_counts() - lost_before)
    ):
        lost.update(of_host)

    sums = count_shards(directory)

    def finish() -> dict[str, Any]:
        counts = report(rollout, sums, len(problems), settings)
        counts["problems_set_aside"] = aside
        if isinstance(rollout, Completed):
            counts["completions"] = list(rollout.files)
        # A resumed step has timed only the samples that it drew itself.
        counts["resumed_from_shard"] = resumed.shards or None
        counts["resumed_samples"] = resumed.samples or None
        # Workers of all hosts that died or hung, and what happened to their samples.
        counts["verification_workers"] = dict(lost)
        storage.write_json(directory.generation, counts)
        names = ("mean_reward", "tokens", "tokens_per_second")
        trackers.log(directory.number, {f"generate/{name}": counts[name] for name in names})
        return counts

    return distributed.run_on_primary("end of the E-step", finish)


def write_requests(
    path: epath.Path,
    *,
    rollout: Rollout,
    problems: Sequence[Problem],
    settings: GenerateSettings = GenerateSettings(),
) -> int:
    """Writes what another engine is asked to sample in an E-step; see `rollout.completions`.

    Args:
      path: the file.
      rollout: the current policy on the task; its parameters are not used.
      problems: the training problems of this iteration.
      settings: number of solutions per problem, and how they are sampled.

    Returns:
      The number of problems.
    """
    problems, _ = _asked(rollout, problems, settings, alone=True)
    completions.write_requests(
        path, rollout.card, problems, rollout.policy, num_samples=settings.num_samples,
        sampling=settings.sampling, max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip
    return len(problems)


def _asked(
    rollout: Rollout,
    problems: Sequence[Problem],
    settings: GenerateSettings,
    *,
    alone: bool = False,
) -> tuple[Sequence[Problem], int]:
    """Returns the problems that are sampled, and the number left out for their length.

    Args:
      rollout: the policy on the task.
      problems: the training problems of the iteration.
      settings: settings of the E-step.
      alone: whether this host looks at all problems, as the others do not call this.
    """
    most = settings.max_question_tokens
    if most is None:
        return problems, 0
    kept = _within_limit(rollout, problems, most, alone)
    aside = len(problems) - len(kept)
    if aside:
        logging.warning(
            "%d of %d questions have more than max_question_tokens=%d tokens and are left out",
            aside, len(problems), most,
        )  # fmt: skip
    if aside and not kept:
        raise UserError(
            f"all {aside} questions have more than generate.max_question_tokens={most} tokens:"
            " raise it"
        )
    return kept, aside


def _within_limit(
    rollout: Rollout, problems: Sequence[Problem], most: int, alone: bool
) -> Sequence[Problem]:
    """Returns the problems whose questions are within the length limit, in order."""
    card, vocabulary = rollout.card, rollout.policy.vocabulary
    starts = range(0, len(problems), PROBLEMS_PER_GROUP)
    own = {}
    for start in starts if alone else distributed.share(starts):
        part = problems[start : start + PROBLEMS_PER_GROUP]
        short = prompts.are_within(card, part, vocabulary, most)
        own[str(start)] = np.packbits(short).tobytes().hex()
        distributed.progressed()
    found: dict[str, str] = {}
    for of_host in [own] if alone else distributed.gather("lengths of the questions", own):
        found |= of_host
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(found[str(i)]), np.uint8)) for i in starts]
    return at(problems, np.flatnonzero(np.concatenate([np.zeros(0, np.uint8), *bits])))


def count_shards(directory: layout.IterationDir) -> Sums:
    """Returns the sums of all samples of an iteration; each host reads a share of the shards.

    Raises:
      UserError: the iteration has no samples.
    """
    import pyarrow.compute as pc

    own = Sums()
    for path in distributed.share(shards.sampled(directory)):
        table = storage.read_columns(path, ("reward", "verdict", "token_ids"))
        reward, verdict = table.column("reward"), table.column("verdict").combine_chunks()
        correct = comparisons.correct_column(reward, verdict)
        own.count(
            samples=table.num_rows,
            correct=int(np.count_nonzero(correct == 1)),
            tokens=pc.sum(pc.list_value_length(table.column("token_ids"))).as_py() or 0,
        )
        own.observe("reward", reward.to_pylist())
        distributed.progressed()
    return Sums.of_hosts(distributed.gather("counts of the E-step", own.to_json()))


def count(samples: Sequence[Sample]) -> Sums:
    """Returns the sums of samples in memory, as `count_shards` does of those in files."""
    sums = Sums()
    sums.count(
        samples=len(samples),
        correct=sum(s.correct for s in samples),
        tokens=sum(len(s.token_ids) for s in samples),
    )
    sums.observe("reward", [s.reward for s in samples])
    return sums


def report(
    rollout: Rollout, sums: Sums, num_problems: int, settings: GenerateSettings
) -> dict[str, Any]:
    """Returns the counts, seconds and rates of an E-step.

    Args:
      rollout: the policy on the task, with its costs.
      sums: sums of all samples of the E-step.
      num_problems: number of problems that were sampled.
      settings: settings of the E-step.
    """
    seconds = rollout.costs.seconds
    counts: dict[str, Any] = {
        "problems": num_problems,
        "samples": sums["samples"],
        "num_samples": settings.num_samples,
        "correct": sums["correct"],
        "tokens": sums["tokens"],
        "mean_reward": sums.mean("reward", sums["samples"]),
        "seconds": seconds,
        "seconds_sampling": rollout.costs.seconds_sampling,
        # Another engine's samples cost only their verification here.
        "tokens_per_second": rollout.costs.tokens / seconds if rollout.costs.tokens else None,
    }
    if rollout.card.grader.get("kind") == "program":
        # Those of the cluster's machines, if they run the programs.
        counts["sandbox"] = layers.in_force(getattr(rollout.verifier, "layers", None))
    return counts

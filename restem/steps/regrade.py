"""Grades samples again, in place, and reports what changed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from restem import records
from restem.errors import UserError
from restem.records import Problem, Sample, Verdict
from restem.rollout.verification import Verifier
from restem.run import layout, shards
from restem.runtime import storage
from restem.steps.sums import Sums

MOST_LINES = 1000


@dataclasses.dataclass
class Changes:
    """What grading again changed."""

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples per change: "same", "0 -> 1", ..."""
    rewards: Sums = dataclasses.field(default_factory=Sums)
    """Number of samples and of correct ones, and the sum of rewards, after grading again."""
    lines: list[str] = dataclasses.field(default_factory=list)
    """One line per sample whose reward changed, for the first `MOST_LINES` of them."""

    @property
    def any(self) -> bool:
        """Whether any reward changed."""
        return bool(self.kinds.keys() - {"same", "not the verifier's"})


def regrade(
    directory: layout.IterationDir,
    problems: Sequence[Problem],
    verifier: Verifier,
    *,
    read_by: Sequence[layout.IterationDir] = (),
    is_dry: bool = False,
) -> Changes:
    """Grades the samples of an iteration again.

    Samples that the verifier does not grade (`records.UNVERIFIED_SOURCES`) keep their reward.

    Args:
      directory: directory of the iteration.
      problems: the problems that were sampled.
      verifier: verifier with the task's grader.
      read_by: iterations that train on these samples. An unfinished selection of theirs begins
        again, because it would mix old and new rewards.
      is_dry: if True, changes no file.

    Raises:
      UserError: the iteration has no samples.
    """
    # A run may be writing the folder: shards appear, and the report after the last of them.
    is_finished = directory.generation.exists()
    changes = Changes()
    # What an interrupted E-step left of further shards will be part of them.
    paths = layout.shard_paths(directory.samples) + layout.unfinished_paths(directory.samples)
    if not paths:
        raise UserError(f"{directory.samples}: no samples to verify; run `restem generate` first")
    for reader in () if is_dry else read_by:
        if not reader.selection.exists():
            reader.dataset.rmtree(missing_ok=True)
    for path in paths:
        samples, rows = shards.read(path)
        by_id = {p.problem_id: p for p in shards.problems_of(samples, rows, problems)}
        again = [_regraded(s, v, by_id, changes) for s, v in _graded(samples, by_id, verifier)]
        changes.rewards.observe("reward", [sample.reward for sample in again])
        changes.rewards.count(samples=len(again), correct=sum(s.correct for s in again))
        if not is_dry:
            storage.write_table(path, records.samples_to_table(again, rows))
    if is_finished and not is_dry:
        report = storage.read_json(directory.generation)
        report["correct"] = changes.rewards["correct"]
        report["mean_reward"] = changes.rewards.mean("reward", changes.rewards["samples"])
        storage.write_json(directory.generation, report)
    return changes


def _graded(
    samples: Sequence[Sample], problems: Mapping[str, Problem], verifier: Verifier
) -> list[tuple[Sample, Future[Verdict] | None]]:
    """Grades samples in parallel; returns them with the futures of their verdicts."""
    return [
        (sample, None)
        if sample.source in records.UNVERIFIED_SOURCES
        else (sample, verifier.submit(problems[sample.problem_id], sample.text))
        for sample in samples
    ]


def _regraded(
    before: Sample,
    future: Future[Verdict] | None,
    problems: Mapping[str, Problem],
    changes: Changes,
) -> Sample:
    if future is None:
        changes.kinds["not the verifier's"] += 1
        return before
    verdict = future.result()
    if before.reward == np.float32(verdict.reward):  # rewards are stored as float32
        changes.kinds["same"] += 1
    else:
        change = f"{before.reward:g} -> {verdict.reward:g}"
        changes.kinds[change] += 1
        if len(changes.lines) < MOST_LINES:
            changes.lines.append(
                f"{before.problem_id}/{before.sample_index}: {change} ({verdict.method}; extracted"
                f" {verdict.extracted!r}; gold {problems[before.problem_id].answer!r})"
            )
    return records.regraded(before, verdict)

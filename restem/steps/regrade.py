"""Grades samples again, in place, and reports what changed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Problem, Sample, Verdict
from restem.rollout.verification import Verifier
from restem.run import layout
from restem.runtime import storage


@dataclasses.dataclass
class Changes:
    """What grading again changed."""

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples per change: "same", "0 -> 1", ..."""
    rewards: list[float] = dataclasses.field(default_factory=list)
    """Rewards of all samples after grading again."""
    lines: list[str] = dataclasses.field(default_factory=list)
    """One line per sample whose reward changed."""

    @property
    def any(self) -> bool:
        """Whether any reward changed."""
        return bool(self.kinds.keys() - {"same", "not the verifier's"})


def regrade(
    directory: layout.IterationDir,
    problems: Sequence[Problem],
    verifier: Verifier,
    *,
    is_dry: bool = False,
) -> Changes:
    """Grades the samples of an iteration again.

    Samples that the verifier does not grade (`records.UNVERIFIED_SOURCES`) keep their reward.

    Args:
      directory: directory of the iteration.
      problems: the problems that were sampled.
      verifier: verifier with the task's grader.
      is_dry: if True, changes no file.

    Raises:
      UserError: the iteration has no samples.
    """
    by_id = {p.problem_id: p for p in problems}
    changes = Changes()
    for path, samples in _shards(directory):
        again = [_regraded(s, v, by_id, changes) for s, v in _graded(samples, by_id, verifier)]
        changes.rewards += [sample.reward for sample in again]
        if not is_dry:
            storage.write_table(path, records.samples_to_table(again))
    if directory.generation.exists() and not is_dry:
        report = storage.read_json(directory.generation)
        report["mean_reward"] = sum(changes.rewards) / max(1, len(changes.rewards))
        storage.write_json(directory.generation, report)
    return changes


def _shards(directory: layout.IterationDir) -> Iterator[tuple[epath.Path, list[Sample]]]:
    paths = sorted(directory.samples.glob("*-of-*.parquet"))
    if not paths:
        raise UserError(f"{directory.samples}: no samples to verify; run `restem generate` first")
    for path in paths:
        yield path, storage.read_records(path, records.samples_from_table)


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
        changes.lines.append(
            f"{before.problem_id}/{before.sample_index}: {change} ({verdict.method}; extracted"
            f" {verdict.extracted!r}; gold {problems[before.problem_id].answer!r})"
        )
    return records.regraded(before, verdict)

"""Verification that overlaps sampling: finished samples are graded while others are sampled.

The verifier grades in processes of its own, so a pass takes as long as the slower of the two, not
as long as their sum.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

import jax

from restem import records
from restem.records import Problem, Sample, Verdict
from restem.runtime import distributed


class Verifier(Protocol):
    """Source of rewards: `restem.verify.Verifier`, or a method's wrapper around it."""

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Returns a future at once; its result is the verdict."""


def verified(completed: Iterable[tuple[Problem, Sample]], verifier: Verifier) -> Iterator[Sample]:
    """Yields each sample as soon as its verdict is known."""
    done: queue.SimpleQueue[tuple[Sample, Future[Verdict]]] = queue.SimpleQueue()
    waiting = 0
    for problem, sample in completed:
        future = verifier.submit(problem, sample.text)
        future.add_done_callback(functools.partial(_put, done, sample))
        waiting += 1
        while not done.empty():
            sample, future = done.get()
            waiting -= 1
            yield records.regraded(sample, future.result())
    for _ in range(waiting):
        sample, future = done.get()
        yield records.regraded(sample, future.result())


def _put(
    done: queue.SimpleQueue[tuple[Sample, Future[Verdict]]],
    sample: Sample,
    future: Future[Verdict],
) -> None:
    done.put((sample, future))


BLOCK = 512
"""Verdicts per exchange between hosts: about 100 kB."""


def verified_together(
    completed: Iterable[tuple[Problem, Sample]], verifier: Verifier
) -> Iterator[Sample]:
    """Like `verified`, on hosts that all have the same samples: each host verifies a share of them.

    Verdicts are exchanged one block late, so that verification overlaps sampling.
    """

    def exchange(block: list[tuple[Sample, Future[Verdict] | None]]) -> Iterator[Sample]:
        own = {
            i: records.verdict_fields(future.result())
            for i, (_, future) in enumerate(block)
            if future
        }
        verdicts: dict[str, Any] = {}
        for part in distributed.gather("verification", own):
            verdicts |= part
        for i, (sample, _) in enumerate(block):
            yield records.regraded(sample, Verdict(**verdicts[str(i)]))

    before: list[tuple[Sample, Future[Verdict] | None]] = []
    block: list[tuple[Sample, Future[Verdict] | None]] = []
    for problem, sample in completed:
        own = len(block) % jax.process_count() == jax.process_index()
        block.append((sample, verifier.submit(problem, sample.text) if own else None))
        if len(block) == BLOCK:
            yield from exchange(before)
            before, block = block, []
    yield from exchange(before)
    yield from exchange(block)

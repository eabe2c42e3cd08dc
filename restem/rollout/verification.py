"""Verdicts beside sampling: the verifier's processes grade what is finished while more is sampled.

The time of a pass is therefore that of the slower of the two, not their sum.
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
    """What gives rewards: `restem.verify.Verifier`, or what a method makes of it."""

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Returns at once; the verdict comes later."""


def verified(completed: Iterable[tuple[Problem, Sample]], verifier: Verifier) -> Iterator[Sample]:
    """Yields each sample as soon as it has its verdict."""
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
"""Verdicts that hosts exchange at a time: about 100 kB."""


def verified_together(
    completed: Iterable[tuple[Problem, Sample]], verifier: Verifier
) -> Iterator[Sample]:
    """The same on hosts that all have the same samples: each verifies its share of them.

    Verdicts are exchanged one block late, so that verification continues beside sampling.
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

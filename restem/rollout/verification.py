"""Verification that overlaps sampling: finished samples are graded while others are sampled.

The verifier grades in processes of its own, so a pass takes as long as the slower of the two, not
as long as their sum.
"""

from __future__ import annotations

import collections
import functools
import itertools
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


Completed = Iterable[Sequence[tuple[Problem, Sample]]]
"""Solutions in the order in which they end, in as many groups as there are occasions to ask for
verdicts; groups may be empty."""


def verified(completed: Completed, verifier: Verifier) -> Iterator[Sample]:
    """Yields each sample as soon as its verdict is known."""
    done: queue.SimpleQueue[tuple[Sample, Future[Verdict]]] = queue.SimpleQueue()
    waiting = 0
    for group in completed:
        for problem, sample in group:
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
"""Verdicts per message between hosts: about 100 kB."""


def verified_together(
    completed: Completed,
    verifier: Verifier,
    shard_of: Callable[[Problem], int],
    sizes: Mapping[int, int],
) -> Iterator[Sample]:
    """Like `verified`, on hosts that all have the same samples: each host verifies a share of them.

    To exchange verdicts, all hosts wait for the slowest program. Those of a shard are exchanged
    when the next shard is sampled, so that sampling does not wait for verification:

        sampling        shard 0   shard 1   shard 2
        verification      shard 0   shard 1   shard 2
        exchange                    0         1   2

    Args:
      completed: solutions, the same on every host.
      verifier: source of the rewards.
      shard_of: shard of a problem.
      sizes: number of samples of each shard.
    """
    open_shards: dict[int, list[tuple[Sample, Future[Verdict] | None]]] = {}
    sampled: collections.deque[list[tuple[Sample, Future[Verdict] | None]]] = collections.deque()
    for problem, sample in itertools.chain.from_iterable(completed):
        shard = shard_of(problem)
        of_shard = open_shards.setdefault(shard, [])
        own = len(of_shard) % jax.process_count() == jax.process_index()
        of_shard.append((sample, verifier.submit(problem, sample.text) if own else None))
        if len(of_shard) == sizes[shard]:
            sampled.append(open_shards.pop(shard))
        while len(sampled) > 1:
            yield from _exchanged(sampled.popleft())
    for of_shard in (*sampled, *open_shards.values()):
        yield from _exchanged(of_shard)


def _exchanged(of_shard: list[tuple[Sample, Future[Verdict] | None]]) -> Iterator[Sample]:
    """Exchanges the verdicts of a shard between hosts."""
    for start in range(0, len(of_shard), BLOCK):
        block = of_shard[start : start + BLOCK]
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

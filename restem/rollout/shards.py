"""Shards: the samples of a step in files, each with a fixed number of consecutive problems.

A shard is written once all of its samples are verified; a resumed step samples only the missing
shards, without the samples that `unfinished` has kept. Shards are sampled in windows, so that a
host holds the problems and unfinished samples of one window, however many the step has. Because a
sample is a function of (policy, problem, sample index, seed), its shard, its window, its host and
the rows beside it do not matter.

Many hosts sample in one of two ways. On its own devices (no mesh, or `local_mesh`), each host takes
a share of the shards and waits for no other host. On one mesh of all hosts, for a policy that does
not fit on the devices of one host, all hosts run one schedule, and each verifies and writes its
share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from restem import records
from restem.records import Problem, Sample
from restem.rollout import prompts, unfinished
from restem.rollout.rollout import Costs, Rollout
from restem.rollout.unfinished import Unfinished
from restem.run import layout, trackers
from restem.run.problems import StoredProblems
from restem.runtime import distributed, storage
from restem.runtime.preemption import PREEMPTION


class Existing(NamedTuple):
    """What a resumed step found; its costs are those of what it sampled itself."""

    shards: int
    """Number of shards."""
    samples: int
    """Number of samples of unfinished shards, on all hosts."""


NOTICE_EVERY_S = 1.0
"""Seconds between two looks for a preemption notice while samples arrive."""

Extension = Callable[[Rollout, Sequence[Problem], list[Sample]], list[Sample]]
"""Takes a rollout, the problems of a shard and the policy's samples; returns more samples."""


def sample_shards(
    rollout: Rollout,
    folder: epath.Path,
    *,
    problems: Sequence[Problem],
    num_samples: int,
    problems_per_shard: int,
    what: str,
    first_sample: int = 0,
    source: str = "policy",
    extend: Extension | None = None,
) -> Existing:
    """Samples the shards of `problems` that `folder` lacks; returns once all hosts have finished.

    A job that is preempted or interrupted keeps the samples of its unfinished shards, except on a
    mesh of several hosts, where it stops between two shards.

    Args:
      rollout: the policy on the task; the costs of all hosts are added to the rollout's costs.
      folder: folder of the shards.
      problems: the problems to sample.
      num_samples: number of solutions per problem.
      problems_per_shard: number of problems per file.
      what: name of the step.
      first_sample: index of the first sample of each problem.
      source: value of `Sample.source`.
      extend: adds samples to those of a shard; None: adds none.

    Returns:
      What existed already.
    """
    shards = layout.Shards(len(problems), problems_per_shard)
    missing = _indices(
        distributed.run_on_primary(f"{what}: shards", lambda: _mask(shards.missing(folder), shards))
    )
    if len(missing) < len(shards):
        logging.info("%s: %d of %d shards exist", folder, len(shards) - len(missing), len(shards))
    own = distributed.share(missing)
    together = rollout.is_shared
    step = _Step(
        rollout=rollout.replace(costs=Costs()),
        folder=folder,
        shards=shards,
        problems=problems,
        num_samples=num_samples,
        first_sample=first_sample,
        source=source,
        extend=extend,
        writes=frozenset(own),
        finished=len(shards) - len(missing if together else own),
        unfinished=Unfinished(folder),
    )
    windows = list(_windows(missing if together else own, shards, num_samples))
    if len(windows) > 1:
        # A question that does not fit is an error now, not on the day that its window is sampled.
        for shard in own:
            step.check(shard)
            distributed.progressed()
    for number, window in enumerate(windows, start=1):
        of_all = f", part {number} of {len(windows)}" if len(windows) > 1 else ""
        step.sample(window, what, what + of_all)
    own_costs = dataclasses.asdict(step.rollout.costs)
    of_hosts = distributed.gather(what, {"costs": own_costs, "resumed": step.resumed})
    unfinished.remove(folder)
    rollout.costs.add(_of_all_hosts([host["costs"] for host in of_hosts], together))
    return Existing(len(shards) - len(missing), sum(host["resumed"] for host in of_hosts))


@dataclasses.dataclass
class _Step:
    """What the windows of one step have in common."""

    rollout: Rollout
    folder: epath.Path
    shards: layout.Shards
    problems: Sequence[Problem]
    num_samples: int
    first_sample: int
    source: str
    extend: Extension | None
    writes: frozenset[int]
    """Shards that this host writes."""
    finished: int
    """Number of shards that exist or that another host samples alone."""
    unfinished: Unfinished
    """Samples of shards that are not whole."""
    resumed: int = 0
    """Number of samples that were not drawn again."""

    def of_shard(self, shard: int) -> list[Problem]:
        positions = self.shards.positions(shard)
        return list(self.problems[positions.start : positions.stop])

    def check(self, shard: int) -> None:
        """Raises `UserError` if a prompt of the shard and its solution do not fit the policy."""
        rollout = self.rollout
        prompts.tokenize(
            rollout.card,
            self.of_shard(shard),
            rollout.policy.vocabulary,
            max_new_tokens=rollout.max_new_tokens or rollout.card.max_new_tokens,
            max_length=rollout.policy.config.max_length,
        )

    def sample(self, window: Sequence[int], what: str, shown: str) -> None:
        """Samples some shards; holds their problems, and the samples of unfinished shards."""
        # Shard by shard, so that as many shards as possible are finished when a kill comes.
        of_shard = {i: self.of_shard(i) for i in window}
        shard_of = {p.problem_id: i for i, problems in of_shard.items() for p in problems}
        problems = [p for i in of_shard for p in of_shard[i]]
        gathered: dict[int, list[Sample]] = {i: [] for i in of_shard}
        left = self._left(problems)
        for sample in left:
            gathered[shard_of[sample.problem_id]].append(sample)

        def finish(shard: int) -> None:
            samples = gathered[shard]
            if self.extend is not None:
                samples = samples + self.extend(self.rollout, of_shard[shard], samples)
            self.finish(shard, sorted(samples, key=lambda s: (s.problem_id, s.sample_index)), what)
            del gathered[shard]

        stream = self.rollout.sample(
            problems,
            self.num_samples,
            first_sample=self.first_sample,
            source=self.source,
            what=shown,
            shard_of=lambda problem: shard_of[problem.problem_id],
            skip=[(s.problem_id, s.sample_index) for s in left],
        )
        with contextlib.closing(stream), self._kept(gathered) as keep:
            for sample in stream if self.num_samples else ():
                shard = shard_of[sample.problem_id]
                gathered[shard].append(sample)
                is_whole = len(gathered[shard]) == len(of_shard[shard]) * self.num_samples
                if self.extend is None and is_whole:
                    finish(shard)
                keep()
            for shard in sorted(gathered):
                finish(shard)
                keep()

    def _left(self, problems: Sequence[Problem]) -> list[Sample]:
        """Returns the samples that an interrupted job left of unfinished shards."""
        if self.rollout.is_shared:
            return []
        indices = range(self.first_sample, self.first_sample + self.num_samples)
        left = self.unfinished.left(problems, indices, self.source)
        if left:
            logging.info("%s: %d samples of unfinished shards exist", self.folder, len(left))
        self.resumed += len(left)
        return left

    @contextlib.contextmanager
    def _kept(self, gathered: Mapping[int, list[Sample]]) -> Iterator[Callable[[], None]]:
        """Keeps the samples of unfinished shards if the block is left early.

        Yields a function to call after each sample and shard: it keeps the samples from time to
        time, and lets a preempted job stop. On a mesh of several hosts, nothing is kept.
        """
        if self.rollout.is_shared:
            yield lambda: None
            return
        look_at = 0.0

        def keep() -> None:
            nonlocal look_at
            self.unfinished.save_if_due(gathered.values())
            if time.monotonic() < look_at:
                return
            look_at = time.monotonic() + NOTICE_EVERY_S
            if PREEMPTION.noticed():
                self.unfinished.save(gathered.values())
                PREEMPTION.leave_if(True)

        try:
            yield keep
        except BaseException:
            # A disk that is full here too must not hide what ended the step.
            with contextlib.suppress(OSError):
                self.unfinished.save(gathered.values())
            raise

    def finish(self, shard: int, samples: list[Sample], what: str) -> None:
        """Writes a shard, if that is this host's part."""
        self.finished += 1
        if shard in self.writes:
            rows = None
            if isinstance(self.problems, StoredProblems):
                rows = self.problems.span(self.shards.positions(shard))
            table = records.samples_to_table(samples, rows)
            storage.write_table(self.shards.path(self.folder, shard), table)
            mean = sum(s.reward for s in samples) / max(1, len(samples))
            trackers.log(self.finished, {f"{what.replace(': ', '/')}/mean_reward": mean})
        distributed.progressed()
        if self.rollout.is_shared:
            # On a shared mesh all hosts finish the same shards in the same order.
            PREEMPTION.leave_if(PREEMPTION.reached())


MOST_SAMPLES, MOST_PROBLEMS = 1 << 18, 1 << 16
"""Samples and problems that a host has in memory at a time: MATH's 7,500 problems with 32 samples
each are one window."""


def _windows(
    shards: Sequence[int], division: layout.Shards, num_samples: int
) -> Iterator[Sequence[int]]:
    """Yields the shards in windows that are sampled one after another."""
    size = min(MOST_PROBLEMS, MOST_SAMPLES // max(1, num_samples))
    count = max(1, size // min(division.per_shard, max(1, division.problems)))
    for start in range(0, len(shards), count):
        yield shards[start : start + count]


def _mask(missing: Sequence[int], shards: layout.Shards) -> str:
    """Returns the numbers of shards as hexadecimal bits, small enough to be sent to all hosts."""
    bits = np.zeros(len(shards), bool)
    bits[list(missing)] = True
    return np.packbits(bits).tobytes().hex()


def _indices(mask: str) -> list[int]:
    """Inverts `_mask`."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(mask), np.uint8))).tolist()


def _of_all_hosts(of_hosts: Sequence[Mapping[str, Any]], together: bool) -> Costs:
    """Returns the slowest host's seconds and all tokens, counted once if hosts sample
    `together`."""
    costs = [Costs(**fields) for fields in of_hosts]
    return Costs(
        seconds=max(c.seconds for c in costs),
        seconds_sampling=max(c.seconds_sampling for c in costs),
        tokens=(max if together else sum)(c.tokens for c in costs),
    )

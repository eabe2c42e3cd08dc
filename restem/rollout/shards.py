"""Shards: the samples of a step in files, each with a fixed number of problems.

A shard is written once all of its samples are verified; a resumed step samples only the missing
shards. Because a sample is a function of (policy, problem, sample index, seed), its shard, its host
and the rows beside it do not matter.

Many hosts sample in one of two ways. On its own devices (no mesh, or `local_mesh`), each host takes
a share of the shards and waits for no other host. On one mesh of all hosts, for a policy that does
not fit on the devices of one host, all hosts run one schedule, and each verifies and writes its
share.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from restem import records
from restem.records import Problem, Sample
from restem.rollout.rollout import Costs, Rollout
from restem.run import layout, trackers
from restem.runtime import distributed, storage
from restem.runtime.preemption import PREEMPTION

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
) -> int:
    """Samples the shards of `problems` that `folder` lacks; returns once all hosts have finished.

    A preempted job stops between two shards.

    Args:
      rollout: the policy on the task; the costs of all hosts are added to the rollout's costs.
      folder: folder of the shards.
      problems: the problems to sample.
      num_samples: number of solutions per problem.
      problems_per_shard: problems per file; a kill loses only the samples of unfinished shards.
      what: name of the step.
      first_sample: index of the first sample of each problem.
      source: value of `Sample.source`.
      extend: adds samples to those of a shard; None: adds none.

    Returns:
      The number of shards that existed already.
    """
    shards = max(1, -(-len(problems) // problems_per_shard))
    paths = [layout.shard_path(folder, i, shards) for i in range(shards)]
    shard_of = {p.problem_id: i % shards for i, p in enumerate(problems)}
    missing = distributed.run_on_primary(
        f"{what}: shards", lambda: [i for i, path in enumerate(paths) if not path.exists()]
    )
    if len(missing) < shards:
        logging.info("%s: %d of %d shards exist", folder, shards - len(missing), shards)
    own = distributed.share(missing)
    together = rollout.is_shared
    here = rollout.replace(costs=Costs())
    # Shard by shard, so that as many shards as possible are finished when a kill comes.
    of_shard = {
        i: [p for p in problems if shard_of[p.problem_id] == i]
        for i in (missing if together else own)
    }
    gathered: dict[int, list[Sample]] = {i: [] for i in of_shard}

    def finish(shard: int) -> None:
        samples = gathered.pop(shard)
        if extend is not None:
            samples += extend(here, of_shard[shard], samples)
        samples.sort(key=lambda s: (s.problem_id, s.sample_index))
        if shard in own:
            storage.write_table(paths[shard], records.samples_to_table(samples))
            mean = sum(s.reward for s in samples) / max(1, len(samples))
            trackers.log(shards - len(gathered), {f"{what.replace(': ', '/')}/mean_reward": mean})
        # On a shared mesh all hosts finish the same shards in the same order.
        PREEMPTION.leave_if(PREEMPTION.reached() if together else PREEMPTION.noticed())

    stream = here.sample(
        [p for i in of_shard for p in of_shard[i]],
        num_samples,
        first_sample=first_sample,
        source=source,
        what=what,
        shard_of=lambda problem: shard_of[problem.problem_id],
    )
    with contextlib.closing(stream):
        for sample in stream if num_samples and of_shard else ():
            shard = shard_of[sample.problem_id]
            gathered[shard].append(sample)
            if extend is None and len(gathered[shard]) == len(of_shard[shard]) * num_samples:
                finish(shard)
    for shard in sorted(gathered):
        finish(shard)
    gathered_costs = distributed.gather(what, dataclasses.asdict(here.costs))
    rollout.costs.add(_of_all_hosts(gathered_costs, together))
    return shards - len(missing)


def _of_all_hosts(of_hosts: Sequence[Mapping[str, Any]], together: bool) -> Costs:
    """Returns the slowest host's seconds and all tokens, counted once if hosts sample
    `together`."""
    costs = [Costs(**fields) for fields in of_hosts]
    return Costs(
        seconds=max(c.seconds for c in costs),
        seconds_sampling=max(c.seconds_sampling for c in costs),
        tokens=(max if together else sum)(c.tokens for c in costs),
    )

"""From rewards to a training set: which samples are kept, and with what weight.

In the paper's terms (section 3), the kept samples represent q(y | x), which is proportional to
f(r(x, y)) p(y | x): `keep` and `cap` choose the samples, and `weight` is f.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from restem import records
from restem.records import Example, Problem, Sample, stable_key
from restem.run import layout
from restem.runtime import distributed, storage
from restem.runtime.preemption import PREEMPTION
from restem.steps.distinct import DISTINCT
from restem.steps.settings import SelectSettings
from restem.steps.strategies import KeepByStep, WeightOfAll
from restem.steps.sums import Sums

T = TypeVar("T")

FATES = ("truncated", "unformatted", "rejected", "duplicate", "over_cap", "over_total", "kept")
"""Fate of a sample, exactly one per sample: truncated at the length limit; not kept, because the
grader found no final answer; not kept for another reason; a duplicate of another sample; over the
cap per problem; over the cap on all examples; or trained on."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """A training set, and the fate of every sample."""

    examples: list[Example]
    """Examples in the order of the problems."""
    report: dict[str, Any]
    """Content of `selection.json`."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Some problems with all of their samples, such as those of a shard."""

    problems: Sequence[Problem]
    samples: Sequence[Sample]


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """A kept sample, with its problem and weight."""

    problem: Problem
    sample: Sample
    weight: float = 1.0


def select(
    *,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    iteration: int,
    seed: int,
    step: int = 0,
    settings: SelectSettings = SelectSettings(),
    samples_are_own: bool = True,
) -> Selection:
    """Chooses and weights the examples of the M-step, from samples in memory.

    Args:
      problems: the problems that were sampled.
      samples: verified samples of these problems.
      iteration: number of the iteration; random choices differ between iterations.
      seed: seed of the run.
      step: Improve step on these samples, counted from 0 (ReST takes several).
      settings: which samples are kept, and with what weight.
      samples_are_own: whether the policy that is trained drew the samples, rather than a teacher.

    Raises:
      ValueError: a sample has no reward.
    """
    selector = Selector(iteration, seed, settings, step, samples_are_own)
    pool = Pool(problems, samples)
    selector = selector.informed([0], lambda _: pool)
    examples, sums = selector.examples(0, pool)
    return Selection(examples, selector.report(sums))


@dataclasses.dataclass(frozen=True)
class Selector:
    """Chooses and weights the examples of one shard at a time.

    What depends on other shards, which `informed` finds out beforehand, is small: sums for weights
    that depend on all samples, and the number of candidates per shard for a cap on all examples.
    """

    iteration: int
    """Number of the iteration; random choices differ between iterations."""
    seed: int
    """Seed of the run."""
    settings: SelectSettings
    """Which samples are kept, and with what weight."""
    step: int = 0
    """Improve step on these samples, counted from 0 (ReST takes several)."""
    samples_are_own: bool = True
    """Whether the policy that is trained drew the samples, rather than a teacher."""
    totals: tuple[Mapping[str, int], ...] = ()
    """Sums over all samples that `settings.weight` depends on."""
    quota: Mapping[int, Sequence[int]] | None = None
    """Positions of the examples that the cap on all examples leaves, among the candidates of each
    shard; None: no cap applies."""

    def informed(self, shards: Sequence[int], pool: Callable[[int], Pool]) -> Selector:
        """Returns a selector that knows what it must about all shards; reads them if necessary.

        All hosts call it, and each reads its share of the shards.

        Args:
          shards: numbers of the shards.
          pool: reads a shard.
        """
        known = self
        weight = self.settings.weight
        if isinstance(weight, WeightOfAll):
            for _ in range(weight.passes):
                own = Sums()
                for i in distributed.share(shards):
                    read = pool(i)
                    kept = [c.sample for c in known._fates(read)["kept"]]
                    own.count(**weight.sums(kept, read.samples, known.totals))
                    distributed.progressed()
                sums = Sums.of_hosts(distributed.gather("weights", own.to_json()))
                total = {name: int(value) for name, value in sums.totals.items()}
                known = dataclasses.replace(known, totals=(*known.totals, total))
        most = self.settings.max_examples
        if most is None:
            return known
        counts: dict[str, int] = {}
        for i in distributed.share(shards):
            counts[str(i)] = len(known._candidates(pool(i))[0])
            distributed.progressed()
        gathered = {
            k: n for part in distributed.gather("candidates", counts) for k, n in part.items()
        }
        return dataclasses.replace(
            known, quota=self._quota([gathered[str(i)] for i in shards], shards)
        )

    def _quota(self, counts: Sequence[int], shards: Sequence[int]) -> dict[int, list[int]] | None:
        """Returns the positions of a random choice of `max_examples` candidates, by shard."""
        total, most = sum(counts), self.settings.max_examples
        if most is None or total <= most:
            return None
        rng = random.Random(stable_key(self.seed, "total", self.iteration))
        drawn = np.sort(np.array(rng.sample(range(total), most), np.int64))
        ends = np.cumsum(counts)
        cuts = np.searchsorted(drawn, ends)
        starts = ends - counts
        return {
            shard: (drawn[first:last] - start).tolist()
            for shard, first, last, start in zip(shards, [0, *cuts[:-1]], cuts, starts, strict=True)
        }

    def examples(self, shard: int, pool: Pool) -> tuple[list[Example], Sums]:
        """Returns the examples of a shard, and its part of the sums behind `selection.json`.

        Raises:
          ValueError: a sample has no reward.
        """
        candidates, fates = self._candidates(pool)
        kept = candidates
        if self.quota is not None:
            kept = [candidates[i] for i in self.quota[shard]]
        fates["kept"], fates["over_total"] = kept, _without(candidates, kept)
        made = [
            as_example(c.problem, c.sample, c.weight, is_own=self.samples_are_own) for c in kept
        ]
        return made, _sums(pool, made, fates)

    def _candidates(self, pool: Pool) -> tuple[list[_Chosen], dict[str, list[_Chosen]]]:
        """Returns the weighted samples before the cap on all examples, and the fates."""
        fates = self._fates(pool)
        weight, kept = self.settings.weight, [c.sample for c in fates["kept"]]
        if isinstance(weight, WeightOfAll):
            weights = weight.weights(kept, pool.samples, self.totals)
        else:
            weights = [weight(sample.reward) for sample in kept]
        weighted = [
            dataclasses.replace(c, weight=float(w))
            for c, w in zip(fates["kept"], weights, strict=True)
        ]
        fates["rejected"] += [c for c in weighted if c.weight == 0]
        return [c for c in weighted if c.weight != 0], fates

    def _fates(self, pool: Pool) -> dict[str, list[_Chosen]]:
        """Returns the samples of a shard by fate, before weights and the cap on all examples."""
        settings = self.settings
        if isinstance(settings.keep, KeepByStep):
            settings = dataclasses.replace(settings, keep=settings.keep.at(self.step))
        by_problem: dict[str, list[Sample]] = {p.problem_id: [] for p in pool.problems}
        for sample in pool.samples:
            if sample.reward is None:
                raise ValueError(f"sample {sample.problem_id}/{sample.sample_index} has no reward")
            by_problem[sample.problem_id].append(sample)
        fates: dict[str, list[_Chosen]] = {fate: [] for fate in FATES}
        for problem in pool.problems:
            rng = random.Random(stable_key(self.seed, "cap", self.iteration, problem.problem_id))
            of_problem = sorted(by_problem[problem.problem_id], key=lambda s: s.sample_index)
            for fate, found in _choose(problem, of_problem, settings, rng).items():
                fates[fate] += [_Chosen(problem, sample) for sample in found]
        return fates

    def report(self, sums: Sums) -> dict[str, Any]:
        """Returns the content of `selection.json`."""
        low, high = sums.bounds.get("weight", (0.0, 0.0))
        return {
            "iteration": self.iteration,
            **{name: sums[name] for name in ("problems", "problems_solved", "problems_trained_on")},
            "sampled": sums["sampled"],
            "correct": sums["correct"],
            "mean_reward": sums.mean("reward", sums["sampled"]),
            "kept": sums["kept"],
            "buckets": {fate: sums[f"bucket_{fate}"] for fate in FATES},
            "weights": {"min": low, "mean": sums.mean("weight", sums["kept"]), "max": high},
        }


def select_shards(
    selector: Selector, paths: Sequence[epath.Path], pool: Callable[[int], Pool]
) -> dict[str, Any]:
    """Writes the examples of each shard to its path; returns the content of `selection.json`.

    All hosts call it, and each selects from its share of the shards. A selection that was killed
    continues with the shards that have no examples yet; a preempted one stops between two shards.

    Args:
      selector: which samples are kept.
      paths: path of each shard's examples.
      pool: reads a shard.
    """
    selector = selector.informed(range(len(paths)), pool)
    existing = {path.name for path in layout.shard_paths(paths[0].parent)}
    own = Sums()
    for i in distributed.share(range(len(paths))):
        if paths[i].name in existing:
            own.add(Sums.from_json(storage.read_note(paths[i])))
        else:
            examples, sums = selector.examples(i, pool(i))
            table = records.examples_to_table(examples)
            storage.write_table(paths[i], table, note=sums.to_json())
            own.add(sums)
        distributed.progressed()
        PREEMPTION.leave_if(PREEMPTION.noticed())
    return selector.report(Sums.of_hosts(distributed.gather("selection", own.to_json())))


def _choose(
    problem: Problem, samples: Sequence[Sample], settings: SelectSettings, rng: random.Random
) -> dict[str, list[Sample]]:
    """Returns the samples of one problem by fate, before the cap on all examples."""
    finished = [s for s in samples if s.finish_reason != "length"]
    candidates = list(settings.keep(problem, finished)) if finished else []
    unlike = _first_of_each(candidates, settings.distinct)
    kept = _at_most(settings.cap, unlike, rng)
    rejected = _without(finished, candidates)
    return {
        "truncated": _without(samples, finished),
        "unformatted": [s for s in rejected if s.unformatted],
        "rejected": [s for s in rejected if not s.unformatted],
        "duplicate": _without(candidates, unlike),
        "over_cap": _without(unlike, kept),
        "kept": kept,
    }


def _first_of_each(samples: list[Sample], distinct: str) -> list[Sample]:
    """Returns the first of each group of samples that count as the same solution."""
    key_of = DISTINCT[distinct]
    if key_of is None:
        return samples
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(key_of(sample), sample)
    return list(first.values())


def _at_most(most: int | None, items: list[T], rng: random.Random) -> list[T]:
    """Returns at most `most` of the items, chosen at random, in their original order."""
    if most is None or len(items) <= most:
        return items
    return [items[i] for i in sorted(rng.sample(range(len(items)), most))]


def _without(items: Sequence[T], taken: Sequence[T]) -> list[T]:
    """Returns the items that are not in `taken`, compared by identity."""
    ids = set(map(id, taken))
    return [item for item in items if id(item) not in ids]


def as_example(problem: Problem, sample: Sample, weight: float, *, is_own: bool = True) -> Example:
    """Returns the training pair of a sample, with the problem's own query: never a hint.

    Args:
      problem: the sample's problem.
      sample: the sample.
      weight: its weight in the loss.
      is_own: whether the policy that is trained drew the sample, unless its source names another
        one. The tokens of another policy may be of another vocabulary, so the text is tokenised
        again.
    """
    return Example(
        problem_id=problem.problem_id,
        sample_index=sample.sample_index,
        inputs=problem.inputs,
        targets=sample.text,
        target_ids=sample.token_ids if is_own and ":" not in sample.source else (),
        weight=weight,
    )


def _sums(pool: Pool, examples: Sequence[Example], fates: Mapping[str, Sequence[_Chosen]]) -> Sums:
    """Returns a shard's part of the sums behind `selection.json`."""
    sums = Sums()
    sums.count(
        problems=len(pool.problems),
        problems_solved=len({s.problem_id for s in pool.samples if s.correct}),
        problems_trained_on=len({e.problem_id for e in examples}),
        sampled=len(pool.samples),
        correct=sum(s.correct for s in pool.samples),
        kept=len(examples),
        **{f"bucket_{fate}": len(fates[fate]) for fate in FATES},
    )
    sums.observe("reward", [s.reward for s in pool.samples])
    sums.observe("weight", [e.weight for e in examples])
    return sums

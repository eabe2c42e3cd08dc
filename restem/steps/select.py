"""From rewards to a training set: which samples are kept, and with what weight.

In the paper's terms (section 3), the kept samples represent q(y | x), which is proportional to
f(r(x, y)) p(y | x): `keep` and `cap` choose the samples, and `weight` is f.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from restem.records import Example, Problem, Sample, stable_key
from restem.steps.distinct import DISTINCT
from restem.steps.settings import SelectSettings
from restem.steps.strategies import KeepByStep, WeightOfAll

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
) -> Selection:
    """Chooses and weights the examples of the M-step.

    Args:
      problems: the problems that were sampled.
      samples: verified samples of these problems.
      iteration: number of the iteration; random choices differ between iterations.
      seed: seed of the run.
      step: Improve step on these samples, counted from 0 (ReST takes several).
      settings: which samples are kept, and with what weight.

    Raises:
      ValueError: a sample has no reward.
    """
    if isinstance(settings.keep, KeepByStep):
        settings = dataclasses.replace(settings, keep=settings.keep.at(step))
    by_problem: dict[str, list[Sample]] = {p.problem_id: [] for p in problems}
    for sample in samples:
        if sample.reward is None:
            raise ValueError(f"sample {sample.problem_id}/{sample.sample_index} has no reward")
        by_problem[sample.problem_id].append(sample)

    fates: dict[str, list[_Chosen]] = {fate: [] for fate in FATES}
    for problem in problems:
        rng = random.Random(stable_key(seed, "cap", iteration, problem.problem_id))
        of_problem = sorted(by_problem[problem.problem_id], key=lambda s: s.sample_index)
        for fate, found in _choose(problem, of_problem, settings, rng).items():
            fates[fate] += [_Chosen(problem, sample) for sample in found]
    weighted = _weigh(fates["kept"], samples, settings)
    fates["rejected"] += [chosen for chosen in weighted if chosen.weight == 0]
    weighted = [chosen for chosen in weighted if chosen.weight != 0]
    rng = random.Random(stable_key(seed, "total", iteration))
    fates["kept"] = _at_most(settings.max_examples, weighted, rng)
    fates["over_total"] = _without(weighted, fates["kept"])

    examples = [as_example(c.problem, c.sample, c.weight) for c in fates["kept"]]
    return Selection(examples, _report(iteration, problems, samples, examples, fates))


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


def _weigh(
    chosen: list[_Chosen], samples: Sequence[Sample], settings: SelectSettings
) -> list[_Chosen]:
    weight, kept = settings.weight, [c.sample for c in chosen]
    if isinstance(weight, WeightOfAll):
        weights = weight.of_all(kept, samples)
    else:
        weights = [weight(sample.reward) for sample in kept]
    return [dataclasses.replace(c, weight=float(w)) for c, w in zip(chosen, weights, strict=True)]


def as_example(problem: Problem, sample: Sample, weight: float) -> Example:
    """Returns the training pair of a sample, with the problem's own query: never a hint."""
    return Example(
        problem_id=problem.problem_id,
        sample_index=sample.sample_index,
        inputs=problem.inputs,
        targets=sample.text,
        # Another policy may have another vocabulary, so the text of its samples is tokenised again.
        target_ids=() if ":" in sample.source else sample.token_ids,
        weight=weight,
    )


def _report(
    iteration: int,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    examples: Sequence[Example],
    fates: Mapping[str, Sequence[_Chosen]],
) -> dict[str, Any]:
    """Content of `selection.json`."""
    weights = [e.weight for e in examples]
    return {
        "iteration": iteration,
        "problems": len(problems),
        "problems_solved": len({s.problem_id for s in samples if s.correct}),
        "problems_trained_on": len({e.problem_id for e in examples}),
        "sampled": len(samples),
        "correct": sum(s.correct for s in samples),
        "mean_reward": sum(s.reward for s in samples) / max(1, len(samples)),
        "kept": len(examples),
        "buckets": {fate: len(fates[fate]) for fate in FATES},
        "weights": {
            "min": min(weights, default=0.0),
            "mean": sum(weights) / max(1, len(weights)),
            "max": max(weights, default=0.0),
        },
    }

"""From rewards to a training set: what is kept of the samples, and with what weight.

In the paper's terms (section 3) this fixes q(y | x), proportional to f(r(x, y)) p(y | x), by its
samples: `keep` and `cap` say which samples stand for it, `weight` is f. The published methods
differ here in small strategies; each is a frozen dataclass with one method, bound by gin.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gin

from restem.records import Example, Problem, Sample, stable_key


class Keep(Protocol):
    """Which finished samples of one problem are candidates for training."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]: ...

    # One that changes over the Improve steps of a Generate step has a method `at(step)`, which
    # gives the strategy of that step (`restem.methods.RisingThreshold`).


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardAbove:
    """Samples whose reward is above a threshold; with binary rewards, the correct ones."""

    threshold: float = 0.0
    """tau of ReST (Gulcehre et al. 2023); section 3, remark."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return [s for s in samples if s.reward > self.threshold]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Everything:
    """All samples, whatever their reward; the weight tells them apart (RWR)."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BestOfN:
    """The sample of the highest reward, the likelier one of equals (RAFT, Dong et al. 2023)."""

    above: float = 0.0
    """No sample is kept of a problem whose best reward does not exceed this."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        best = max(samples, key=lambda s: (s.reward, s.logprob, -s.sample_index))
        return [best] if best.reward > self.above else []


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MajorityAnswer:
    """Samples that agree with the most frequent answer (Huang et al. 2022).

    No reward and no gold answer is read: the samples' own final answers vote.
    """

    min_share: float = 0.0
    """Keep nothing of a problem where the majority has a smaller share of the votes (its
    confidence in section 3.2 of Huang et al.)."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        votes = collections.Counter(filter(None, (s.final_answer for s in samples)))
        if not votes:
            return []
        # Of equally frequent answers the first in the alphabet, so that order does not matter.
        answer, count = min(votes.items(), key=lambda item: (-item[1], item[0]))
        if count < self.min_share * len(samples):
            return []
        return [s for s in samples if s.final_answer == answer]


class Weight(Protocol):
    """f(r) of section 3: the weight of a sample of reward r.

    One that must see all samples at once has a method `of_all(kept, samples)` instead, which gives
    the weights of `kept`; what it weighs 0 is left out (`restem.methods.ControlVariate`).
    """

    def __call__(self, reward: float) -> float: ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardWeight:
    """f is the identity: the reward is the weight (equation 3)."""

    def __call__(self, reward: float) -> float:
        return reward


@gin.configurable
@dataclasses.dataclass(frozen=True)
class UnitWeight:
    """What is kept counts alike."""

    def __call__(self, reward: float) -> float:
        return 1.0


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExponentialWeight:
    """f(r) = exp(r / beta) (RWR, Peters and Schaal 2007)."""

    beta: float = 1.0
    """Temperature of the rewards; the smaller, the more the best samples dominate."""

    def __call__(self, reward: float) -> float:
        return math.exp(reward / self.beta)


def exact_text(sample: Sample) -> str:
    """Two solutions are the same if their text is, white space aside."""
    return " ".join(sample.text.split())


_MATH_CHARACTERS = re.compile(r"[^0-9a-zA-Z+\-*/^().,\\{}=<>|!%]")


def equation_set(sample: Sample) -> str:
    """Two solutions are the same if they write the same equations, in whatever order and words.

    Yuan et al. 2023 (RFT), section 3.3, compare lists of calculator annotations; free text has
    none, so the equations are read off it: what stands on both sides of an `=` that has a digit.
    A solution without equations is compared by its text.
    """
    equations = set()
    for line in sample.text.splitlines():
        parts = line.split("=")
        for left, right in itertools.pairwise(parts):
            left = _side(left, last=True)
            right = _side(right, last=False)
            if left and right and any(c.isdigit() for c in left + right):
                equations.add(f"{left}={right}")
    return " ; ".join(sorted(equations)) or exact_text(sample)


def _side(text: str, *, last: bool) -> str:
    """The formula that touches an equals sign: words end it."""
    pieces = re.split(r"(?:(?<![\\a-zA-Z])[a-zA-Z]{2,}|[$,;:]|(?<=[^\d])\.(?=\s|$)|\.\s)", text)
    return "".join(_MATH_CHARACTERS.sub("", pieces[-1 if last else 0]).split()).rstrip(".")


DISTINCT: Mapping[str, Callable[[Sample], str] | None] = {
    "none": None,
    "text": exact_text,
    "equations": equation_set,
}


@dataclasses.dataclass(frozen=True)
class Selection:
    """A training set and the account of every sample."""

    examples: list[Example]
    report: dict[str, Any]
    """What `selection.json` holds."""


@gin.configurable
def select(
    *,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    iteration: int,
    seed: int,
    step: int = 0,
    keep: Keep = RewardAbove(),
    distinct: str = "text",
    cap: int | None = 10,
    weight: Weight = RewardWeight(),
    max_examples: int | None = None,
) -> Selection:
    """Chooses and weights the examples of the M-step.

    Every sample falls into exactly one bucket: truncated (cut off at the length limit), unformatted
    (kept out, and the grader found no final answer in it), rejected (kept out by `keep`),
    duplicate, over_cap, over_total, kept.

    Args:
      problems: the problems that were sampled.
      samples: verified samples of them.
      iteration: of the run; choices differ between iterations.
      seed: of the run.
      step: which Improve step on these samples, from 0 (ReST takes several).
      keep: which samples are candidates.
      distinct: "none", "text" or "equations": which candidates count as the same solution; of
        equals the one of the lowest index stays.
      cap: at most this many a problem, chosen at random (section 5: 10 for MATH and APPS, against
        the dominance of easy problems); None: all.
      weight: of a kept sample.
      max_examples: at most this many in all, chosen at random; None: all.

    Returns:
      The examples in the order of the problems, and the account.
    """
    by_problem: dict[str, list[Sample]] = {p.problem_id: [] for p in problems}
    for sample in samples:
        if sample.reward is None:
            raise ValueError(f"sample {sample.problem_id}/{sample.sample_index} has no reward")
        by_problem[sample.problem_id].append(sample)
    keep = keep.at(step) if hasattr(keep, "at") else keep
    key_of = DISTINCT[distinct]
    buckets: collections.Counter[str] = collections.Counter()
    pairs: list[tuple[Problem, Sample]] = []
    for problem in problems:
        of_problem = sorted(by_problem[problem.problem_id], key=lambda s: s.sample_index)
        finished = [s for s in of_problem if s.finish_reason != "length"]
        buckets["truncated"] += len(of_problem) - len(finished)
        kept = keep(problem, finished) if finished else []
        kept_ids = set(map(id, kept))
        for sample in finished:
            if id(sample) not in kept_ids:
                buckets["unformatted" if sample.unformatted else "rejected"] += 1
        if key_of is not None:
            first: dict[str, Sample] = {}
            for sample in kept:
                first.setdefault(key_of(sample), sample)
            buckets["duplicate"] += len(kept) - len(first)
            kept = list(first.values())
        if cap is not None and len(kept) > cap:
            buckets["over_cap"] += len(kept) - cap
            rng = random.Random(stable_key(seed, "cap", iteration, problem.problem_id))
            kept = sorted(rng.sample(kept, cap), key=lambda s: s.sample_index)
        pairs += [(problem, sample) for sample in kept]
    if hasattr(weight, "of_all"):
        of_pairs = weight.of_all([sample for _, sample in pairs], samples)
    else:
        of_pairs = [weight(sample.reward) for _, sample in pairs]
    buckets["rejected"] += sum(w == 0 for w in of_pairs)
    examples = [as_example(*pair, w) for pair, w in zip(pairs, of_pairs, strict=True) if w != 0]
    if max_examples is not None and len(examples) > max_examples:
        buckets["over_total"] += len(examples) - max_examples
        rng = random.Random(stable_key(seed, "total", iteration))
        chosen = sorted(rng.sample(range(len(examples)), max_examples))
        examples = [examples[i] for i in chosen]
    buckets["kept"] = len(examples)
    correct = {s.problem_id for s in samples if s.correct}
    weights = [e.weight for e in examples]
    report = {
        "iteration": iteration,
        "problems": len(problems),
        "problems_solved": len(correct),
        "problems_trained_on": len({e.problem_id for e in examples}),
        "sampled": len(samples),
        "correct": sum(s.correct for s in samples),
        "mean_reward": sum(s.reward for s in samples) / max(1, len(samples)),
        "kept": len(examples),
        "buckets": {
            name: buckets[name]
            for name in (
                "truncated", "unformatted", "rejected", "duplicate", "over_cap", "over_total",
                "kept",
            )
        },
        "weights": {
            "min": min(weights, default=0.0),
            "mean": sum(weights) / max(1, len(weights)),
            "max": max(weights, default=0.0),
        },
    }  # fmt: skip
    return Selection(examples, report)


def as_example(problem: Problem, sample: Sample, weight: float) -> Example:
    """The training pair of a sample: the problem's own query, never a hint that the sample saw."""
    return Example(
        problem_id=problem.problem_id,
        sample_index=sample.sample_index,
        inputs=problem.inputs,
        targets=sample.text,
        # Ids of another policy are of another vocabulary: its text is tokenised again.
        target_ids=() if ":" in sample.source else sample.token_ids,
        weight=float(weight),
    )


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of a training set, to tell whether a checkpoint was trained on it."""
    digest = hashlib.sha256()
    for e in examples:
        digest.update(repr((e.problem_id, e.sample_index, e.targets, e.weight)).encode())
    return digest.hexdigest()

"""Strategies of selection: which samples are candidates for training, and what each one weighs.

The published methods differ in these. Each strategy is a frozen dataclass with one method, which
gin binds to `select.keep` or `select.weight`.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Protocol, runtime_checkable

import gin

from restem.records import Problem, Sample
from restem.runtime.checks import above, between


@runtime_checkable
class Keep(Protocol):
    """Which finished samples of one problem are candidates for training."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]: ...


@runtime_checkable
class KeepByStep(Keep, Protocol):
    """One that changes over the Improve steps of a Generate step (`methods.RisingThreshold`)."""

    def at(self, step: int) -> Keep:
        """The strategy of Improve step `step`, counted from 0."""


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
    """All samples, whatever their reward; their weights differ (RWR)."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BestOfN:
    """The sample of the highest reward, the likelier one of equals (RAFT, Dong et al. 2023)."""

    above: float = 0.0
    """Reward that the best sample must exceed to be kept."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        best = max(samples, key=lambda s: (s.reward, s.logprob, -s.sample_index))
        return [best] if best.reward > self.above else []


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MajorityAnswer:
    """Samples that agree with the most frequent answer (Huang et al. 2022).

    No reward and no gold answer is read: the samples' own final answers vote.
    """

    min_share: Annotated[float, between(0, 1)] = 0.0
    """Least share of the samples that the majority must have (its confidence in section 3.2 of
    Huang et al.); of other problems nothing is kept."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        votes = collections.Counter(filter(None, (s.final_answer for s in samples)))
        if not votes:
            return []
        # Of equally frequent answers the first in the alphabet, so that order does not matter.
        answer, count = min(votes.items(), key=lambda item: (-item[1], item[0]))
        if count < self.min_share * len(samples):
            return []
        return [s for s in samples if s.final_answer == answer]


@runtime_checkable
class Weight(Protocol):
    """f(r) of section 3: the weight of a sample of reward r."""

    def __call__(self, reward: float) -> float: ...


@runtime_checkable
class WeightOfAll(Protocol):
    """A weight that depends on all samples (`methods.ControlVariate`)."""

    def of_all(self, kept: Sequence[Sample], samples: Sequence[Sample]) -> list[float]:
        """The weights of `kept`; what weighs 0 is left out."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardWeight:
    """f is the identity: the reward is the weight (equation 3)."""

    def __call__(self, reward: float) -> float:
        return reward


@gin.configurable
@dataclasses.dataclass(frozen=True)
class UnitWeight:
    """All kept samples count alike."""

    def __call__(self, reward: float) -> float:
        return 1.0


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExponentialWeight:
    """f(r) = exp(r / beta) (RWR, Peters and Schaal 2007)."""

    beta: Annotated[float, above(0)] = 1.0
    """Temperature of the rewards; the smaller, the more the best samples dominate."""

    def __call__(self, reward: float) -> float:
        return math.exp(reward / self.beta)

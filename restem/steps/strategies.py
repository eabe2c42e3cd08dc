"""Strategies of selection: which samples are candidates for training, and with what weight.

The published methods differ in these strategies. Each one is a frozen dataclass with one method;
gin binds it to `select.keep` or `select.weight`.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol, runtime_checkable

import gin
import numpy as np

from restem.errors import UserError
from restem.records import Problem, Sample
from restem.runtime.checks import above, between


@runtime_checkable
class Keep(Protocol):
    """Chooses the finished samples of one problem that are candidates for training."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]: ...


@runtime_checkable
class KeepByStep(Keep, Protocol):
    """A `Keep` that changes with each Improve step (`methods.RisingThreshold`)."""

    def at(self, step: int) -> Keep:
        """Returns the strategy for Improve step `step`, counted from 0."""


def exceeds(reward: float, threshold: float) -> bool:
    """Returns whether a reward is above a threshold.

    Files store rewards as float32, in which 0.6 is more than the 0.6 of a gin file.
    """
    return bool(np.float32(reward) > np.float32(threshold))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardAbove:
    """Keeps samples whose reward is above a threshold; with binary rewards, the correct ones."""

    threshold: float = 0.0
    """Threshold tau of ReST (Gulcehre et al. 2023); section 3, remark."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return [s for s in samples if exceeds(s.reward, self.threshold)]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Everything:
    """Keeps all samples, whatever their reward; their weights differ (RWR)."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BestOfN:
    """Keeps the sample with the highest reward, the likelier one if tied (RAFT, Dong et al.
    2023)."""

    above: float = 0.0
    """Reward that the best sample must exceed."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        # Another engine may not tell the log-probability.
        likely = lambda s: -math.inf if math.isnan(s.logprob) else s.logprob
        best = max(samples, key=lambda s: (s.reward, likely(s), -s.sample_index))
        return [best] if exceeds(best.reward, self.above) else []


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MajorityAnswer:
    """Keeps the samples that agree with the most frequent answer (Huang et al. 2022).

    Neither rewards nor gold answers are read: the samples' own final answers vote.
    """

    min_share: Annotated[float, between(0, 1)] = 0.0
    """Minimum share of the finished samples that must agree (the confidence in section 3.2 of Huang
    et al.); a problem below this share contributes no examples."""

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        votes = collections.Counter(filter(None, (s.final_answer for s in samples)))
        if not votes:
            return []
        # Ties go to the alphabetically first answer, so that the order of samples does not matter.
        answer, count = min(votes.items(), key=lambda item: (-item[1], item[0]))
        if count < self.min_share * len(samples):
            return []
        return [s for s in samples if s.final_answer == answer]


@runtime_checkable
class Weight(Protocol):
    """f(r) of section 3: the weight of a sample with reward r."""

    def __call__(self, reward: float) -> float: ...


@runtime_checkable
class WeightOfAll(Protocol):
    """A weight that depends on all samples (`methods.ControlVariate`), by way of sums over them.

    Samples are read shard by shard. Each of the `passes` over all shards adds up whole numbers,
    which may depend on the totals of the passes before it; weights depend on all totals.
    """

    passes: int

    def sums(
        self, kept: Sequence[Sample], samples: Sequence[Sample], totals: Sequence[Mapping[str, int]]
    ) -> dict[str, int]:
        """Returns a shard's part of the next totals.

        Args:
          kept: samples of the shard that are kept.
          samples: all samples of the shard, all of each problem.
          totals: totals of the passes before.
        """

    def weights(
        self, kept: Sequence[Sample], samples: Sequence[Sample], totals: Sequence[Mapping[str, int]]
    ) -> list[float]:
        """Returns the weights of `kept`; samples of weight 0 are left out of training."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardWeight:
    """Uses the reward as the weight: f is the identity (equation 3)."""

    def __call__(self, reward: float) -> float:
        return reward


@gin.configurable
@dataclasses.dataclass(frozen=True)
class UnitWeight:
    """Gives every kept sample the weight 1."""

    def __call__(self, reward: float) -> float:
        return 1.0


_LARGEST_EXPONENT = math.log(np.finfo(np.float32).max)  # weights are stored as float32


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExponentialWeight:
    """f(r) = exp((r - 1) / beta) (RWR, Peters and Schaal 2007).

    The factor exp(-1 / beta), which cancels where the loss is divided by the sum of the weights,
    keeps the weights of rewards up to 1 within the range of floats for every beta.
    """

    beta: Annotated[float, above(0)] = 1.0
    """Temperature of the rewards; at lower temperatures the best samples dominate more."""

    def __call__(self, reward: float) -> float:
        exponent = (reward - 1) / self.beta
        if exponent > _LARGEST_EXPONENT:
            raise UserError(
                f"ExponentialWeight.beta = {self.beta:g} gives a reward of {reward:g} a weight that"
                " is not a finite number; use rewards of at most 1, or a larger beta in another"
                " --workdir"
            )
        return math.exp(exponent)

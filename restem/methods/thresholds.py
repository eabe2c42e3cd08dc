"""ReST's thresholds: each Improve step on the same samples requires a higher reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gin

from restem.records import Problem, Sample
from restem.steps.strategies import RewardAbove


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class RisingThreshold:
    """Keeps samples with r > tau, where tau increases over the Improve steps of a Generate step.

    Gulcehre et al. 2023, section 3; f(r) = 1[r > tau] in the remark of section 3 of the paper.
    """

    thresholds: Sequence[float] = (0.0,)
    """Threshold tau per Improve step; the last value applies to all further steps."""

    def __post_init__(self):
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds):
            raise ValueError(f"thresholds={self.thresholds!r} is empty or falls")

    def at(self, step: int) -> RewardAbove:
        """Returns the strategy for Improve step `step`, counted from 0."""
        return RewardAbove(self.thresholds[min(step, len(self.thresholds) - 1)])

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return self.at(0)(problem, samples)

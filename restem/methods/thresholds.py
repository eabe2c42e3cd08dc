"""ReST's thresholds: each Improve step on the same samples asks for a higher reward."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gin

from restem.records import Problem, Sample
from restem.steps.strategies import RewardAbove


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class RisingThreshold:
    """r > tau with tau increasing over the Improve steps of a Generate step.

    Gulcehre et al. 2023, section 3; f(r) = 1[r > tau] in the remark of section 3 of the paper.
    """

    thresholds: Sequence[float] = (0.0,)
    """tau of the first Improve step, of the second, ...; the last one also of all further steps."""

    def __post_init__(self):
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds):
            raise ValueError(f"thresholds={self.thresholds!r} is empty or falls")

    def at(self, step: int) -> RewardAbove:
        """The strategy of Improve step `step`, counted from 0."""
        return RewardAbove(self.thresholds[min(step, len(self.thresholds) - 1)])

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        return self.at(0)(problem, samples)

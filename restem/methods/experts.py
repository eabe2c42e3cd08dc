"""Experts of ExIt: the policy with a search on top, better than the policy alone.

`select.BestOfN` and `select.MajorityAnswer` make an expert of the samples that are there. One that
asks for more of them is a `generate.Extend`: it is given the problems, the policy's samples and the
settings of a pass, and returns more verified samples. Tree search would be another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from restem.methods.unsolved import first_free_index, unsolved
from restem.records import Problem, Sample
from restem.run.layout import IterationDir
from restem.steps.generate import sample_and_verify


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class SearchUnsolved:
    """Goes on sampling the problems that are still unsolved, round after round.

    The E-step of Anthony et al. 2017 with rejection sampling as the search: the expert solves more
    problems than the policy does with one budget for all.
    """

    rounds: int = 3
    """At most so many; fewer where all problems are solved."""
    num_samples: int = 32
    """Solutions a problem and round."""

    def __call__(
        self,
        *,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        settings: Mapping[str, Any],
        directory: IterationDir,
    ) -> list[Sample]:
        found: list[Sample] = []
        for i in range(self.rounds):
            hard = unsolved(problems, [*samples, *found])
            if not hard:
                break
            found += sample_and_verify(
                **settings,
                problems=hard,
                num_samples=self.num_samples,
                first_sample=first_free_index([*samples, *found]),
                source="search",
                what=f"{directory.path.name}: search, round {i + 1}",
            )
        return found

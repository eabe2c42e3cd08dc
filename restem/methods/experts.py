"""Experts for ExIt: the policy with a search on top, better than the policy alone.

`strategies.BestOfN` and `strategies.MajorityAnswer` build an expert from existing samples. An
expert that needs more samples is a `generate.Extend`: it takes the rollout, the problems and the
policy's samples, and returns more verified samples. Tree search would be another such expert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import gin

from restem.methods.unsolved import first_free_index, unsolved
from restem.records import Problem, Sample
from restem.rollout import Rollout
from restem.run.layout import IterationDir
from restem.runtime.checks import at_least


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class SearchUnsolved:
    """Samples the unsolved problems again, for several rounds.

    The E-step of Anthony et al. 2017 with rejection sampling as the search: the expert solves more
    problems than a policy that spends the same budget on every problem.
    """

    rounds: Annotated[int, at_least(0)] = 3
    """Maximum number of rounds; the search ends early once all problems are solved."""
    num_samples: Annotated[int, at_least(1)] = 32
    """Solutions per problem in each round."""

    def __call__(
        self,
        *,
        rollout: Rollout,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        directory: IterationDir,
    ) -> list[Sample]:
        found: list[Sample] = []
        for i in range(self.rounds):
            hard = unsolved(problems, [*samples, *found])
            if not hard:
                break
            found += rollout.sample(
                hard,
                self.num_samples,
                first_sample=first_free_index([*samples, *found]),
                source="search",
                what=f"{directory.path.name}: search, round {i + 1}",
            )
        return found

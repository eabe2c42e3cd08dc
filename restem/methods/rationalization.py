"""STaR's rationalization: a failed problem is sampled again with its answer as a hint."""

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
class Rationalization:
    """Samples unsolved problems again, with the gold answer as a hint (Zelikman et al. 2022,
    section 3.2).

    The samples' `inputs` hold the hinted query, and their source is "rationalization". Training
    never sees the hint: `select.as_example` uses the problem's own query.
    """

    template: str = "(The final answer of the next problem is {answer}.)\n\n{inputs}"
    """Template of the hinted query: `{answer}` is the gold answer, `{inputs}` the problem's own
    query."""
    num_samples: Annotated[int, at_least(1)] = 1
    """Solutions per failed problem."""

    def __call__(
        self,
        *,
        rollout: Rollout,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        directory: IterationDir,
    ) -> list[Sample]:
        failed = [p for p in unsolved(problems, samples) if p.answer]
        if not failed:
            return []
        return list(
            rollout.sample(
                failed,
                self.num_samples,
                inputs=[self.hinted(p) for p in failed],
                first_sample=first_free_index(samples),
                source="rationalization",
                what=f"{directory.path.name}: rationalizing",
            )
        )

    def hinted(self, problem: Problem) -> str:
        """Returns the query with the gold answer as a hint."""
        hinted = self.template.replace("{inputs}", problem.inputs)
        return hinted.replace("{answer}", problem.answer or "")

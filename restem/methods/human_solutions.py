"""Human solutions instead of samples, or in addition to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import gin

from restem.methods.unsolved import first_free_index
from restem.records import Problem, Sample, Verdict
from restem.rollout import Rollout
from restem.run.layout import IterationDir
from restem.runtime.checks import at_least


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class HumanSolutions:
    """Adds the problems' human solutions as samples with source "human" and reward 1.

    With `generate.num_samples = 0` this is supervised fine-tuning; with samples, it is ReST on a
    data set augmented with human data (Gulcehre et al. 2023).
    """

    max_per_problem: Annotated[int | None, at_least(1)] = None
    """Maximum number of solutions per problem, taken in order; None: all."""

    def __call__(
        self,
        *,
        rollout: Rollout,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        directory: IterationDir,
    ) -> list[Sample]:
        first = first_free_index(samples)
        return [
            Sample(
                problem_id=problem.problem_id,
                sample_index=first + i,
                text=text,
                token_ids=(),
                logprob=0.0,
                finish_reason="eos",
                reward=1.0,
                verdict=Verdict(1.0, method="human", extracted=problem.answer),
                source="human",
            )
            for problem in problems
            for i, text in enumerate(problem.solutions[: self.max_per_problem])
        ]


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class HumanWhereSolved:
    """Keeps one human solution to each problem that the policy has solved.

    SFT (5K) of section 5.3: the same questions as in the model-generated data, with one human
    solution each.
    """

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> list[Sample]:
        human = [s for s in samples if s.source == "human"]
        solved = any(s.correct for s in samples if s.source != "human")
        return human[:1] if solved else []

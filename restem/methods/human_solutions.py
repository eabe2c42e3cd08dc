"""Human solutions instead of samples, or in addition to them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated

import gin
from absl import logging

from restem.errors import UserError
from restem.methods.unsolved import first_free_index
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.rollout import Rollout
from restem.rollout.verification import Verifier
from restem.run.layout import IterationDir
from restem.runtime.checks import at_least

CHECKED = 32
"""Number of human solutions that are graded before a run begins."""


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

    def check(self, *, card: TaskCard, problems: Sequence[Problem], verifier: Verifier) -> None:
        """Grades the first human solutions, because a policy will answer in their form.

        Warns if less than half of them are accepted.

        Args:
          card: the task.
          problems: training problems.
          verifier: the task's verifier.

        Raises:
          UserError: no problem has a human solution, or none of those that are graded is accepted.
        """
        solved = list(itertools.islice((p for p in problems if p.solutions), CHECKED))
        if not solved:
            raise UserError(
                f"task {card.task}: none of its {len(problems)} training problems has a human"
                " solution to train on"
            )
        if not card.is_graded:
            return
        verdicts = [verifier.submit(p, p.solutions[0]) for p in solved]
        accepted = sum(v.result().reward > 0 for v in verdicts)
        found = (
            f"the task's grader, {dict(card.grader)}, accepts {accepted} of {len(solved)} human"
            " solutions"
        )
        remedy = "bind a chat.grader that reads them" if card.chat else "change the task's grader"
        if not accepted:
            raise UserError(
                f"task {card.task}: {found}, so no answer of a policy that imitates them would be"
                f" correct; {remedy}"
            )
        if 2 * accepted < len(solved):
            logging.warning("task %s: %s; %s", card.task, found, remedy)


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

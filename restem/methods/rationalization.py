"""STaR's rationalization: a failed problem is sampled again with its answer as a hint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import gin
from absl import logging

from restem.methods.unsolved import first_free_index, unsolved
from restem.records import Problem, Sample
from restem.rollout import Rollout, prompts
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
        failed = self._fitting(rollout, failed)
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

    def _fitting(self, rollout: Rollout, failed: Sequence[Problem]) -> list[Problem]:
        """Returns the problems whose prompt with its hint leaves room for a solution."""
        card, policy = rollout.card, rollout.policy
        asked = prompts.encode(card, [self.hinted(p) for p in failed], policy.vocabulary)
        most = policy.config.max_length - (rollout.max_new_tokens or card.max_new_tokens)
        lengths = [len(asked.prefix) + len(question) for question in asked.questions]
        fitting = [p for p, length in zip(failed, lengths, strict=True) if length <= most]
        if len(fitting) < len(failed):
            logging.warning(
                "%d of %d problems are not rationalized: with the hint, their prompt has more than"
                " %d tokens", len(failed) - len(fitting), len(failed), most,
            )  # fmt: skip
        return fitting

    def hinted(self, problem: Problem) -> str:
        """Returns the query with the gold answer as a hint."""
        parts = self.template.split("{inputs}")  # an {answer} in the problem's text stays
        return problem.inputs.join(p.replace("{answer}", problem.answer or "") for p in parts)

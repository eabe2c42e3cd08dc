"""Self-improvement without labels: the E-step's grader never sees the gold answers."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future

import gin

from restem.records import Problem, Verdict
from restem.rollout.verification import Verifier


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class WithoutGold:
    """Wraps a verifier so that it extracts the answer of a sample without judging it.

    Huang et al. 2022 train on the majority answer to problems without labels. Every verdict has
    reward 0 and method "unlabelled"; `extracted` and `normalized` hold the votes.
    """

    placeholder: str = "0"
    """Stand-in for the gold answer of every problem, passed to the grader."""

    def __call__(self, verifier: Verifier) -> Verifier:
        return _Blind(verifier, self.placeholder)


@dataclasses.dataclass(frozen=True)
class _Blind:
    verifier: Verifier
    placeholder: str

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        blind = Problem(problem.problem_id, problem.split, problem.inputs, answer=self.placeholder)
        answer: Future[Verdict] = Future()

        def unlabel(graded: Future[Verdict]) -> None:
            if error := graded.exception():
                answer.set_exception(error)
                return
            verdict = graded.result()
            # What the grader could not read is no answer, and has no vote.
            extracted = None if verdict.final_answer is None else verdict.extracted
            answer.set_result(Verdict(0.0, "unlabelled", extracted, verdict.normalized))

        self.verifier.submit(blind, text).add_done_callback(unlabel)
        return answer

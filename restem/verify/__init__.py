"""Verification decides whether a sample's answer or program is right, and why.

All untrusted code runs in child processes that can be killed, and nothing in this package imports
JAX or TensorFlow. Names are loaded when they are first used, so that a worker starts in
milliseconds.

The subpackages, lowest first, are `pool` (transport, worker processes), `sandbox` (isolation),
`answers` and `programs`. Above them are `graders` (one function per kind of grader), `grading` (the
worker that runs them), `verifier`, `cluster` (verifiers on other machines), `shared` (those of this
process), and this public interface.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restem.records import Sample, Verdict
    from restem.verify.answers.equivalence import is_equivalent
    from restem.verify.answers.extract import extract as extract_answer
    from restem.verify.cluster import Cluster, ClusterVerifier
    from restem.verify.pool.pool import WorkersLostError
    from restem.verify.programs.program_pool import run_programs
    from restem.verify.shared import close_shared, shared_counts, shared_verifier
    from restem.verify.verifier import Verifier

__all__ = [
    "Cluster",
    "ClusterVerifier",
    "Verifier",
    "WorkersLostError",
    "close_shared",
    "extract_answer",
    "grade_answers",
    "grade_samples",
    "is_equivalent",
    "run_programs",
    "shared_counts",
    "shared_verifier",
]

_HOMES = {
    "Cluster": ("cluster", "Cluster"),
    "ClusterVerifier": ("cluster", "ClusterVerifier"),
    "Verifier": ("verifier", "Verifier"),
    "WorkersLostError": ("pool.pool", "WorkersLostError"),
    "close_shared": ("shared", "close_shared"),
    "extract_answer": ("answers.extract", "extract"),
    "is_equivalent": ("answers.equivalence", "is_equivalent"),
    "run_programs": ("programs.program_pool", "run_programs"),
    "shared_counts": ("shared", "shared_counts"),
    "shared_verifier": ("shared", "shared_verifier"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def grade_answers(
    predictions: Sequence[str],
    golds: Sequence[str],
    *,
    questions: Sequence[str] | None = None,
    extraction: str = "any",
    workers: int | None = None,
    **options: Any,
) -> list[Verdict]:
    r"""Grades model texts against gold answers, in child processes.

    Args:
      predictions: solutions or final answers, one per gold answer.
      golds: gold final answers; `answers.extract.extract_gold` finds that of a MATH solution.
      questions: text of each problem, if known: an answer that only repeats one of its formulas is
        refused.
      extraction: a mode of `extract_answer`. "any" takes the Minerva sentence if there is one,
        else the last box, else the whole text as a final answer.
      workers: child processes; None takes one per usable core.
      **options: fields of `answers.options.Options`.

    Returns:
      One verdict per prediction, in order.

    Raises:
      UserError: if the extraction or an option is unknown.
      ValueError: if the sequences differ in length.
    """
    from restem.records import Problem
    from restem.verify.verifier import Verifier

    asked = [""] * len(golds) if questions is None else questions
    problems = [
        Problem(problem_id=str(index), split="", inputs=question, answer=gold)
        for index, (gold, question) in enumerate(zip(golds, asked, strict=True))
    ]
    grader = {"kind": "math", "extraction": extraction, **options}
    with Verifier(grader=grader, workers=workers) as verifier:
        return verifier.grade(problems, predictions)


def grade_samples(
    task: Any,
    samples: Sequence[Sample],
    *,
    workers: int | None = None,
    allow_weak_sandbox: bool = False,
) -> list[Sample]:
    """Returns samples with their rewards and verdicts, in order; `restem.verify` is this function.

    Args:
      task: a `restem.Task`: the problems, and the grader of their solutions.
      samples: solutions of its problems, verified or not.
      workers: child processes; None takes one per usable core.
      allow_weak_sandbox: whether programs run where the machine isolates them too little.

    Raises:
      UserError: a sample's problem is not one of the task's, or the grader fails.
    """
    from restem.errors import UserError
    from restem.records import regraded
    from restem.verify.verifier import Verifier

    problems = {problem.problem_id: problem for problem in task.problems}
    foreign = sorted({sample.problem_id for sample in samples} - problems.keys())
    if foreign:
        raise UserError(
            f"{len(foreign)} samples are of problems that task {task.card.task} does not have, such"
            f" as {foreign[0]!r}"
        )
    with Verifier(
        grader=task.card.grader, workers=workers, allow_weak_sandbox=allow_weak_sandbox
    ) as verifier:
        verdicts = verifier.grade(
            [problems[sample.problem_id] for sample in samples],
            [sample.text for sample in samples],
        )
    return [regraded(s, verdict) for s, verdict in zip(samples, verdicts, strict=True)]


class _Callable(types.ModuleType):
    """A package that can be called: `restem.verify(task, samples)`, beside `restem.generate`."""

    def __call__(self, task: Any, samples: Sequence[Sample], **options: Any) -> list[Sample]:
        return grade_samples(task, samples, **options)


sys.modules[__name__].__class__ = _Callable

"""Verification: whether a sample's answer or program is right, and why.

Everything untrusted runs in killable child processes, and nothing in this package imports JAX or
TensorFlow. Names are loaded when first used, so that a worker starts in milliseconds.

The rooms, lowest first: `pool` (transport, worker processes), `sandbox` (isolation), `answers`,
`programs`; then `graders` (one function per kind of grader), `grading` (the worker that runs
them), `verifier`, and this face.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restem.records import Verdict
    from restem.verify.answers.equivalence import is_equivalent
    from restem.verify.answers.extract import extract as extract_answer
    from restem.verify.pool.pool import WorkersLostError
    from restem.verify.programs.program_pool import run_programs
    from restem.verify.verifier import Verifier, close_shared, shared_counts, shared_verifier

__all__ = [
    "Verifier",
    "WorkersLostError",
    "close_shared",
    "extract_answer",
    "grade_answers",
    "is_equivalent",
    "run_programs",
    "shared_counts",
    "shared_verifier",
]

_HOMES = {
    "Verifier": ("verifier", "Verifier"),
    "WorkersLostError": ("pool.pool", "WorkersLostError"),
    "close_shared": ("verifier", "close_shared"),
    "extract_answer": ("answers.extract", "extract"),
    "is_equivalent": ("answers.equivalence", "is_equivalent"),
    "run_programs": ("programs.program_pool", "run_programs"),
    "shared_counts": ("verifier", "shared_counts"),
    "shared_verifier": ("verifier", "shared_verifier"),
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
    extraction: str = "any",
    workers: int | None = None,
    **options: Any,
) -> list[Verdict]:
    r"""Grades model texts against gold answers, in child processes.

    Args:
      predictions: solutions or final answers, one per gold answer.
      golds: gold final answers (of a MATH solution: `answers.extract.extract_gold`).
      extraction: a mode of `extract_answer`. "any" takes the Minerva sentence; without one, the
        last box; without either, the whole text as a final answer.
      workers: child processes; None takes one per usable core.
      **options: fields of `answers.options.Options`.

    Returns:
      One verdict per prediction, in order.

    Raises:
      UserError: an unknown extraction or option.
      ValueError: the two sequences differ in length.
    """
    from restem.records import Problem
    from restem.verify.verifier import Verifier

    problems = [
        Problem(problem_id=str(index), split="", inputs="", answer=gold)
        for index, gold in enumerate(golds)
    ]
    grader = {"kind": "math", "extraction": extraction, **options}
    with Verifier(grader=grader, workers=workers) as verifier:
        return verifier.grade(problems, predictions)

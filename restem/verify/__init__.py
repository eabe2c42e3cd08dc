"""Verification: whether a sample's answer or program is right, and why.

Everything untrusted runs in killable child processes, and nothing in this package imports JAX or
TensorFlow. Names are loaded when first used, so that a worker starts in milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restem.records import Verdict
    from restem.verify.pool.pool import Verifier
    from restem.verify.programs.programs import run_programs

__all__ = ["Verifier", "grade_answers", "run_programs"]

_HOMES = {"Verifier": "restem.verify.pool.pool", "run_programs": "restem.verify.programs.programs"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


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
      predictions: solutions or final answers, one a gold answer.
      golds: gold final answers (of a MATH solution: `math_answer.extract_gold`).
      extraction: a mode of `math_answer.extract`. "any" takes the Minerva sentence, without one
        the last box, and without either the whole text as a final answer.
      workers: child processes; None takes one per usable core.
      **options: fields of `math_equivalence.Options`.

    Returns:
      One verdict a prediction, in order.

    Raises:
      UserError: an unknown extraction or option.
      ValueError: the two sequences differ in length.
    """
    from restem.records import Problem
    from restem.verify.pool.pool import Verifier

    problems = [
        Problem(problem_id=str(index), split="", inputs="", answer=gold)
        for index, gold in enumerate(golds)
    ]
    grader = {"kind": "math", "extraction": extraction, **options}
    with Verifier(grader=grader, workers=workers) as verifier:
        return verifier.grade(problems, predictions)

"""SeqIO metrics that use the graders of a run, for T5X and SeqIO evaluators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from restem.records import Problem
from restem.verify import Verifier


def postprocess(output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False):
    """SeqIO's `postprocess_fn`: turns a target into the `Problem` to grade against, and keeps an
    output as it is.

    Args:
      output: a target or a model output, as text.
      example: features of the example.
      is_target: whether `output` is a target.
    """
    if not is_target:
        return output
    example = example or {}
    inputs = example.get("inputs_pretokenized", example.get("inputs", b""))
    return Problem(
        problem_id=_text(example.get("problem_id", b"")),
        split="",
        inputs=_text(inputs),
        answer=_text(example.get("answer", output)) if example.get("has_answer", b"y") else None,
        tests=_text(example.get("tests", b"")) or None,
    )


def accuracy(grader: Mapping[str, Any]) -> Callable[[Sequence[Problem], Sequence[str]], dict]:
    """Returns a SeqIO metric: the mean reward of model outputs under `grader`, in percent."""
    return functools.partial(_accuracy, grader=dict(grader))


def _accuracy(
    targets: Sequence[Problem], predictions: Sequence[str], *, grader: Mapping[str, Any]
) -> dict[str, float]:
    if not targets:
        return {"accuracy": 0.0}
    with Verifier(grader=grader) as verifier:
        rewards = [verdict.reward for verdict in verifier.grade(targets, predictions)]
    return {"accuracy": 100.0 * sum(rewards) / len(rewards)}


def _text(value: Any) -> str:
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "item"):
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)

"""SeqIO metrics by the graders that the run itself uses, for T5X and SeqIO evaluators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from restem.records import Problem


def postprocess(output: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False):
    """SeqIO's `postprocess_fn`: a target becomes the `Problem` to grade against, an output stays.

    Args:
      output: a target or model output as text.
      example: the features of the example.
      is_target: which of the two `output` is.
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
    """A SeqIO metric: the mean reward of model outputs by `grader`, in percent."""
    return functools.partial(_accuracy, grader=dict(grader))


def _accuracy(
    targets: Sequence[Problem], predictions: Sequence[str], *, grader: Mapping[str, Any]
) -> dict[str, float]:
    from restem.verify import Verifier

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

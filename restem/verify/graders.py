"""Turns a task card's grader into verdicts: the one table of how tasks are checked.

A grader is a mapping whose `kind` names an entry here and whose other keys are its options:

    {"kind": "math", "extraction": "minerva", ...}     a field of `math_equivalence.Options` each
    {"kind": "numeric", "extraction": "answer_is"}     one exact number, as in GSM8K
    {"kind": "exact", "prefix": "the answer is"}       as in BIG-Bench Hard; "" takes the whole text
    {"kind": "function", "function": "module:name"}    a reward of one's own
    {"kind": "program", ...}                           runs tests, see `verify.programs`
    {"kind": "none"}                                   ungraded, reward 0

`build` is called in the worker process for all kinds but "program" and "none", which the pool
handles without one.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict
from restem.verify.answers import extract as math_answer

Grader = Callable[[Problem, str], Verdict]

KINDS = ("math", "numeric", "exact", "program", "function", "none")
NO_ANSWER = "no final answer where the task looks for one"


def check(grader: Mapping[str, Any]) -> None:
    """Raises UserError for a grader that could never work; imports nothing heavy."""
    kind = grader.get("kind")
    if kind not in KINDS:
        raise UserError(f"unknown grader kind {kind!r}; choose one of {', '.join(KINDS)}")
    options = set(grader) - {"kind"}
    if kind == "math":
        from restem.verify.answers.equivalence import Options

        known = {"extraction"} | {field.name for field in dataclasses.fields(Options)}
    elif kind == "numeric":
        known = {"extraction"}
    elif kind == "exact":
        known = {"prefix", "pattern", "strip_period", "ignore_case"}
    elif kind == "function":
        known = {"function"}
        name = grader.get("function")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.]+:\w+", name):
            raise UserError(
                f"the grader's function is {name!r}; write it as package.module:function"
            )
    elif kind == "none":
        known = set()
    else:
        return
    unknown = sorted(options - known)
    if unknown:
        raise UserError(
            f"grader {kind!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    mode = grader.get("extraction", "minerva")
    if mode not in math_answer.MODES:
        raise UserError(
            f"unknown extraction {mode!r}; choose one of {', '.join(math_answer.MODES)}"
        )


def build(grader: Mapping[str, Any]) -> Grader:
    """The function that grades one sample.

    Raises:
      UserError: an unknown kind or option, or a reward function that cannot be imported.
    """
    check(grader)
    options = {name: value for name, value in grader.items() if name != "kind"}
    kind = grader["kind"]
    if kind == "math":
        return _math(**options)
    if kind == "numeric":
        return _numeric(**options)
    if kind == "exact":
        return _exact(**options)
    if kind == "function":
        return _function(**options)
    raise UserError(f"graders of kind {kind!r} are not built here")


def _gold(problem: Problem) -> str:
    if problem.answer is None:
        raise UserError(f"problem {problem.problem_id!r} has no answer to grade against")
    return problem.answer


def _math(*, extraction: str = "minerva", **options: Any) -> Grader:
    """Mathematical equivalence of the extracted answer with the gold answer."""
    from restem.verify.answers import equivalence as math_equivalence

    chosen = math_equivalence.Options(**options)

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _gold(problem)
        answer = math_answer.extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        return math_equivalence.compare(answer, gold, options=chosen)

    return grade


_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+]?\.\d+")


def _one_number(text: str) -> str | None:
    """The number in an answer such as `$1,200 dollars`; None where there is none or two."""
    cleaned = text.replace("$", "").replace("\\", "").replace("{,}", ",")
    found = _NUMBER.findall(cleaned[:4000])
    return found[0].replace(",", "").lstrip("+") if len(found) == 1 else None


def _numeric(*, extraction: str = "answer_is") -> Grader:
    """One number, compared exactly; currency signs, thousands separators and units dropped.

    An answer with several numbers (`3 * 4 = 12`) is decided by what follows its last `=`, and has
    no number where that still leaves several.
    """
    from fractions import Fraction

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _one_number(_gold(problem))
        if gold is None:
            raise UserError(f"the answer of problem {problem.problem_id!r} is not one number")
        answer = math_answer.extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        number = _one_number(answer.rpartition("=")[2])
        if number is None:
            return Verdict(0.0, "none", answer[:200], detail="the answer is not one number")
        equal = Fraction(number) == Fraction(gold)
        return Verdict(
            float(equal), "numeric", answer[:200], number, "" if equal else "another number"
        )

    return grade


def _exact(
    *,
    prefix: str = "",
    pattern: str = "",
    strip_period: bool = True,
    ignore_case: bool = False,
) -> Grader:
    """The same string, after white space around it and a final period are dropped.

    Args:
      prefix: the answer is what follows its last occurrence (in any case) up to the line's end;
        empty takes the whole text.
      pattern: a regular expression instead; the answer is its last match's first group, or the
        whole match where it has none.
      strip_period: drop one period at the end of both.
      ignore_case: compare without regard to case.
    """
    compiled = re.compile(pattern) if pattern else None

    def shape(text: str) -> str:
        text = text.strip()
        if strip_period:
            text = text.removesuffix(".").rstrip()
        return text.casefold() if ignore_case else text

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _gold(problem)
        if compiled:
            found = None
            for match in compiled.finditer(text):
                found = match.group(1 if compiled.groups else 0)
        elif prefix:
            at = text.lower().rfind(prefix.lower())
            found = text[at + len(prefix) :].strip().split("\n", 1)[0] if at >= 0 else None
        else:
            found = text
        if not found or not found.strip():
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        given = shape(found)
        equal = given == shape(gold)
        return Verdict(
            float(equal),
            "string",
            found.strip()[:200],
            given[:200],
            "" if equal else "another answer",
        )

    return grade


def _function(*, function: str) -> Grader:
    """A user's `f(problem, text) -> float | Verdict`, non-negative.

    What it raises makes that sample an "error" with reward 0; what it returns must be a reward.
    """
    module, _, name = function.partition(":")
    try:
        reward = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import the reward function {function!r}: {error}") from None

    def grade(problem: Problem, text: str) -> Verdict:
        try:
            result = reward(problem, text)
        except Exception as error:
            detail = f"{function} raised {type(error).__name__}: {error}"
            return Verdict(0.0, method="error", detail=detail[:500].replace("\n", " "))
        if isinstance(result, Verdict):
            verdict = result
        elif isinstance(result, (int, float)):
            verdict = Verdict(float(result), method=function)
        else:
            try:
                # NumPy's numbers, without importing it.
                verdict = Verdict(float(result), method=function)
            except (TypeError, ValueError):
                raise UserError(
                    f"the reward function {function!r} returned {result!r}; it must return a "
                    "non-negative number or a Verdict"
                ) from None
        if not (math.isfinite(verdict.reward) and verdict.reward >= 0):
            raise UserError(
                f"the reward function {function!r} returned {verdict.reward!r} for problem "
                f"{problem.problem_id!r}; rewards are finite and not negative"
            )
        return verdict

    return grade

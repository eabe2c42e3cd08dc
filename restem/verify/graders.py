"""Turns a task card's grader into verdicts: the one table of how tasks are checked.

A grader is a mapping. Its `kind` names an entry here, and its other keys are options:

    {"kind": "math", "extraction": "minerva", ...}   final answers; options: `answers.options`
    {"kind": "numeric", "extraction": "answer_is"}   one exact number, as in GSM8K
    {"kind": "exact", "prefix": "the answer is"}     as in BIG-Bench Hard; "" takes the whole text
    {"kind": "function", "function": "module:name"}  a user's reward function
    {"kind": "program", ...}                         runs tests, see `verify.programs`
    {"kind": "none"}                                 ungraded, reward 0

Worker processes call `build` for all kinds but "program" and "none", which the pool handles itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import traceback
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict
from restem.verify.answers.extract import MODES, extract

Grader = Callable[[Problem, str], Verdict]

KINDS = ("math", "numeric", "exact", "program", "function", "none")
NO_ANSWER = "no final answer where the task looks for one"
SHOWN = 200
"""Characters of an answer that a verdict keeps."""


def check(grader: Mapping[str, Any]) -> None:
    """Raises UserError for a grader that could never work; imports nothing heavy."""
    kind = grader.get("kind")
    if kind not in KINDS:
        raise UserError(f"unknown grader kind {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == "program":
        return
    known = _options(kind)
    unknown = sorted(set(grader) - {"kind"} - known)
    if unknown:
        raise UserError(
            f"grader {kind!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    mode = grader.get("extraction", "minerva")
    if mode not in MODES:
        raise UserError(f"unknown extraction {mode!r}; choose one of {', '.join(MODES)}")
    if kind == "function":
        name = grader.get("function")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.]+:\w+", name):
            raise UserError(
                f"the grader's function is {name!r}; write it as package.module:function"
            )


def _options(kind: str) -> set[str]:
    """Returns the names of a kind's options."""
    match kind:
        case "math":
            from restem.verify.answers.options import Options

            return {"extraction"} | {field.name for field in dataclasses.fields(Options)}
        case "numeric":
            return {"extraction"}
        case "exact":
            return {"prefix", "pattern", "strip_period", "ignore_case"}
        case "function":
            return {"function"}
    return set()


def build(grader: Mapping[str, Any]) -> Grader:
    """Returns the function that grades one sample.

    Raises:
      UserError: an unknown kind or option, or a reward function that cannot be imported.
    """
    check(grader)
    options = {name: value for name, value in grader.items() if name != "kind"}
    match grader["kind"]:
        case "math":
            return _math(**options)
        case "numeric":
            return _numeric(**options)
        case "exact":
            return _exact(**options)
        case "function":
            return _function(**options)
    raise UserError(f"graders of kind {grader['kind']!r} are not built here")


def _gold(problem: Problem) -> str:
    if problem.answer is None:
        raise UserError(f"problem {problem.problem_id!r} has no answer to grade against")
    return problem.answer


def _math(*, extraction: str = "minerva", **options: Any) -> Grader:
    """Mathematical equivalence of the extracted answer with the gold answer."""
    from restem.verify.answers.equivalence import compare
    from restem.verify.answers.options import Options

    chosen = Options(**options)

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _gold(problem)
        answer = extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        return compare(answer, gold, options=chosen)

    return grade


_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+]?\.\d+")


def _one_number(text: str) -> str | None:
    """Returns the only number in an answer such as `$1,200 dollars`, or None."""
    cleaned = text.replace("$", "").replace("\\", "").replace("{,}", ",")
    found = _NUMBER.findall(cleaned[:4000])
    return found[0].replace(",", "").lstrip("+") if len(found) == 1 else None


def _numeric(*, extraction: str = "answer_is") -> Grader:
    """One number, compared exactly, without currency signs, thousands separators and units.

    An answer with several numbers (`3 * 4 = 12`) is decided by what follows its last `=`; if that
    still holds several, there is no number.
    """

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _one_number(_gold(problem))
        if gold is None:
            raise UserError(f"the answer of problem {problem.problem_id!r} is not one number")
        answer = extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        number = _one_number(answer.rpartition("=")[2])
        if number is None:
            return Verdict(0.0, "none", answer[:SHOWN], detail="the answer is not one number")
        equal = Fraction(number) == Fraction(gold)
        detail = "" if equal else "another number"
        return Verdict(float(equal), "numeric", answer[:SHOWN], number, detail)

    return grade


def _exact(
    *,
    prefix: str = "",
    pattern: str = "",
    strip_period: bool = True,
    ignore_case: bool = False,
) -> Grader:
    """The same string, without surrounding white space and a final period.

    Args:
      prefix: the answer follows its last occurrence (in any case) up to the end of the line; empty
        takes the whole text.
      pattern: a regular expression instead; the answer is the first group of its last match, or
        the whole match if the expression has no group.
      strip_period: drop one period at the end of both.
      ignore_case: compare without regard to case.
    """
    compiled = re.compile(pattern) if pattern else None

    def find(text: str) -> str | None:
        if compiled:
            found = None
            for match in compiled.finditer(text):
                found = match.group(1 if compiled.groups else 0)
            return found
        if prefix:
            at = text.lower().rfind(prefix.lower())
            return text[at + len(prefix) :].strip().split("\n", 1)[0] if at >= 0 else None
        return text

    def normalize(text: str) -> str:
        text = text.strip()
        if strip_period:
            text = text.removesuffix(".").rstrip()
        return text.casefold() if ignore_case else text

    def grade(problem: Problem, text: str) -> Verdict:
        gold = normalize(_gold(problem))
        found = find(text)
        if not found or not found.strip():
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        given = normalize(found)
        equal = given == gold
        detail = "" if equal else "another answer"
        return Verdict(float(equal), "string", found.strip()[:SHOWN], given[:SHOWN], detail)

    return grade


def _function(*, function: str) -> Grader:
    """A user's `f(problem, text) -> float | Verdict`, with finite rewards of at least 0.

    A sample for which it raises, or returns anything else, has method "error" and reward 0.
    """
    module, _, name = function.partition(":")
    try:
        reward = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import the reward function {function!r}: {error}") from None

    def failed(what: str) -> Verdict:
        return Verdict(0.0, method="error", detail=f"{function} {what}"[:500].replace("\n", " "))

    def grade(problem: Problem, text: str) -> Verdict:
        try:
            result = reward(problem, text)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            return failed(f"raised {type(error).__name__}: {error} ({where})")
        verdict = result if isinstance(result, Verdict) else Verdict(_number(result), function)
        if not (math.isfinite(verdict.reward) and verdict.reward >= 0):
            return failed(f"returned {result!r:.200}; a reward is a finite number of at least 0")
        return verdict

    return grade


def _number(result: Any) -> float:
    """Returns a reward as a float; NaN if it is no number, as no string is, whatever it spells."""
    if isinstance(result, str | bytes | bytearray):
        return math.nan
    try:
        # This takes NumPy's and JAX's scalars too, without importing either.
        return float(result)
    except (TypeError, ValueError, OverflowError):
        return math.nan

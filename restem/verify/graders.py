"""The table of graders: how each kind of task is checked.

A grader is a mapping. Its `kind` names an entry here, and its other keys are options:

    {"kind": "math", "extraction": "minerva", ...}   final answers; options: `answers.options`
    {"kind": "numeric", "extraction": "answer_is"}   one exact number, as in GSM8K
    {"kind": "exact", "prefix": "the answer is"}     as in BIG-Bench Hard; "" takes the whole text
    {"kind": "function", "function": "module:name"}  a user's reward function, see `verify.rewards`
    {"kind": "program", ...}                         runs tests, see `verify.programs`
    {"kind": "none"}                                 ungraded, reward 0

Every kind but "none" also takes `time_limit_s`, `memory_mb` and `workers`
(`verify.pool.resources`). Worker processes call `build` for all kinds except "program" and "none",
which `Verifier` handles itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict
from restem.verify import rewards
from restem.verify.answers.extract import MODES, extract
from restem.verify.answers.latex.notation import NUMBER_WORDS, PARTS, clean
from restem.verify.answers.latex.units import names_unit
from restem.verify.answers.options import Options
from restem.verify.pool import resources
from restem.verify.programs.text import MODES as PROGRAM_MODES

Grader = Callable[[Problem, str], Verdict]

KINDS = ("math", "numeric", "exact", "program", "function", "none")
_MATH_OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))
NO_ANSWER = "no final answer where the task looks for one"
SHOWN = 200
"""Maximum characters of an answer in a verdict."""


def check(grader: Mapping[str, Any]) -> None:
    """Raises UserError for a grader that could never work; imports nothing heavy."""
    kind = grader.get("kind")
    if kind not in KINDS:
        raise UserError(f"unknown grader kind {kind!r}; choose one of {', '.join(KINDS)}")
    _, options = resources.split(grader)
    known = _options(kind)
    unknown = sorted(set(options) - {"kind"} - known)
    if unknown:
        raise UserError(
            f"grader {kind!r} has no option {unknown[0]!r};"
            f" it has {', '.join(sorted(known | resources.NAMES))}"
        )
    modes = PROGRAM_MODES if kind == "program" else MODES
    mode = grader.get("extraction", modes[0])
    if mode not in modes:
        raise UserError(f"unknown extraction {mode!r}; choose one of {', '.join(modes)}")
    if kind == "function":
        rewards.check(options)
    elif kind == "math":
        Options(**{name: options[name] for name in _MATH_OPTIONS & set(options)})


def _options(kind: str) -> set[str]:
    """Returns the names of a kind's options."""
    match kind:
        case "math":
            return {"extraction"} | _MATH_OPTIONS
        case "numeric":
            return {"extraction"}
        case "exact":
            return {"prefix", "pattern", "strip_period", "ignore_case"}
        case "function":
            return set(rewards.OPTIONS)
        case "program":
            return {"extraction", "stop"}
    return set()


def build(grader: Mapping[str, Any]) -> Grader:
    """Returns the function that grades one sample.

    Raises:
      UserError: if a kind or option is unknown, or a reward function cannot be imported.
    """
    check(grader)
    _, options = resources.split(grader)
    del options["kind"]
    match grader["kind"]:
        case "math":
            return _math(**options)
        case "numeric":
            return _numeric(**options)
        case "exact":
            return _exact(**options)
        case "function":
            return rewards.Reward(**options).grade
    raise UserError(f"graders of kind {grader['kind']!r} are not built here")


def _gold(problem: Problem) -> str:
    if problem.answer is None:
        raise UserError(f"problem {problem.problem_id!r} has no answer to grade against")
    return problem.answer


def _math(*, extraction: str = "minerva", **options: Any) -> Grader:
    """Mathematical equivalence of the extracted answer with the gold answer."""
    from restem.verify.answers.equivalence import compare

    chosen = Options(**options)

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _gold(problem)
        answer = extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        return compare(answer, gold, options=chosen, question=problem.inputs)

    return grade


_NUMBER_WORD = "|".join(NUMBER_WORDS)
_PART = "|".join(PARTS)
_NUMBER = re.compile(r"(?:- ?|\+)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_HARMLESS = re.compile(
    r"\\(?:text|boxed|fbox|underline|approx)(?![a-zA-Z])|\\[$%]|\^ ?\{? ?\\circ(?![a-zA-Z]) ?\}?"
    r"|(?<=[a-z]{2}|[ \d]m|[a-z]\}) ?\^ ?(?:[23](?!\d)|\{[23]\})"
)
"""What may surround a number without changing it: text, signs, and powers of units."""
_DASHES = str.maketrans("\u2010\u2011\u2012\uff0d", "----")
_MINUS = re.compile(r"\b(?:minus|negative) (?=[\d.])", re.IGNORECASE)
_EMPHASIS = re.compile(r"(\*{1,3}|`)([^*`]+)\1")
_OPEN = re.compile(
    r"[a-zA-Z]$|[-+*/^] *$|(?i:\b(?:minus|negative|plus|times|twice|thrice|double|triple|all but"
    r"|all except|sqrt|root|log|ln|exp|(?:more|less|fewer|greater) than|(?:divided|multiplied) by"
    r"|(?:roots?|squares?|cubes?|log|logarithm|factorial|opposite|negative|reciprocal|inverse"
    rf"|absolute value|multiple|factor|divisor|(?:{_PART})s?|halves) of"
    r"|(?:hundred|thousand|million|billion)(?: and)?"
    rf"|(?:{_NUMBER_WORD})[ -](?:and|or|to))\s+$)"
)
"""What, before a number, makes it a part of an expression."""
_CLOSING = re.compile(r"(?: *[)\]}|])+")
_MINUEND = re.compile(r"(?:(?<![a-zA-Z])[b-zB-HJ-Z]|[\d)\]}]) ?$")
"""What makes the sign after it a subtraction; `a` and `I` are words."""
_CONTINUED = re.compile(
    r"[!^]| ?[-+*/] ?(?:[b-zB-HJ-Z](?![a-zA-Z])|\()|\([b-zB-HJ-Z]\)"
    r"|(?i:[ {(-]+(?:squared|cubed|factorial|halves|half[ })]*$|to the (?:\w+ )?power"
    rf"|(?!quarter)(?:{_PART})s|to the (?:second|{_PART}))\b)"
    rf"|(?is:.*\b(?:and (?:an?|{_NUMBER_WORD})[ -][a-z]|point (?:{_NUMBER_WORD})\b"
    rf"|(?:plus|minus|times|divided by|multiplied by) (?:(?:{_NUMBER_WORD})|[b-z])\b))"
)
"""What, after a number, makes it a part of an expression."""
_FACTOR = re.compile(r" [knwxyz](?![a-zA-Z.'])")
"""A variable after a number, which it multiplies."""
_NO_VALUE = re.compile(r"(?<![-=<>])[<>](?![<>])|!=|[≤≥≠]|\bnot\b|n['\u2019]t\b")
"""What says that an answer is another number, or any of several."""
_ATTACHED = re.compile(r"[a-zA-Z]+")
_ORDINALS = frozenset(("st", "nd", "rd", "th"))


def _one_number(text: str) -> str | None:
    r"""Returns the only number in an answer such as `$1,200 dollars`, or None.

    A number that is part of an expression, as in `2x`, `16!` and `\sqrt{16}`, does not count.
    """
    cleaned = _HARMLESS.sub(" ", clean(text[:4000].translate(_DASHES)))
    cleaned = _MINUS.sub("-", _EMPHASIS.sub(lambda match: match[2], cleaned))
    found = list(_NUMBER.finditer(cleaned))
    if len(found) != 1 or "\\" in cleaned:
        return None
    start, end = found[0].span()
    before, brackets = _unbracketed(cleaned[:start])
    closing = _CLOSING.match(cleaned, end)
    after = closing.end() if closing else end
    if _OPEN.search(before) or any(part.match(cleaned, after) for part in (_CONTINUED, _FACTOR)):
        return None
    if found[0].group().startswith(("-", "+")) and ("|" in brackets or _MINUEND.search(before)):
        return None
    attached = _ATTACHED.match(cleaned, after)
    if attached and attached[0] not in _ORDINALS and not names_unit(attached[0]):
        return None
    return found[0].group().replace(",", "").replace(" ", "").lstrip("+")


def _unbracketed(before: str) -> tuple[str, str]:
    """Returns a text without the brackets and bars that end it, and these."""
    rest = before.rstrip(" ([{|")
    brackets = before[len(rest) :]
    if not brackets.strip():
        return before, ""
    return rest + " " * brackets.startswith(" "), brackets


def _numeric(*, extraction: str = "answer_is") -> Grader:
    """One number, compared exactly, without currency signs, thousands separators and units.

    Words after a space do not count, "dozen" and "million" included: some problems ask how many
    dozen or how many million. For an answer with several numbers (`3 * 4 = 12`), the part after its
    last `=` decides; if that still has several, there is no number.
    """

    def grade(problem: Problem, text: str) -> Verdict:
        gold = _one_number(_gold(problem))
        if gold is None:
            raise UserError(f"the answer of problem {problem.problem_id!r} is not one number")
        answer = extract(text, mode=extraction)
        if answer is None:
            return Verdict(0.0, method="none", detail=NO_ANSWER)
        number = None
        if not _NO_VALUE.search(answer):
            number = _one_number(answer.rpartition("=")[2])
        if number is None:
            return Verdict(0.0, "none", answer[:SHOWN], detail="the answer is not one number")
        value = Fraction(number)
        equal = value == Fraction(gold)
        detail = "" if equal else "another number"
        return Verdict(float(equal), "numeric", answer[:SHOWN], str(value), detail)

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

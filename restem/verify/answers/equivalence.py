r"""Whether a final answer equals the gold answer, in whatever form it is written.

The checks, cheapest first, are for the same string after `notation.clean`, the same rational
number, and the same words. If these fail, both answers are parsed and compared part by part: lists
and sets without order, points, intervals and matrices in order, equations up to a factor, scalars
by `compare.values`. Nothing here evaluates text, and each module bounds the time and memory of its
own step.
"""

from __future__ import annotations

import re
from fractions import Fraction

from restem.records import Verdict
from restem.verify.answers.compare.algebra import Oracle
from restem.verify.answers.compare.balls import Refused, Undecided, Undefined
from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.matching import Matcher
from restem.verify.answers.latex.nodes import List, Node, Relation, Set, Text, Tuple
from restem.verify.answers.latex.notation import MAX_CHARS, ROW, clean, squeeze, text_key
from restem.verify.answers.latex.parser import parse
from restem.verify.answers.latex.tokens import ParseError
from restem.verify.answers.options import Options
from restem.verify.answers.question import Question, is_value

_SIMPLE = re.compile(
    r"([+-]?)(?:\\frac ?(\d|\{[+-]?\d{1,400}\}) ?(\d|\{[+-]?\d{1,400}\})"
    r"|(\d{1,400})/(\d{1,400})"
    r"|(\d{1,3}(?:,\d{3}){1,133}|\d{1,400})?(?:\.(\d{0,400}))?)"
)
_NEEDLESS = re.compile(r"(?<![a-zA-Z\d]) |(?<=[a-zA-Z]) (?![a-zA-Z])|(?<=\d) (?!\d)")
"""Spaces that separate neither two words nor two numbers."""
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![\d,]|\.\d)")
_CHOICE = re.compile(r"\(?\s*(?:\\text\s*\{\s*\(?\s*([A-Z])\s*\)?\s*\.?\}|([A-Z]))\s*\)?")
_CHOICE_START = re.compile(r"(?:\\text\s*\{)?\s*\(([A-Z])\)\s*\}?(?=[\s.:\\]|$)")
_ANOTHER_CHOICE = re.compile(r"[^\w(]*(?:or|and)\b|.*(?<![a-zA-Z])\(\s*[A-Z]\s*\)", re.DOTALL)

_SAME_STRING = Comparison(True, "string")
_SAME_NUMBER = Comparison(True, "numeric")
_OTHER_NUMBER = Comparison(False, "numeric", "another number")
_REPEATED = Comparison(False, "none", "a formula of the question, as it stands there")
_NOT_WORKED_OUT = Comparison(False, "none", "not worked out")
_TOO_LONG = Comparison(False, "none", "the answer is too long")

DEFAULT = Options()


def is_equivalent(prediction: str, gold: str) -> bool:
    """Returns whether a final answer equals the gold answer under the default `Options`.

    Both are final answers; `extract.extract` finds them in solutions. This is safe on hostile text.
    """
    return compare(prediction, gold).reward > 0


def compare(
    prediction: str, gold: str, *, options: Options = DEFAULT, question: str = ""
) -> Verdict:
    """Compares a final answer with the gold answer.

    Args:
      prediction: a model's final answer, untrusted, of any length and content.
      gold: the reference answer.
      options: what MATH's conventions leave open.
      question: the text of the problem, if known: an answer that only repeats one of its formulas
        is refused, and one may stand before the value (`a+b+c = 23`).

    Returns:
      A verdict with reward 1.0 or 0.0. `method` names the rule that decided: "string", "numeric",
      "text", "symbolic", "set", "list", "tuple", "interval", "matrix", "equation", "inequality",
      "base", "ratio", or "none" for a prediction that could not be read. `normalized` is the
      prediction as a reduced fraction if it is written as a number, else the cleaned text without
      spaces: majority votes count it. `detail` says why it is not equal, or that equality is not
      proved.
    """
    if len(prediction) > 4 * MAX_CHARS:
        return _verdict(prediction[:100], None, _TOO_LONG)
    if options.decimal_comma:
        prediction, gold = _with_points(prediction), _with_points(gold)
    cleaned, target = clean(prediction), clean(gold)
    left, right = squeeze(cleaned), squeeze(target)
    a, b = _simple(left), _simple(right)
    shown = _NEEDLESS.sub("", left).replace(ROW, r"\\") if a is None else str(a)
    if left == right and right:
        return _verdict(prediction, shown, _SAME_STRING)
    if len(cleaned) > MAX_CHARS:
        return _verdict(prediction[:100], shown[:100], _TOO_LONG)
    asked = Question(question)
    if a is not None and b is not None:
        same = a == b
        if not same and options.relative_tolerance:
            same = abs(a - b) <= Fraction(repr(float(options.relative_tolerance))) * abs(b)
        result = _SAME_NUMBER if same else _OTHER_NUMBER
        if same and _is_fraction(left):
            result = _shown_work(result, parse(cleaned), parse(target), options, asked)
        return _verdict(prediction, shown, result)
    try:
        result = _decide(cleaned, target, options, asked)
    except (Refused, Undefined, Undecided) as reason:
        result = Comparison(False, "none", str(reason))
    except RecursionError:
        result = Comparison(False, "none", "too deep")
    return _verdict(prediction, shown, result)


def _verdict(extracted: str, normalized: str | None, result: Comparison) -> Verdict:
    detail = result.detail
    if not result.equal:
        detail = detail or "another answer"
    else:
        detail = result.evidence
    return Verdict(float(result.equal), result.method, extracted, normalized, detail)


def _with_points(text: str) -> str:
    """Returns a text with its decimal commas replaced by decimal points."""
    text = text.replace("{,}", ",")
    return _DECIMAL_COMMA.sub(lambda match: match[1].replace(".", "") + "." + match[2], text)


def _simple(text: str) -> Fraction | None:
    """Reads integers, decimals and literal fractions, without parsing."""
    match = _SIMPLE.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, slash_top, slash_bottom, whole, part = match.groups()
    if whole is None and top is None and slash_top is None and not part:
        return None
    if top is not None or slash_top is not None:
        denominator = int((bottom or slash_bottom).strip("{}"))
        if not denominator:
            return None
        value = Fraction(int((top or slash_top).strip("{}")), denominator)
    else:
        digits = (whole or "0").replace(",", "")
        value = Fraction(int(digits + (part or "")), 10 ** len(part or ""))
    return -value if sign == "-" else value


def _is_fraction(text: str) -> bool:
    """Returns whether a literal number may be one that is not reduced."""
    return "/" in text or "\\frac" in text


def _decide(cleaned: str, target: str, options: Options, question: Question) -> Comparison:
    choice = _CHOICE.fullmatch(target)
    if choice:
        given = _CHOICE.fullmatch(cleaned) or _CHOICE_START.match(cleaned)
        if given and _ANOTHER_CHOICE.match(cleaned, given.end()):
            return Comparison(False, "text", "more than one choice")
        if given:
            same = (choice[1] or choice[2]) in given.groups()
            return Comparison(same, "text", "" if same else "another choice")
    gold = _parsed(target)
    if gold is None or _is_words(gold):
        words = text_key(target)
        if words == text_key(cleaned) and any(char.isalpha() for char in words):
            return Comparison(True, "text")
    if gold is None:
        return Comparison(False, "text", "the gold answer is words, and these are others")
    several = isinstance(gold, List | Set | Tuple)
    try:
        answer = parse(cleaned, thousands=not several)
    except ParseError as reason:
        return Comparison(False, "none", f"cannot be read: {reason}")
    matcher = Matcher(options, question)
    result = matcher.match(answer, gold)
    if not result.equal and matcher.undecided:
        result = Matcher(options, question, Oracle(log_base=options.log_base)).match(answer, gold)
    return _shown_work(result, answer, gold, options, question)


def _shown_work(
    result: Comparison, answer: Node, gold: Node, options: Options, question: Question
) -> Comparison:
    """Returns the result, or a refusal of a right answer that leaves the work undone."""
    if not result.equal:
        return result
    if question.is_repeated_by(answer, gold):
        return _REPEATED
    value = answer.sides[-1] if isinstance(answer, Relation) else answer
    if options.worked_out and is_value(gold) and not is_value(value):
        return _NOT_WORKED_OUT
    return result


def _parsed(target: str) -> Node | None:
    try:
        return parse(target)
    except ParseError:
        return None


def _is_words(node: Node) -> bool:
    """Returns whether an answer consists of words, so that case, spaces and TeX do not matter."""
    match node:
        case Text():
            return True
        case List(items) | Set(items) | Tuple(items=items):
            return all(_is_words(item) for item in items)
    return False

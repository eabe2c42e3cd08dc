r"""Whether a final answer is the gold answer, in any form.

The steps, cheapest first: the same string after `math_notation.clean`; the same rational number;
the same words; then both are parsed and compared part by part: lists and sets without order,
points, intervals and matrices in order, equations up to a factor, scalars by `math_values`. No
part of this evaluates text, and every step is bounded in time and memory by the limits of the
modules that take it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from restem.records import Verdict
from restem.verify.answers.compare.balls import Refused, Undecided, Undefined
from restem.verify.answers.compare.matching import Matcher
from restem.verify.answers.latex import notation as math_notation
from restem.verify.answers.latex.parser import Node, parse
from restem.verify.answers.latex.tokens import ParseError
from restem.verify.answers.options import Options

_SIMPLE = re.compile(
    r"([+-]?)(?:\\frac\{([+-]?\d{1,400})\}\{([+-]?\d{1,400})\}"
    r"|(\d{1,400})/(\d{1,400})"
    r"|(\d{1,3}(?:,\d{3})+|\d{1,400})?(?:\.(\d{0,400}))?)"
)
_CHOICE = re.compile(r"\(?\s*(?:\\text\s*\{\s*\(?\s*([A-Z])\s*\)?\s*\.?\}|([A-Z]))\s*\)?")
_CHOICE_START = re.compile(r"(?:\\text\s*\{)?\s*\(([A-Z])\)\s*\}?(?=[\s.:\\]|$)")


DEFAULT = Options()


def is_equivalent(prediction: str, gold: str) -> bool:
    """Whether a final answer equals the gold answer under the default `Options`.

    Both are final answers (see `math_answer.extract` for solutions). Safe on hostile text.
    """
    return compare(prediction, gold).reward > 0


def compare(prediction: str, gold: str, *, options: Options = DEFAULT) -> Verdict:
    """Compares a final answer with the gold answer.

    Args:
      prediction: a final answer by a model: untrusted, of any length and content.
      gold: the reference answer.
      options: what the conventions leave open.

    Returns:
      A verdict with reward 1.0 or 0.0; `method` is what decided ("string", "numeric", "text",
      "symbolic", "set", "list", "tuple", "interval", "matrix", "equation", "inequality", "base",
      "ratio", or "none" where the prediction could not be read), `normalized` the
      cleaned prediction, and `detail` the reason where the answer is not the gold one.
    """
    if len(prediction) > 4 * math_notation.MAX_CHARS:
        return _verdict(prediction[:100], False, "none", None, "the answer is too long")
    cleaned, target = math_notation.clean(prediction), math_notation.clean(gold)
    shown = cleaned.replace(math_notation.ROW, r"\\")
    left, right = math_notation.squeeze(cleaned), math_notation.squeeze(target)
    if left == right and right:
        return _verdict(prediction, True, "string", shown)
    if len(cleaned) > math_notation.MAX_CHARS:
        return _verdict(prediction[:100], False, "none", shown[:100], "the answer is too long")
    a, b = _simple(left), _simple(right)
    if a is not None and b is not None:
        return _verdict(prediction, a == b, "numeric", shown, "" if a == b else "another number")
    try:
        equal, method, detail = _decide(cleaned, target, options)
    except (Refused, Undefined, Undecided) as reason:
        equal, method, detail = False, "none", str(reason)
    except RecursionError:
        equal, method, detail = False, "none", "too deep"
    return _verdict(prediction, equal, method, shown, detail)


def _verdict(extracted: str, equal: bool, method: str, shown: str | None, detail: str = ""):
    if not equal and not detail:
        detail = "another answer"
    return Verdict(
        reward=float(equal), method=method, extracted=extracted, normalized=shown, detail=detail
    )


def _simple(text: str) -> Fraction | None:
    """Integers, decimals and literal fractions, without parsing."""
    match = _SIMPLE.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, slash_top, slash_bottom, whole, part = match.groups()
    if whole is None and top is None and slash_top is None and not part:
        return None
    if top is not None or slash_top is not None:
        denominator = int(bottom or slash_bottom)
        if not denominator:
            return None
        value = Fraction(int(top or slash_top), denominator)
    else:
        digits = (whole or "0").replace(",", "")
        value = Fraction(int(digits + (part or "")), 10 ** len(part or ""))
    return -value if sign == "-" else value


def _decide(cleaned: str, target: str, options: Options) -> tuple[bool, str, str]:
    choice = _CHOICE.fullmatch(target)
    if choice:
        letter = choice[1] or choice[2]
        given = _CHOICE.fullmatch(cleaned) or _CHOICE_START.match(cleaned)
        if given:
            same = letter in given.groups()
            return same, "text", "" if same else "another choice"
    words = math_notation.text_key(target)
    if words and words == math_notation.text_key(cleaned) and any(c.isalpha() for c in words):
        gold = _parsed(target)
        if gold is None or _worded(gold):
            return True, "text", ""
    gold = _parsed(target)
    if gold is None:
        return False, "text", "the gold answer is words, and these are others"
    many = gold[0] in ("list", "set", "tuple")
    try:
        answer = parse(cleaned, thousands=not many)
    except ParseError as reason:
        return False, "none", f"cannot be read: {reason}"
    return Matcher(options).match(answer, gold)


def _parsed(target: str) -> Node | None:
    try:
        return parse(target)
    except ParseError:
        return None


def _worded(node: Node) -> bool:
    """Whether an answer is words, where capitals, spaces and TeX do not matter."""
    if node[0] == "text":
        return True
    return node[0] in ("list", "set", "tuple") and all(
        _worded(item) for item in (node[2] if node[0] == "tuple" else node[1])
    )

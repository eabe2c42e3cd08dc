"""The formulas of a question, and what they say about an answer to it.

An answer that only repeats a formula of the question, such as `\\binom{16}{5}` where it asks for
this number, has the right value and shows no work. Conversely, an answer may name what was asked
before its value, as `a+b+c = 23` does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from restem.verify.answers.latex.nodes import (
    Constant,
    Degree,
    Inverse,
    List,
    Matrix,
    Negation,
    Node,
    Number,
    Percent,
    Product,
    Quantity,
    Relation,
    Set,
    Sum,
    Symbol,
    Text,
    Tuple,
    Union,
)
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse
from restem.verify.answers.latex.tokens import ParseError

MAX_CHARS = 20_000
"""Maximum characters of a question that are read."""
MAX_FORMULA = 1000
"""Maximum characters of a formula; longer ones, such as drawings, are left out."""

_FORMULA = re.compile(
    r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
_BETWEEN = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}|[?!;:\n]|[.,](?=\s|$)")
"""What separates formulas in a text without delimiters: words and punctuation."""


class Question:
    """A question whose formulas are read when they are first needed."""

    def __init__(self, text: str):
        """Args:
        text: the question, with or without its prompt; empty if it is not known.
        """
        self._text = text[:MAX_CHARS]

    def states(self, node: Node) -> bool:
        """Returns whether an expression is a formula of the question, or a side of an equation."""
        return node in self._formulas

    def is_repeated_by(self, answer: Node, gold: Node) -> bool:
        """Returns whether a correct answer says only what the question says.

        Values, such as numbers, are never a repetition, since they may occur in a question by
        chance; nor is anything where the gold answer itself stands in the question.
        """
        if answer == gold:
            return False
        if isinstance(answer, Relation) and not isinstance(gold, Relation):
            if self.states(answer) and not isinstance(answer.sides[0], Symbol):
                return True
            answer = answer.sides[-1]
        return not is_value(answer) and self.states(answer) and not self.states(gold)

    @functools.cached_property
    def _formulas(self) -> frozenset[Node]:
        return frozenset(part for text in _formulas(self._text) for part in _parts(text))


def _formulas(text: str) -> Iterator[str]:
    """Yields the formulas of a text, delimited ones and others."""
    for match in _FORMULA.finditer(text):
        yield next(filter(None, match.groups())).strip().rstrip("?")
    for rest in _FORMULA.split(text)[:: _FORMULA.groups + 1]:
        yield from _BETWEEN.split(rest)


def _parts(text: str) -> Iterator[Node]:
    """Yields the tree of a formula, and the sides of equations in it."""
    if not text.strip() or len(text) > MAX_FORMULA:
        return
    try:
        formula = parse(clean(text))
    except ParseError:
        return
    yield formula
    for item in formula.children() if isinstance(formula, List) else (formula,):
        yield item
        if isinstance(item, Relation):
            yield from item.sides


def is_value(node: Node) -> bool:
    """Returns whether nothing is left to compute: numbers, names, and lists of them."""
    match node:
        case Number(value):
            # A repeating decimal is to be written as a fraction.
            return pow(10, 64, value.denominator) == 0
        case Constant() | Symbol() | Text():
            return True
        case Negation(value) | Percent(value) | Degree(value) | Quantity(value):
            return is_value(value)
        case Product((Number(top), Inverse(Number(bottom)))):
            return top.denominator == 1 and bottom != 0 and (top / bottom).denominator == bottom
        case Sum((Number(whole), Product((Number(), Inverse(Number()))) as part)):
            return whole.denominator == 1 and is_value(part)
        case List() | Set() | Tuple() | Matrix() | Union():
            return all(map(is_value, node.children()))
    return False

"""A recursive-descent parser from LaTeX answers to the trees of `nodes`.

This module reads the loosely binding part of the grammar, from lists down to products. `factors`
reads what binds more tightly, and `brackets` what is delimited. Nothing here computes.
"""

from __future__ import annotations

from restem.verify.answers.latex.brackets import Brackets
from restem.verify.answers.latex.cursor import Cursor
from restem.verify.answers.latex.factors import Factors
from restem.verify.answers.latex.nodes import (
    NUMBER_SETS,
    Application,
    Degree,
    Difference,
    Function,
    Intersection,
    Inverse,
    List,
    Node,
    Number,
    PlusMinus,
    Product,
    Quantity,
    Ratio,
    Relation,
    Residue,
    Sum,
    Symbol,
    Text,
    Union,
    number,
)
from restem.verify.answers.latex.notation import named_part
from restem.verify.answers.latex.tokens import ParseError, Token, tokenize
from restem.verify.answers.latex.units import SCALES, changes_value
from restem.verify.answers.latex.walks import negative

_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "~",
    "equiv": "=", "sim": "sim", "to": "=", "rightarrow": "=", "Rightarrow": "=", "implies": "=",
}  # fmt: skip
_MULTIPLIES = frozenset(("*", "cdot", "times"))
_DIVIDES = frozenset(("/", "div"))
_DEGREES = ("degree", "degrees", "deg", "deg.", r"^\circ")


def parse(cleaned: str, *, thousands: bool = True) -> Node:
    """Returns the syntax tree of a cleaned answer.

    Args:
      cleaned: result of `notation.clean`.
      thousands: see `tokens.tokenize`.

      Raises:
      ParseError: if it is not an answer in this grammar, or is too large or too deep.
    """
    return _Parser(Cursor(tokenize(cleaned, thousands=thousands))).answer()


class _Parser:
    """Reads operators, from the loosest to the tightest."""

    def __init__(self, cursor: Cursor):
        self.cursor = cursor
        self.joined = ","
        """What joins the items that were read last; see `List.joined`."""
        self.brackets = Brackets(cursor, items=self.items, item=self.item, sum=self.sum)
        self.factors = Factors(cursor, self.brackets, sum=self.sum, product=self.product)

    # Answers, lists, relations.

    def answer(self) -> Node:
        items = self.items(top=True)
        node = items[0] if len(items) == 1 else List(tuple(items), self.joined)
        if self.cursor.is_cmd("choose"):
            self.cursor.take()
            node = Function("binom", (node, self.brackets.listing()))
        if self.cursor.token.kind != "end":
            raise ParseError("something follows the answer")
        return node

    def items(self, *, top: bool = False) -> list[Node]:
        """Reads elements separated by commas, semicolons or words.

        Args:
          top: whether this is the whole answer, which may end with a separator.
        """
        cursor = self.cursor
        items = [self.item()]
        words = set()
        while cursor.token.kind == "sep" or cursor.is_op(",", ";"):
            words.add(cursor.take().value)
            while cursor.token.kind == "sep" or cursor.is_op(","):
                words.add(cursor.take().value)
            if top and cursor.token.kind == "end":
                break
            items.append(self.item())
        words &= {"and", "or"}
        self.joined = words.pop() if len(words) == 1 else ","
        return items

    def item(self) -> Node:
        """Reads a relation, or one side of one, with its units."""
        cursor = self.cursor
        cursor.descend()
        outer_units = self.factors.units
        operators = []
        if cursor.is_cmd("approx", "sim"):
            cursor.take()
        sides = [self.side()]
        while cursor.token.kind in ("op", "cmd") and cursor.token.value in _RELATIONS:
            operator = _RELATIONS[cursor.take().value]
            if operator in "<>" and cursor.is_op("="):
                cursor.take()
                operator += "="
            elif operator == "=" and cursor.is_op(">", "<"):
                cursor.take()
            operators.append(operator)
            side = self.side()
            if operator == "in" and isinstance(side, Symbol):
                side = NUMBER_SETS.get(side.name, side)
            sides.append(side)
        self.factors.units = outer_units
        cursor.ascend()
        for place, operator in enumerate(operators):
            if operator != "~":
                continue
            if not _is_name(sides[place]):
                # An approximation only repeats the value that precedes it.
                sides, operators = sides[: place + 1], operators[:place]
                break
            operators[place] = "="
        return Relation(tuple(sides), tuple(operators)) if operators else sides[0]

    def side(self) -> Node:
        """Reads one side of a relation, with its units."""
        self.factors.units = []
        node = self.union()
        if self.factors.at_modulus():
            node = Residue(node, self.modulus())
        units = self.factors.units
        return Quantity(node, tuple(units)) if units else node

    def modulus(self) -> Node:
        """Reads `\\pmod{10}`, `\\bmod 10`, `(\\text{mod } 10)` or the like."""
        cursor = self.cursor
        bracketed = cursor.is_op("(")
        if bracketed:
            cursor.take()
        if cursor.take().value == "pmod":
            return self.factors.argument()
        modulus = self.product()
        if bracketed:
            cursor.expect(")")
        return modulus

    def union(self) -> Node:
        parts = [self.ratio()]
        while self.cursor.is_cmd("cup", "cap", "setminus"):
            operator = self.cursor.take().value
            right = self.ratio()
            if operator == "cup":
                parts.append(right)
            elif operator == "cap":
                parts[-1] = Intersection((parts[-1], right))
            else:
                parts[-1] = Difference(parts[-1], right)
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.cursor.is_op(":"):
            self.cursor.take()
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Ratio(tuple(parts))

    # Arithmetic.

    def sum(self) -> Node:
        cursor = self.cursor
        cursor.descend()
        terms = [self.signed_term() if cursor.is_cmd("pm", "mp") else self.product()]
        while True:
            if cursor.is_op("+"):
                cursor.take()
                terms.append(self.product())
            elif cursor.is_op("-"):
                cursor.take()
                if cursor.is_op("-") and not cursor.token.spaced:
                    # TeX prints two hyphens as a dash: `5--3` is a range.
                    raise ParseError("two signs side by side")
                terms.append(negative(self.product()))
            elif cursor.is_cmd("pm", "mp"):
                terms.append(self.signed_term())
            else:
                break
        cursor.ascend()
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    def signed_term(self) -> Node:
        """Reads a product after `\\pm` or `\\mp`."""
        sign = 1 if self.cursor.take().value == "pm" else -1
        return PlusMinus(sign, self.product())

    def product(self) -> Node:
        cursor = self.cursor
        minus = cursor.minus()
        factors = [self.factors.factor(leading=True)]
        degrees = has_words = False
        while True:
            token = cursor.token
            if token.kind == "text":
                if self.factors.at_modulus():
                    break
                if cursor.is_words(*_DEGREES):
                    cursor.take()
                    degrees = True
                elif (scale := self.scale()) is not None:
                    factors.append(scale)
                else:
                    self.factors.units.append(self.unit())
                    has_words = True
            elif token.value in _MULTIPLIES and token.kind in ("op", "cmd"):
                cursor.take()
                factors.append(self.signed_factor())
            elif token.value in _DIVIDES and token.kind in ("op", "cmd"):
                cursor.take()
                if cursor.token.kind == "text":
                    words, power = self.unit()
                    self.factors.units.append(("per " + words, power))
                else:
                    factors.append(Inverse(self.signed_factor()))
            elif cursor.is_cmd("$"):
                # `5\\$`, as some authors write it.
                cursor.take()
                self.factors.units.append(("dollar", 1))
            elif self.factors.starts():
                if has_words:
                    # `x \\text{ over } y`
                    raise ParseError("words between factors")
                factors.append(self.factors.factor())
            else:
                break
        node = factors[0] if len(factors) == 1 else Product(tuple(factors))
        if degrees:
            node = Degree(node)
        return negative(node) if minus else node

    def scale(self) -> Node | None:
        """Reads a word such as "million" or "thirds" in front of a unit, if there is one."""
        token = self.cursor.token
        first, _, rest = token.value.partition(" ")
        rest = rest.strip()
        scale: Node
        if first.lower() in SCALES:
            scale = number(SCALES[first.lower()])
        elif (part := named_part(first)) and _divides(first.lower(), rest.lower()):
            scale = Inverse(number(part))
        else:
            return None
        if rest:
            self.cursor.replace(Token("text", rest))
        else:
            self.cursor.take()
        return scale

    def signed_factor(self) -> Node:
        minus = self.cursor.minus()
        node = self.factors.factor()
        return negative(node) if minus else node

    def unit(self) -> tuple[str, int]:
        """Reads the words of a unit, and its power."""
        words = self.cursor.words()
        if changes_value(words):
            raise ParseError("words that change the value before them")
        power = 1
        if self.cursor.is_op("^"):
            self.cursor.take()
            match self.factors.argument():
                case Number(exponent) if exponent in (1, 2, 3):
                    power = int(exponent)
                case _:
                    raise ParseError("a unit to an odd power")
        return words, power


def _divides(word: str, rest: str) -> bool:
    """Returns whether `thirds` or `tenth`, with the words after it, is a part of the whole.

    `2 fifth graders` are persons, and `3 quarters` are coins.
    """
    of = rest == "of" or rest.startswith("of ")
    return of or (word.removesuffix("s") != "quarter" and (word.endswith("s") or not rest))


def _is_name(node: Node) -> bool:
    """Returns whether a node only names a value: `x`, `f(2)` or `AB`."""
    if isinstance(node, Product):
        return all(map(_is_name, node.factors))
    return isinstance(node, Symbol | Application | Text)

r"""A recursive-descent parser from LaTeX answers to plain tuples.

Nothing here computes: `9^{9^{9}}` parses to a power of a power, and it is for `math_values` to
refuse it. Nodes are hashable tuples whose first item is their kind:

    ("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i" | "oo")
    ("add", terms)  ("mul", factors)  ("inv", x)  ("neg", x)  ("pow", base, exponent)
    ("fn", name, arguments)  ("app", name, argument)  ("fact", x)  ("pm", sign, x)
    ("percent", x)  ("degree", x)  ("unit", x, ((words, power), ...))  ("base", digits, base)
    ("list", items)  ("set", items)  ("tuple", open, items, close)  ("matrix", rows)
    ("union", parts)  ("minus", a, b)  ("cap", parts)  ("reals",)  ("empty",)
    ("rel", sides, operators)  ("ratio", parts)  ("text", words)
"""

from __future__ import annotations

import re

from restem.verify.answers.latex.factors import (
    FUNCTION_COMMANDS,
    MAX_DEPTH,
    PLAIN_COMMANDS,
    Atoms,
    Node,
    negative,
)
from restem.verify.answers.latex.tokens import ParseError, tokenize

_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "~",
    "equiv": "=", "sim": "~", "to": "=", "rightarrow": "=", "Rightarrow": "=", "implies": "=",
}  # fmt: skip
_STARTS = frozenset("([{")
_INTEGER = re.compile(r"\d+")


def parse(cleaned: str, *, thousands: bool = True) -> Node:
    """The tuple tree of a cleaned answer.

    Args:
      cleaned: what `math_notation.clean` returned.
      thousands: see `math_tokens.tokenize`.

    Raises:
      ParseError: it is no answer in this grammar, or is too large or too deep.
    """
    return _Parser(tokenize(cleaned, thousands=thousands)).answer()


class _Parser(Atoms):
    """Operators, from the loosest to the tightest."""

    # Answers, lists, relations.

    def answer(self) -> Node:
        node = self.listing(top=True)
        if self.is_cmd("choose"):
            self.take()
            node = ("fn", "binom", (node, self.listing()))
        if self.token.kind != "end":
            raise ParseError("something follows the answer")
        return node

    def listing(self, *, top: bool = False) -> Node:
        items = self.items(top=top)
        return items[0] if len(items) == 1 else ("list", tuple(items))

    def items(self, *, top: bool = False) -> list[Node]:
        items = [self.item()]
        while self.token.kind == "sep" or self.is_op(",", ";"):
            self.take()
            while self.token.kind == "sep" or self.is_op(","):
                self.take()
            if top and self.token.kind == "end":
                break
            items.append(self.item())
        return items

    def item(self) -> Node:
        """A relation, or one side of one, with its units."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        outer_units, self.units = self.units, []
        sides = []
        operators = []
        if self.is_cmd("approx", "sim"):
            self.take()
        sides.append(self.with_units())
        while self.token.kind in ("op", "cmd") and self.token.value in _RELATIONS:
            operator = _RELATIONS[self.take().value]
            if operator in "<>" and self.is_op("="):
                self.take()
                operator += "="
            elif operator == "=" and self.is_op(">", "<"):
                self.take()
            operators.append(operator)
            sides.append(self.with_units())
        self.units = outer_units
        self.depth -= 1
        if not operators:
            return sides[0]
        # An approximation only says again what stood before it.
        if "~" in operators:
            cut = operators.index("~")
            sides, operators = sides[: cut + 1], operators[:cut]
            if not operators:
                return sides[0]
        return ("rel", tuple(sides), tuple(operators))

    def with_units(self) -> Node:
        self.units = []
        node = self.union()
        if self.units:
            node = ("unit", node, tuple(self.units))
            self.units = []
        return node

    def union(self) -> Node:
        parts = [self.ratio()]
        while self.is_cmd("cup", "cap", "setminus"):
            operator = self.take().value
            right = self.ratio()
            if operator == "cup":
                parts.append(right)
            elif operator == "cap":
                parts[-1] = ("cap", (parts[-1], right))
            else:
                parts[-1] = ("minus", parts[-1], right)
        return parts[0] if len(parts) == 1 else ("union", tuple(parts))

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.is_op(":"):
            self.take()
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else ("ratio", tuple(parts))

    # Arithmetic.

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        terms = []
        if self.is_cmd("pm", "mp"):
            sign = 1 if self.take().value == "pm" else -1
            terms.append(("pm", sign, self.product()))
        else:
            terms.append(self.product())
        while True:
            if self.is_op("+"):
                self.take()
                terms.append(self.product())
            elif self.is_op("-"):
                self.take()
                terms.append(negative(self.product()))
            elif self.is_cmd("pm", "mp"):
                sign = 1 if self.take().value == "pm" else -1
                terms.append(("pm", sign, self.product()))
            else:
                break
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def product(self) -> Node:
        minus = False
        while self.is_op("-", "+"):
            minus ^= self.take().value == "-"
        factors = [self.factor(leading=True)]
        while True:
            if self.is_op("*") or self.is_cmd("cdot", "times"):
                self.take()
                factors.append(self.signed_factor())
            elif self.is_op("/") or self.is_cmd("div"):
                self.take()
                if self.token.kind == "text":
                    words, power = self.unit_words()
                    self.units.append(("per " + words, power))
                    continue
                factors.append(("inv", self.signed_factor()))
            elif self.token.kind == "text":
                self.units.append(self.unit_words())
            elif self.is_cmd("$"):
                # `5\$`, as some write it.
                self.take()
                self.units.append(("dollar", 1))
            elif self.starts_factor():
                factors.append(self.factor())
            else:
                break
        node = factors[0] if len(factors) == 1 else ("mul", tuple(factors))
        return negative(node) if minus else node

    def signed_factor(self) -> Node:
        minus = False
        while self.is_op("-", "+"):
            minus ^= self.take().value == "-"
        node = self.factor()
        return negative(node) if minus else node

    def starts_factor(self) -> bool:
        token = self.token
        if token.kind == "num":
            # Two numbers side by side are a mixed number or nothing; `(-1) 2` is a product.
            before = self.tokens[self.at - 1]
            return before.kind == "op" and before.value in ")]"
        if token.kind in ("sym", "base"):
            return True
        if token.kind == "op":
            return token.value in _STARTS or (token.value == "|" and not self.bars)
        return token.kind == "cmd" and (
            token.value in FUNCTION_COMMANDS
            or token.value in PLAIN_COMMANDS
            or token.value
            in ("frac", "binom", "pi", "infty", "lfloor", "lceil", "overline", "{", "langle")
        )

    def unit_words(self) -> tuple[str, int]:
        words = self.take().value
        power = 1
        while self.token.kind == "text":
            words += " " + self.take().value
        if self.is_op("^"):
            self.take()
            exponent = self.argument()
            if exponent[0] != "num" or exponent[1] not in (1, 2, 3):
                raise ParseError("a unit to an odd power")
            power = int(exponent[1])
        return words, power

    def factor(self, *, leading: bool = False) -> Node:
        """A primary with its powers, factorials, per cent and degree signs."""
        start = self.token
        if self.is_cmd("$"):
            self.take()
            self.units.append(("dollar", 1))
            if self.is_op("-"):
                self.take()
                return negative(self.factor())
            start = self.token
        node = self.primary(leading)
        if start.kind == "num" and _INTEGER.fullmatch(start.value):
            mixed = self.mixed(node)
            if mixed is not None:
                node = mixed
        return self.postfix(node)

    def postfix(self, node: Node) -> Node:
        for _ in range(MAX_DEPTH):
            if self.is_op("^"):
                self.take()
                if self.is_degree():
                    node = ("degree", node)
                    continue
                if self.is_cmd("prime"):
                    self.take()
                    continue
                node = ("pow", node, self.exponent())
            elif self.is_cmd("circ"):
                self.take()
                node = ("degree", node)
            elif self.is_op("!"):
                self.take()
                double = self.is_op("!")
                if double:
                    self.take()
                node = ("fn", "fact2" if double else "fact", (node,))
            elif self.is_cmd("%") or self.is_op("%") or self.is_words("percent", "per cent"):
                self.take()
                node = ("percent", node)
            else:
                return node
        raise ParseError("too many powers")

    def is_degree(self) -> bool:
        if self.is_cmd("circ"):
            self.take()
            return True
        following = self.tokens[self.at : self.at + 3]
        spelled = [(token.kind, token.value) for token in following]
        if spelled == [("op", "{"), ("cmd", "circ"), ("op", "}")]:
            self.at += 3
            return True
        return False

    def exponent(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        minus = False
        while self.is_op("-", "+"):
            minus ^= self.take().value == "-"
        node = self.group() if self.is_op("{") else self.primary(False)
        if self.is_op("^"):
            self.take()
            node = ("pow", node, self.exponent())
        self.depth -= 1
        return negative(node) if minus else node

    def mixed(self, whole: Node) -> Node | None:
        """`3\\frac{1}{2}` and `3 1/2`: a whole number with a fraction is their sum."""
        mark = self.at
        if self.is_cmd("frac"):
            fraction = self.primary(False)
        elif self.token.kind == "num" and self.token.spaced:
            top = self.number()
            if not self.is_op("/"):
                raise ParseError("two numbers side by side")
            self.take()
            if self.token.kind != "num":
                raise ParseError("two numbers side by side")
            fraction = ("mul", (top, ("inv", self.number())))
        else:
            return None
        if (
            fraction[0] == "mul"
            and fraction[1][0][0] == "num"
            and fraction[1][1][1][0] == "num"
            and all(value.denominator == 1 for value in (fraction[1][0][1], fraction[1][1][1][1]))
        ):
            return ("add", (whole, fraction))
        self.at = mark
        return None

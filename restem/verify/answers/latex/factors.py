"""The part of the grammar that binds more tightly than `+`, `=` or a comma.

A factor is a number, a symbol, a TeX command with its arguments, or a bracket, together with the
powers, factorials and signs written after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from restem.verify.answers.latex.brackets import Brackets
from restem.verify.answers.latex.cursor import MAX_DEPTH, Cursor
from restem.verify.answers.latex.nodes import (
    INFINITY,
    NUMBER_SETS,
    PI,
    Application,
    BigOperator,
    Constant,
    Degree,
    Empty,
    Function,
    I,
    Inverse,
    Node,
    Number,
    Numeral,
    Percent,
    Power,
    Product,
    Reals,
    Relation,
    Sum,
    Symbol,
    Text,
    Tuple,
    number,
)
from restem.verify.answers.latex.notation import HEDGES, named_number
from restem.verify.answers.latex.tokens import FUNCTIONS, ParseError, Token
from restem.verify.answers.latex.walks import negative, replace

_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar triangle angle "
    "parallel perp square"
)
_SYMBOLS = frozenset(_LETTERS.split())
"""Commands that are variables."""
_FUNCTIONS = FUNCTIONS | {"max", "min", "gcd", "lcm", "arccot"}
_ACCENTS = frozenset(("overline", "overrightarrow", "vec", "hat", "bar", "widehat"))
_STARTING_COMMANDS = (
    _FUNCTIONS
    | _SYMBOLS
    | {"frac", "binom", "pi", "infty", "lfloor", "lceil", "overline", "{", "langle", "sum", "prod"}
)
"""Commands that continue a product when they follow a factor."""
_MODULI = frozenset(("pmod", "bmod", "mod", "modulo"))
_SET_WORDS: dict[str, Node] = {
    "empty": Empty(),
    "empty set": Empty(),
    "all real numbers": Reals(),
    "all reals": Reals(),
    "real numbers": Reals(),
}
_PERCENT = ("percent", "per cent", "pct", "pct.", "%", r"\%")
_POSTFIXES = frozenset(("^", "circ", "!", "%"))
_INTEGER = re.compile(r"[0-9]+")
_PLAIN_FRACTION = re.compile(r"(?:\{-?[0-9]+\}|[0-9]){2}")


class Factors:
    """Reads factors, with the help of a reader of brackets."""

    def __init__(
        self,
        cursor: Cursor,
        brackets: Brackets,
        *,
        sum: Callable[[], Node],
        product: Callable[[], Node],
    ):
        """Args:
        cursor: the position, shared with the other readers.
        brackets: reads delimited expressions.
        sum: reads a sum without relations.
        product: reads a product.
        """
        self.units: list[tuple[str, int]] = []
        """Currency signs since the start of the current side of a relation."""
        self._cursor = cursor
        self._brackets = brackets
        self._sum = sum
        self._product = product

    def starts(self) -> bool:
        """Returns whether a factor can start here, next to another one."""
        token = self._cursor.token
        if token.kind == "num":
            # Two adjacent numbers can only be a mixed number; `(-1) 2` and `5!7!` are products.
            before, _, after = self._cursor.tokens[self._cursor.at - 1 : self._cursor.at + 2]
            if before.kind == "op" and before.value == "!":
                return after.kind == "op" and after.value == "!"
            return before.kind == "op" and before.value in ")]"
        if token.kind in ("sym", "base"):
            return True
        if token.kind == "op":
            if token.value == "(" and self.at_modulus():
                return False
            return token.value in "([{" or (token.value == "|" and self._brackets.bar_opens)
        return token.kind == "cmd" and token.value in _STARTING_COMMANDS

    def at_modulus(self) -> bool:
        """Returns whether a modulus starts here."""
        token = self._cursor.token
        if token.value == "(":
            token = self._cursor.tokens[self._cursor.at + 1]
        return token.value in _MODULI and token.kind in ("cmd", "text")

    def factor(self, *, leading: bool = False) -> Node:
        """Reads a primary with its powers, factorials, percent and degree signs.

        Args:
          leading: whether it is the first factor of a product, which words may precede.
        """
        cursor = self._cursor
        start = cursor.token
        if cursor.is_cmd("$"):
            cursor.take()
            self.units.append(("dollar", 1))
            if cursor.is_op("-"):
                cursor.take()
                return negative(self.factor())
            start = cursor.token
        node = self.primary(leading)
        if start.kind == "num" and _INTEGER.fullmatch(start.value):
            node = self._mixed_number(node) or node
        return self.postfix(node)

    def postfix(self, node: Node) -> Node:
        """Reads the powers and signs that follow a node."""
        cursor = self._cursor
        for _ in range(MAX_DEPTH):
            if cursor.token.value not in _POSTFIXES and cursor.token.kind != "text":
                return node
            if cursor.is_op("^"):
                cursor.take()
                if self._takes_degree():
                    node = Degree(node)
                elif cursor.is_cmd("prime"):
                    cursor.take()
                else:
                    node = Power(node, self.exponent())
            elif cursor.is_cmd("circ"):
                cursor.take()
                node = Degree(node)
            elif cursor.is_op("!"):
                cursor.take()
                double = cursor.is_op("!")
                if double:
                    cursor.take()
                node = Function("fact2" if double else "fact", (node,))
            elif cursor.is_cmd("%") or cursor.is_op("%") or cursor.is_words(*_PERCENT):
                cursor.take()
                node = Percent(node)
            else:
                return node
        raise ParseError("too many powers")

    def _takes_degree(self) -> bool:
        """Moves past `\\circ` or `{\\circ}`; returns whether it was here."""
        cursor = self._cursor
        if cursor.is_cmd("circ"):
            cursor.take()
            return True
        following = cursor.tokens[cursor.at : cursor.at + 3]
        spelled = [(token.kind, token.value) for token in following]
        if spelled == [("op", "{"), ("cmd", "circ"), ("op", "}")]:
            cursor.move(cursor.at + 3)
            return True
        return False

    def exponent(self) -> Node:
        cursor = self._cursor
        cursor.descend()
        minus = cursor.minus()
        node = self._brackets.group() if cursor.is_op("{") else self.primary()
        if cursor.is_op("^"):
            cursor.take()
            node = Power(node, self.exponent())
        cursor.ascend()
        return negative(node) if minus else node

    def _mixed_number(self, whole: Node) -> Node | None:
        """Reads `\\frac{1}{2}` or `1/2` after a whole number: together they are a sum."""
        cursor = self._cursor
        if cursor.is_cmd("frac"):
            following = cursor.tokens[cursor.at + 1 : cursor.at + 9]
            plain = (token.value if token.kind in ("num", "op") else " " for token in following)
            if not _PLAIN_FRACTION.match("".join(plain)):
                return None
            fraction = self.primary()
        elif cursor.token.kind == "num" and cursor.token.spaced:
            top = cursor.number()
            if not cursor.is_op("/"):
                raise ParseError("two numbers side by side")
            cursor.take()
            if cursor.token.kind != "num":
                raise ParseError("two numbers side by side")
            fraction = Product((top, Inverse(cursor.number())))
        else:
            return None
        match fraction:
            case Product((Number(above), Inverse(Number(below)))) if (
                above.denominator == below.denominator == 1
            ):
                return Sum((whole, fraction))
        raise ParseError("two numbers side by side")

    # Primaries.

    def primary(self, leading: bool = False) -> Node:
        """Reads a number, a symbol, words, a command or a bracket."""
        cursor = self._cursor
        token = cursor.token
        if token.kind == "num":
            return cursor.number()
        if token.kind == "base":
            cursor.take()
            digits, _, base = token.value.partition("|")
            return Numeral(digits, int(base))
        if token.kind == "sym":
            return self._symbol()
        if token.kind == "text":
            return self._words(leading)
        if token.kind == "cmd":
            return self._command()
        if token.kind == "op":
            if token.value == "{":
                return self._brackets.group()
            if token.value in "([":
                return self._brackets.bracket()
            if token.value == "|":
                return self._brackets.absolute()
        raise ParseError(f"cannot read {token.value!r} here")

    def argument(self) -> Node:
        """Reads the argument of a TeX command: a group or one token; of a number, one digit."""
        cursor = self._cursor
        cursor.descend()
        node: Node
        if cursor.is_op("{"):
            node = self._brackets.group()
        elif cursor.token.kind == "num" and len(cursor.token.value) > 1:
            digits = cursor.token.value
            if not digits.isdigit():
                raise ParseError("a decimal point after a command")
            cursor.replace(Token("num", digits[1:]))
            node = number(int(digits[0]))
        else:
            node = self.primary()
        cursor.ascend()
        return node

    def _symbol(self) -> Node:
        cursor = self._cursor
        name = cursor.take().value
        while cursor.is_op("'"):
            cursor.take()
            name += "'"
        if cursor.is_op("_"):
            cursor.take()
            name += "_" + cursor.subscript()
        if name in ("e", "i"):
            return Constant(name)
        if name in ("f", "g", "h"):
            if cursor.is_op("("):
                return Application(name, self._brackets.bracket())
            following = cursor.tokens[cursor.at + 1 : cursor.at + 2]
            if cursor.is_op("{") and following and following[0].value == "(":
                # Computer algebra systems write `f{\left(x\right)}`.
                return Application(name, self._brackets.group())
        return Symbol(name)

    def _words(self, leading: bool) -> Node:
        """Reads words where a value is expected: a number's name, a label, or plain text."""
        cursor = self._cursor
        words = cursor.words()
        if cursor.is_op("_"):
            # `\\text{A5}_{11}`
            cursor.take()
            base = cursor.subscript()
            if _INTEGER.fullmatch(base) and re.fullmatch(r"[0-9A-Z]+", words):
                return Numeral(words, int(base))
        value = named_number(words)
        if value is not None:
            return number(value)
        if words.lower() in _SET_WORDS:
            return _SET_WORDS[words.lower()]
        starts_value = cursor.token.kind == "num" or self.starts()
        if leading and words.lower() in HEDGES and starts_value:
            return self.factor()
        if leading and not cursor.is_op("=") and starts_value:
            raise ParseError("words before a value")
        return Text(words)

    # Commands.

    def _command(self) -> Node:
        cursor = self._cursor
        name = cursor.take().value
        match name:
            case "frac":
                top = self.argument()
                return Product((top, Inverse(self.argument())))
            case "binom":
                top = self.argument()
                return Function("binom", (top, self.argument()))
            case "sqrt":
                return self._root()
            case "pi":
                return PI
            case "infty":
                return INFINITY
            case "emptyset":
                return Empty()
            case "mathbb":
                match self.argument():
                    case Symbol(letter) if letter in NUMBER_SETS:
                        return NUMBER_SETS[letter]
                raise ParseError("an unknown set")
            case "lfloor" | "lceil":
                return self._brackets.rounded(name[1:])
            case "{":
                return self._brackets.set()
            case "langle":
                return self._brackets.vector()
            case "begin":
                return self._brackets.matrix()
            case "sum" | "prod":
                return self._big_operator(name)
        if name in _FUNCTIONS:
            return self._function(name)
        if name in _ACCENTS:
            return Symbol(f"{name}:{self.argument()}")
        if name in _SYMBOLS:
            if cursor.is_op("_"):
                cursor.take()
                name += "_" + cursor.subscript()
            return Symbol(name)
        raise ParseError(f"an unknown command \\{name}")

    def _root(self) -> Node:
        cursor = self._cursor
        degree: Node = number(2)
        if cursor.is_op("["):
            cursor.take()
            degree = self._sum()
            cursor.expect("]")
        radicand: Node
        if cursor.token.kind == "num":
            # TeX prints `\\sqrt12` as a root of 1 and a 2, but that is never meant.
            radicand = cursor.number()
        elif cursor.is_op("("):
            radicand = self._brackets.bracket()
        else:
            radicand = self.argument()
        return Power(radicand, Inverse(degree))

    def _big_operator(self, name: str) -> Node:
        """Reads the bounds of a sum or product, and the product that follows it."""
        cursor = self._cursor
        cursor.descend()
        start = high = None
        while cursor.is_op("^", "_"):
            if cursor.take().value == "^":
                high = self.argument()
            else:
                start = self.argument()
        match start:
            case Relation((Symbol() | Constant("i") as index, low), ("=",)) if high is not None:
                body = self._product()
            case _:
                raise ParseError("a sum or product without bounds")
        cursor.ascend()
        if isinstance(index, Constant):
            # `\\sum_{i=1}^{n} i`: inside, i is an index and not a root of -1.
            index = Symbol("i")
            body = replace(body, I, index)
        return BigOperator(name, index, low, high, body)

    def _function(self, name: str) -> Node:
        cursor = self._cursor
        power = None
        base = None
        while cursor.is_op("^", "_"):
            if cursor.take().value == "^":
                power = self.exponent()
            elif name == "log":
                base = self.argument()
            else:
                raise ParseError("a subscript to a function")
        if cursor.is_op("(", "["):
            inside = self._brackets.bracket()
            arguments = inside.items if isinstance(inside, Tuple) else (inside,)
        elif cursor.is_op("{"):
            arguments = (self.postfix(self._brackets.group()),)
        else:
            arguments = (self._bare_argument(),)
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        if power == number(-1):
            # The inverse function, and never the reciprocal.
            if "arc" + name not in _FUNCTIONS:
                raise ParseError("an inverse function without a name")
            return Function("arc" + name, arguments)
        node = Function(name, arguments)
        return Power(node, power) if power is not None else node

    def _bare_argument(self) -> Node:
        """Reads `5x` of `\\sin 5x \\cos x`: up to the next function, sign or relation."""
        cursor = self._cursor
        cursor.descend()
        minus = cursor.is_op("-")
        if minus:
            cursor.take()
        factors = [self.factor()]
        while (
            self.starts()
            and not (cursor.token.kind == "cmd" and cursor.token.value in _FUNCTIONS - {"sqrt"})
            and not cursor.is_op("(", "[")
        ):
            factors.append(self.factor())
        cursor.ascend()
        node = factors[0] if len(factors) == 1 else Product(tuple(factors))
        return negative(node) if minus else node

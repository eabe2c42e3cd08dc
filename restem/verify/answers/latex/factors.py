"""The parts of an answer that stand by themselves: numbers, symbols, TeX commands, brackets.

`math_parser` puts them together; its docstring lists the nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from restem.verify.answers.latex.notation import HEDGES, NUMBER_WORDS, ROW, SET_WORDS
from restem.verify.answers.latex.tokens import FUNCTIONS, ParseError, Token

Node = tuple[Any, ...]

MAX_DEPTH = 40
_PLAIN = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar triangle angle "
    "parallel perp square"
)
PLAIN_COMMANDS = frozenset(_PLAIN.split())
FUNCTION_COMMANDS = FUNCTIONS | {"max", "min", "gcd", "lcm", "arccot"}
_CLOSERS = {"(": ")]", "[": "])"}


class Atoms:
    """A cursor over tokens, and the readers of everything that is not an operator."""

    # `math_parser` defines these.
    items: Callable[[], list[Node]]
    item: Callable[[], Node]
    listing: Callable[[], Node]
    sum: Callable[[], Node]
    factor: Callable[[], Node]
    postfix: Callable[[Node], Node]
    exponent: Callable[[], Node]
    starts_factor: Callable[[], bool]

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.units: list[tuple[str, int]] = []

    # Tokens.

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        if token.kind == "end":
            raise ParseError("the answer ends too early")
        self.at += 1
        return token

    def is_op(self, *values: str) -> bool:
        return self.token.kind == "op" and self.token.value in values

    def is_cmd(self, *values: str) -> bool:
        return self.token.kind == "cmd" and self.token.value in values

    def is_words(self, *values: str) -> bool:
        return self.token.kind == "text" and self.token.value.lower() in values

    def expect(self, value: str) -> None:
        if not self.is_op(value):
            raise ParseError(f"expected {value}")
        self.at += 1

    # Primaries.

    def group(self) -> Node:
        """`{...}`."""
        self.expect("{")
        if self.is_op("}"):
            # `{}^2`, or an empty group used as a spacer.
            raise ParseError("an empty group")
        bars, self.bars = self.bars, 0
        node = self.listing()
        if self.is_cmd("choose"):
            self.take()
            node = ("fn", "binom", (node, self.listing()))
        self.bars = bars
        self.expect("}")
        return node

    def argument(self) -> Node:
        """What a TeX command takes: a group or one token, and of a number its first digit."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        if self.is_op("{"):
            node = self.group()
        elif self.token.kind == "num" and len(self.token.value) > 1:
            digits = self.token.value
            if not digits.isdigit():
                raise ParseError("a decimal point after a command")
            self.tokens[self.at] = Token("num", digits[1:])
            node = ("num", Fraction(int(digits[0])))
        else:
            node = self.primary(False)
        self.depth -= 1
        return node

    def number(self) -> Node:
        digits = self.take().value
        mantissa, _, exponent = digits.partition("E")
        if exponent and abs(int(exponent)) > 5000:
            raise ParseError("too large an exponent")
        if len(mantissa) > 3000:
            raise ParseError("too many digits")
        value = Fraction(mantissa if mantissa[-1] != "." else mantissa[:-1])
        if exponent:
            value *= Fraction(10) ** int(exponent)
        if self.is_cmd("overline") and "." in mantissa and not exponent:
            self.take()
            value += self.repetend(mantissa)
        return ("num", value)

    def repetend(self, mantissa: str) -> Fraction:
        """`0.1\\overline{6}`: what the repeating digits add."""
        self.expect("{")
        if self.token.kind != "num" or not self.token.value.isdigit():
            raise ParseError("a repeating part that is no number")
        digits = self.take().value
        self.expect("}")
        places = len(mantissa.partition(".")[2])
        return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)

    def primary(self, leading: bool) -> Node:
        token = self.token
        if token.kind == "num":
            return self.number()
        if token.kind == "base":
            self.take()
            digits, _, base = token.value.partition("|")
            return ("base", digits, int(base))
        if token.kind == "sym":
            return self.symbol()
        if token.kind == "text":
            return self.words(leading)
        if token.kind == "cmd":
            return self.command()
        if token.kind == "op":
            if token.value == "{":
                return self.group()
            if token.value in "([":
                return self.bracket()
            if token.value == "|":
                self.take()
                self.bars += 1
                inner = self.sum()
                self.bars -= 1
                self.expect("|")
                return ("fn", "abs", (inner,))
        raise ParseError(f"cannot read {token.value!r} here")

    def symbol(self) -> Node:
        name = self.take().value
        if self.is_op("'"):
            while self.is_op("'"):
                self.take()
                name += "'"
        if self.is_op("_"):
            self.take()
            name += "_" + self.subscript()
        if name in ("e", "i"):
            return ("const", name)
        if name in ("f", "g", "h"):
            if self.is_op("("):
                return ("app", name, self.bracket())
            following = self.tokens[self.at + 1 : self.at + 2]
            if self.is_op("{") and following and following[0].value == "(":
                # Computer algebra systems write `f{\left(x\right)}`.
                return ("app", name, self.group())
        return ("sym", name)

    def subscript(self) -> str:
        if not self.is_op("{"):
            return self.take().value
        self.take()
        start = self.at
        depth = 1
        while depth:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token.value, 0) if token.kind == "op" else 0
        return "".join(token.value for token in self.tokens[start : self.at - 1])

    def words(self, leading: bool) -> Node:
        """Words where a value is expected: a number's name, a label before `=`, or plain text."""
        words = self.take().value
        while self.token.kind == "text":
            words += " " + self.take().value
        if self.is_op("_"):
            # `\\text{A5}_{11}`
            self.take()
            base = self.subscript()
            if base.isdigit() and re.fullmatch(r"[0-9A-Z]+", words):
                return ("base", words, int(base))
        value = NUMBER_WORDS.get(words.lower())
        if value is not None:
            return ("num", Fraction(value))
        if words.lower() in SET_WORDS:
            return (SET_WORDS[words.lower()],)
        if leading and words.lower() in HEDGES and self.starts_value():
            return self.factor()
        if leading and not self.is_op("=") and self.starts_value():
            raise ParseError("words before a value")
        return ("text", words)

    def starts_value(self) -> bool:
        return self.token.kind == "num" or self.starts_factor()

    def command(self) -> Node:
        name = self.take().value
        if name == "frac":
            top = self.argument()
            return ("mul", (top, ("inv", self.argument())))
        if name == "binom":
            top = self.argument()
            return ("fn", "binom", (top, self.argument()))
        if name == "sqrt":
            return self.root()
        if name in FUNCTION_COMMANDS:
            return self.function(name)
        if name == "pi":
            return ("const", "pi")
        if name == "infty":
            return ("const", "oo")
        if name == "emptyset":
            return ("empty",)
        if name == "mathbb":
            if self.argument() == ("sym", "R"):
                return ("reals",)
            raise ParseError("an unknown set")
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            if not self.is_cmd("r" + name[1:]):
                raise ParseError("an open floor or ceiling")
            self.take()
            return ("fn", name[1:], (inner,))
        if name == "{":
            items = [] if self.is_cmd("}") else self.items()
            if not self.is_cmd("}"):
                raise ParseError("an open set")
            self.take()
            return ("set", tuple(items)) if items else ("empty",)
        if name == "langle":
            items = self.items()
            if not self.is_cmd("rangle"):
                raise ParseError("an open vector")
            self.take()
            return ("tuple", "(", tuple(items), ")")
        if name == "begin":
            return self.environment()
        if name in ("overline", "overrightarrow", "vec", "hat", "bar", "widehat"):
            inner = self.argument()
            return ("sym", f"{name}:{inner}")
        if name in PLAIN_COMMANDS:
            if self.is_op("_"):
                self.take()
                name += "_" + self.subscript()
            return ("sym", name)
        raise ParseError(f"an unknown command \\{name}")

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.is_op("["):
            self.take()
            degree = self.sum()
            self.expect("]")
        if self.token.kind == "num":
            # `\\sqrt12` is printed as a root of 1 and a 2, but nobody means that.
            radicand = self.number()
        elif self.is_op("("):
            radicand = self.bracket()
        else:
            radicand = self.argument()
        return ("pow", radicand, ("inv", degree))

    def function(self, name: str) -> Node:
        power = None
        base = None
        while self.is_op("^", "_"):
            if self.take().value == "^":
                power = self.exponent()
            elif name == "log":
                base = self.argument()
            else:
                raise ParseError("a subscript to a function")
        if self.is_op("(", "["):
            inside = self.bracket()
            arguments = inside[2] if inside[0] == "tuple" else (inside,)
        elif self.is_op("{"):
            arguments = (self.postfix(self.group()),)
        else:
            arguments = (self.bare_argument(),)
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        if power == ("num", Fraction(-1)) and "arc" + name in FUNCTION_COMMANDS:
            return ("fn", "arc" + name, arguments)
        node = ("fn", name, arguments)
        return ("pow", node, power) if power is not None else node

    def bare_argument(self) -> Node:
        """`\\sin 5x \\cos x`: the argument ends at the next function, sign or relation."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        minus = self.is_op("-")
        if minus:
            self.take()
        factors = [self.factor()]
        while self.starts_factor() and not (
            self.token.kind == "cmd" and self.token.value in FUNCTION_COMMANDS - {"sqrt"}
        ):
            if self.is_op("(", "["):
                break
            factors.append(self.factor())
        self.depth -= 1
        node = factors[0] if len(factors) == 1 else ("mul", tuple(factors))
        return negative(node) if minus else node

    def bracket(self) -> Node:
        opener = self.take().value
        bars, self.bars = self.bars, 0
        items = self.items()
        self.bars = bars
        if not self.is_op(*_CLOSERS[opener]):
            raise ParseError("an open bracket")
        closer = self.take().value
        if len(items) == 1:
            if _CLOSERS[opener][0] != closer:
                raise ParseError("brackets that do not match")
            return items[0]
        return ("tuple", opener, tuple(items), closer)

    def environment(self) -> Node:
        name = self.name()
        if name == "array":
            self.name()
        elif name not in ("pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix"):
            raise ParseError(f"an unknown environment {name}")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while not self.is_cmd("end"):
            row.append(self.item())
            if self.is_op("&"):
                self.take()
            elif self.is_op(ROW):
                self.take()
                rows.append(tuple(row))
                row = []
            elif not self.is_cmd("end"):
                raise ParseError("a broken matrix")
        if row:
            rows.append(tuple(row))
        self.take()
        if self.name() != name:
            raise ParseError("environments that do not match")
        if len({len(row) for row in rows}) != 1:
            raise ParseError("rows of unlike length")
        return ("matrix", tuple(rows))

    def name(self) -> str:
        """The `{name}` of an environment."""
        if not self.is_op("{"):
            raise ParseError("a nameless environment")
        return self.subscript()


def negative(node: Node) -> Node:
    if node[0] == "num":
        return ("num", -node[1])
    if node[0] == "base" and node[1][0] != "-":
        return ("base", "-" + node[1], node[2])
    return ("neg", node)

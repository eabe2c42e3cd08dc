"""A position in an answer's tokens, and readers of what contains no other expression."""

from __future__ import annotations

from fractions import Fraction

from restem.verify.answers.latex.nodes import Number
from restem.verify.answers.latex.tokens import ParseError, Token

MAX_DEPTH = 40
"""Maximum nesting depth of brackets, signs and arguments."""
MAX_BITS = 14_000
"""Bits of the largest numerator or denominator, which Python can still print."""


class Cursor:
    """A position in a list of tokens whose last one is "end"."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0
        self.token = tokens[0]
        """The token at the position."""
        self._depth = 0

    def move(self, at: int) -> None:
        """Moves to a token by its index."""
        self.at = at
        self.token = self.tokens[at]

    def take(self) -> Token:
        """Returns the token at the position and moves past it."""
        token = self.token
        if token.kind == "end":
            raise ParseError("the answer ends too early")
        self.at += 1
        self.token = self.tokens[self.at]
        return token

    def replace(self, token: Token) -> None:
        """Replaces the token at the position."""
        self.tokens[self.at] = self.token = token

    def descend(self) -> None:
        """Counts one more level of nesting; `ascend` ends it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ParseError("too deep")

    def ascend(self) -> None:
        self._depth -= 1

    def is_op(self, *values: str) -> bool:
        token = self.token
        return token.kind == "op" and token.value in values

    def is_cmd(self, *values: str) -> bool:
        token = self.token
        return token.kind == "cmd" and token.value in values

    def is_words(self, *values: str) -> bool:
        return self.token.kind == "text" and self.token.value.lower() in values

    def expect(self, value: str) -> None:
        """Moves past an operator, which is required here."""
        if not self.is_op(value):
            raise ParseError(f"expected {value}")
        self.move(self.at + 1)

    def expect_cmd(self, value: str, problem: str) -> None:
        """Moves past a command, which is required here."""
        if not self.is_cmd(value):
            raise ParseError(problem)
        self.move(self.at + 1)

    def minus(self) -> bool:
        """Moves past a sign; returns whether it is a minus.

        Two adjacent signs are not read as a sign: `--5` may mean 5, -5 or a dash.
        """
        if not self.is_op("-", "+"):
            return False
        minus = self.take().value == "-"
        if self.is_op("-", "+"):
            raise ParseError("two signs side by side")
        return minus

    def words(self) -> str:
        """Returns the words of all text tokens from here on, with a space between them."""
        words = self.take().value
        while self.token.kind == "text":
            words += " " + self.take().value
        return words

    def subscript(self) -> str:
        """Returns the text of one token or of a group in braces, unparsed."""
        if not self.is_op("{"):
            return self.take().value
        self.take()
        start = self.at
        depth = 1
        while depth:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token.value, 0) if token.kind == "op" else 0
        return "".join(token.value for token in self.tokens[start : self.at - 1])

    def environment_name(self) -> str:
        """Returns the `{name}` of an environment."""
        if not self.is_op("{"):
            raise ParseError("a nameless environment")
        return self.subscript()

    def number(self) -> Number:
        """Reads a decimal, with an exponent or repeating digits: `0.1\\overline{6}`."""
        digits = self.take().value
        mantissa, _, exponent = digits.partition("E")
        if exponent and abs(int(exponent)) > 5000:
            raise ParseError("too large an exponent")
        if len(mantissa) > 3000:
            raise ParseError("too many digits")
        value = Fraction(mantissa if mantissa[-1] != "." else mantissa[:-1])
        if exponent:
            value *= Fraction(10) ** int(exponent)
        if self.is_cmd("overline", "bar") and "." in mantissa and not exponent:
            self.take()
            value += self._repeating(places=len(mantissa.partition(".")[2]))
        if max(abs(value.numerator), value.denominator).bit_length() > MAX_BITS:
            raise ParseError("too many digits")
        return Number(value)

    def _repeating(self, places: int) -> Fraction:
        """Returns the value of repeating digits after a number of decimal places."""
        braced = self.is_op("{")
        if braced:
            self.take()
        if self.token.kind != "num" or not self.token.value.isdigit():
            raise ParseError("a repeating part that is no number")
        if not braced and len(self.token.value) > 1:
            raise ParseError("a repeating part without braces")
        digits = self.take().value
        if braced:
            self.expect("}")
        return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)

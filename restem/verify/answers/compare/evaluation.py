"""Evaluates parsed answers at a point, to a chosen precision, within limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction

from restem.verify.answers.compare import balls
from restem.verify.answers.compare.balls import MP, Ball, Refused, Undecided, Undefined, Value
from restem.verify.answers.latex.factors import Node

MAX_FACTORIAL = 6000
MAX_ROOT = 60
"""Roots of a higher degree are computed as exponentials, without the means of a proof."""
MAX_NODES = 20_000
"""Operations of one evaluation."""


class Evaluation:
    """One evaluation of expressions at one point and one precision of `MP`."""

    def __init__(self, point: Mapping[str, Fraction], *, log_base: int = 10):
        """Args:
        point: values of variables; "pi" and "e" too where these are to be treated as such.
        log_base: the base of `\\log` without a subscript.
        """
        self.point = point
        self.log_base = log_base
        self.known: dict[Node, Value] = {}
        self.operations = 0

    def __call__(self, node: Node) -> Value:
        found = self.known.get(node)
        if found is None:
            self.operations += 1
            if self.operations > MAX_NODES:
                raise Refused("too many operations")
            found = self.known[node] = self._evaluate(node)
        return found

    def _evaluate(self, node: Node) -> Value:
        kind = node[0]
        if kind == "num":
            return balls.bounded(node[1])
        if kind == "add":
            total = self(node[1][0])
            for term in node[1][1:]:
                total = balls.add(total, self(term))
            return total
        if kind == "mul":
            total = self(node[1][0])
            for factor in node[1][1:]:
                total = balls.multiply(total, self(factor))
            return total
        if kind == "inv":
            return balls.invert(self(node[1]))
        if kind == "neg":
            return balls.negate(self(node[1]))
        if kind == "pow":
            return self._power(node)
        if kind == "sym":
            return self.point[node[1]]
        if kind == "const":
            return self._constant(node[1])
        if kind == "fn":
            return self._function(node)
        if kind == "app":
            return self._application(node)
        if kind == "percent":
            return balls.multiply(self(node[1]), Fraction(1, 100))
        if kind == "degree":
            turn = balls.multiply(self(node[1]), Fraction(1, 180))
            return balls.multiply(turn, self._constant("pi"))
        if kind == "ratio" and len(node[1]) == 2:
            return balls.multiply(self(node[1][0]), balls.invert(self(node[1][1])))
        if kind == "base":
            return base_value(node)
        raise Undefined(f"{kind} has no value")

    def _constant(self, name: str) -> Value:
        if name in self.point:
            return self.point[name]
        if name == "i":
            return balls.unit_root(Fraction(1, 2))
        if name == "oo":
            raise Undefined("infinity")
        centre = +MP.pi if name == "pi" else +MP.e
        return balls.make(centre, 4 - MP.prec, None, 0)

    def _power(self, node: Node) -> Value:
        base, exponent = self(node[1]), self(node[2])
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return balls.integer_power(base, exponent.numerator)
            if exponent.denominator > MAX_ROOT:
                logarithm = self._log(base)
                return self._exp(balls.multiply(exponent, logarithm)) if logarithm else Fraction(1)
            if abs(exponent.numerator) > 10**6:
                raise Refused("a power of that size is not computed")
            key = (base,) if isinstance(base, Fraction) else node[1]
            below = balls.root(base, exponent.denominator, key)
            return balls.integer_power(below, exponent.numerator)
        return self._exp(balls.multiply(exponent, self._log(base)))

    def _exp(self, value: Value) -> Value:
        value = balls.ball(value)
        size = balls.magnitude(value.centre)
        if size > 18 or value.error > -4:
            if size > 18:
                raise Refused("an exponential of that size is not computed")
            raise Undecided("an inexact exponent")
        centre = MP.exp(value.centre)
        error = balls.magnitude(centre) + max(value.error, -MP.prec) + 2
        return balls.make(centre, error, None, value.span)

    def _log(self, value: Value) -> Value:
        if value == 0:
            raise Undefined("the logarithm of zero")
        if value == 1:
            return Fraction(0)
        value = balls.ball(value)
        size = balls.magnitude(value.centre)
        if value.error > size - 4:
            raise Undecided("the logarithm of what may be zero")
        centre = value.centre
        if not value.real and abs(centre.imag) <= MP.ldexp(1, value.error):
            centre = centre.real
        result = MP.log(centre)
        error = max(value.error - size + 4, balls.magnitude(result) - MP.prec + 2)
        return balls.make(result, error, None, value.span)

    def _turn(self, node: Node) -> Fraction | None:
        """r where the node is r pi for a rational r, else None.

        Found by putting random rationals for pi: a ratio that does not depend on it is r.
        """
        ratios = set()
        for value in (Fraction(104729, 7919), Fraction(-1299709, 3571), Fraction(15485863, 611953)):
            try:
                inner = Evaluation({**self.point, "pi": value}, log_base=self.log_base)
                result = inner(node)
            except (ArithmeticError, KeyError):
                return None
            if not isinstance(result, Fraction):
                return None
            ratios.add(result / value)
        return ratios.pop() if len(ratios) == 1 else None

    def _function(self, node: Node) -> Value:
        name, arguments = node[1], node[2]
        if name in ("sin", "cos", "tan", "sec", "csc", "cot"):
            if len(arguments) != 1:
                raise Undefined("a function of one argument")
            return self._trigonometric(name, arguments[0])
        values = [self(argument) for argument in arguments]
        if name in ("binom", "max", "min", "gcd", "lcm"):
            return _of_several(name, values)
        if name == "log":
            base = values[1] if len(values) == 2 else Fraction(self.log_base)
            return balls.multiply(self._log(values[0]), balls.invert(self._log(base)))
        if len(values) != 1:
            raise Undefined("a function of one argument")
        value = values[0]
        if name in ("fact", "fact2"):
            return _factorial(value, 2 if name == "fact2" else 1)
        if name in ("ln", "lg"):
            logarithm = self._log(value)
            if name == "ln":
                return logarithm
            return balls.multiply(logarithm, balls.invert(self._log(Fraction(2))))
        if name == "exp":
            return self._power(("pow", ("const", "e"), arguments[0]))
        if name == "abs":
            return _absolute(value)
        if name in ("floor", "ceil"):
            return _rounded(name, value)
        return self._transcendental(name, value)

    def _trigonometric(self, name: str, argument: Node) -> Value:
        turn = self._turn(argument)
        if turn is not None:
            cosine = balls.cosine_turn(turn)
            sine = balls.cosine_turn(turn - Fraction(1, 2))
        else:
            value = balls.ball(self(argument))
            if not value.real or balls.magnitude(value.centre) > 40 or value.error > -4:
                raise Undecided("a trigonometric function of an inexact argument")
            error = max(value.error, balls.magnitude(value.centre) - MP.prec) + 3
            cosine = balls.make(MP.cos(value.centre), error, None, value.span)
            sine = balls.make(MP.sin(value.centre), error, None, value.span)
        if name == "sin":
            return sine
        if name == "cos":
            return cosine
        if name in ("sec", "csc"):
            return balls.invert(cosine if name == "sec" else sine)
        if name == "tan":
            return balls.multiply(sine, balls.invert(cosine))
        return balls.multiply(cosine, balls.invert(sine))

    def _transcendental(self, name: str, value: Value) -> Value:
        value = balls.ball(value)
        if not value.real or balls.magnitude(value.centre) > 18:
            raise Undefined(f"{name} outside its domain")
        x = value.centre
        # The derivative of each is at most this, in powers of two.
        if name in ("arcsin", "arccos"):
            if abs(x) >= 1:
                if abs(x) == 1 and value.error <= balls.magnitude(x) - MP.prec + 3:
                    slope = 0
                else:
                    raise Undefined(f"{name} outside its domain")
            else:
                slope = -balls.magnitude(1 - x * x) // 2 + 2
            result = MP.asin(x) if name == "arcsin" else MP.acos(x)
        elif name in ("arctan", "arccot"):
            slope = 0
            result = MP.atan(x) if name == "arctan" else MP.acot(x)
        elif name in ("sinh", "cosh", "tanh"):
            result = getattr(MP, name)(x)
            slope = max(balls.magnitude(MP.cosh(x)), 0)
        else:
            raise Undefined(f"{name} has no value")
        error = max(value.error + slope, balls.magnitude(result) - MP.prec) + 2
        return balls.make(result, error, None, value.span)

    def _application(self, node: Node) -> Value:
        """An unknown function: a fixed random number for each argument."""
        value = self(node[2]) if node[2][0] not in ("tuple", "list") else node[2]
        if isinstance(value, Ball):
            value = MP.nstr(value.centre, 20)
        digest = hashlib.sha256(f"{node[1]}({value})".encode()).digest()
        return Fraction(int.from_bytes(digest[:4], "big") + 1, 65537)


def base_value(node: Node) -> Fraction:
    """The number that `("base", digits, base)` writes."""
    _, digits, base = node
    whole, _, part = digits.partition(".")
    if not 2 <= base <= 36 or len(digits) > 2000:
        raise Undefined("a base outside 2 to 36")
    try:
        value = Fraction(int(whole + part, base), base ** len(part))
    except ValueError:
        raise Undefined("a digit outside its base") from None
    return value


def _factorial(value: Value, step: int) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Undefined("the factorial of what is no natural number")
    if value > MAX_FACTORIAL:
        raise Refused("a factorial of that size is not computed")
    if step == 1:
        return Fraction(math.factorial(int(value)))
    return Fraction(math.prod(range(int(value), 0, -2)))


def _of_several(name: str, values: list[Value]) -> Value:
    exact = [value for value in values if isinstance(value, Fraction)]
    if len(exact) < len(values):
        raise Undefined(f"{name} of inexact numbers")
    if name in ("max", "min"):
        return max(exact) if name == "max" else min(exact)
    if any(value.denominator != 1 for value in exact):
        raise Undefined(f"{name} of fractions")
    integers = [int(value) for value in exact]
    if name in ("gcd", "lcm"):
        return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))
    if len(integers) != 2:
        raise Undefined("binom of two")
    n, k = integers
    if n < 0 or k < 0 or k > n:
        raise Undefined("binom outside its domain")
    if min(k, n - k) * n.bit_length() > balls.MAX_BITS:
        raise Refused("a binomial of that size is not computed")
    return Fraction(math.comb(n, k))


def _absolute(value: Value) -> Value:
    if isinstance(value, Fraction):
        return abs(value)
    if not value.real:
        return Ball(abs(value.centre), value.error + 1, None, value.span)
    return value if value.centre >= 0 else balls.negate(value)


def _rounded(name: str, value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    if not value.real or balls.magnitude(value.centre) > 10_000:
        raise Undefined(f"{name} of a complex number")
    radius = MP.ldexp(1, value.error)
    low, high = (int(MP.floor(value.centre + shift)) for shift in (-radius, radius))
    if low != high:
        raise Undecided(f"{name} at a jump")
    return Fraction(low if name == "floor" else low + 1)

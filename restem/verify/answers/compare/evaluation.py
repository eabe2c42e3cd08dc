"""Evaluation of parsed answers at a point, to a chosen precision and within limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction

from restem.verify.answers.compare import balls
from restem.verify.answers.compare.balls import (
    MP,
    Ball,
    Refused,
    Undecided,
    Undefined,
    Unsupported,
    Value,
)
from restem.verify.answers.latex.nodes import (
    INFINITY,
    PI,
    Application,
    BigOperator,
    Constant,
    Degree,
    E,
    Function,
    Inverse,
    List,
    Negation,
    Node,
    Number,
    Numeral,
    Percent,
    Power,
    Product,
    Ratio,
    Sum,
    Symbol,
    Tuple,
)
from restem.verify.answers.latex.walks import mentions, walk

MAX_FACTORIAL = 6000
"""Largest number whose factorial is computed."""
MAX_ROOT = 60
"""Largest degree of roots that are computed algebraically; larger ones rule out a proof."""
MAX_TERMS = 1000
"""Number of terms of the longest sum or product that is expanded."""
MAX_NODES = 20_000
"""Maximum number of operations in one evaluation."""
BITS_PER_OPERATION = 1024
"""Bits of an exact value that count as one more operation: 6000! counts as 65."""
_IN_PLACE_OF_PI = (Fraction(104729, 7919), Fraction(-1299709, 3571), Fraction(15485863, 611953))


class Evaluation:
    """One evaluation of expressions at one point and one precision of `MP`."""

    def __init__(self, point: Mapping[str, Fraction], *, log_base: int = 10):
        """Args:
        point: values of the variables, and of "pi" and "e" if these count as variables.
        log_base: the base of a `\\log` without a subscript.
        """
        self.point = point
        self.log_base = log_base
        self.known: dict[Node, Value] = {}
        self.turns: dict[Node, Fraction | None] = {}
        """What `_turn` returned; shared with the evaluations that it starts."""
        self.operations = 0

    def __call__(self, node: Node) -> Value:
        found = self.known.get(node)
        if found is None:
            self.operations += 1
            if self.operations > MAX_NODES:
                raise Refused("too many operations")
            found = self.known[node] = self._evaluate(node)
            if isinstance(found, Fraction):
                bits = found.numerator.bit_length() + found.denominator.bit_length()
                self.operations += bits // BITS_PER_OPERATION
        return found

    def _evaluate(self, node: Node) -> Value:
        match node:
            case Number(value):
                return balls.bounded(value)
            case Sum(terms):
                total = self(terms[0])
                for term in terms[1:]:
                    total = balls.add(total, self(term))
                return total
            case Product(factors):
                total = self(factors[0])
                for factor in factors[1:]:
                    total = balls.multiply(total, self(factor))
                return total
            case Symbol(name):
                return self.point[name]
            case Negation(value):
                return balls.negate(self(value))
            case Inverse(value):
                return balls.invert(self(value))
            case Power():
                return self._power(node)
            case Constant(name):
                return self._constant(name)
            case Function(name, arguments):
                return self._function(name, arguments)
            case Application(name, argument):
                return self._application(name, argument)
            case Percent(value):
                return balls.multiply(self(value), Fraction(1, 100))
            case Degree(value):
                turn = balls.multiply(self(value), Fraction(1, 180))
                return balls.multiply(turn, self(PI))
            case Ratio((first, second)):
                return balls.multiply(self(first), balls.invert(self(second)))
            case Numeral():
                return numeral_value(node)
            case BigOperator():
                return self._big_operator(node)
        raise Undefined(f"a {type(node).__name__.lower()} has no value")

    def _constant(self, name: str) -> Value:
        if name in self.point:
            return self.point[name]
        if name == "i":
            return balls.unit_root(Fraction(1, 2))
        if name == "oo":
            raise Undefined("infinity")
        center = +MP.pi if name == "pi" else +MP.e
        return balls.make(center, 4 - MP.prec, None, 0)

    def _power(self, node: Power) -> Value:
        base, exponent = self(node.base), self(node.exponent)
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return balls.integer_power(base, exponent.numerator)
            if exponent.denominator > MAX_ROOT:
                logarithm = self._log(base)
                return self._exp(balls.multiply(exponent, logarithm)) if logarithm else Fraction(1)
            if abs(exponent.numerator) > 10**6:
                raise Refused("a power of that size is not computed")
            key = (base,) if isinstance(base, Fraction) else node.base
            below = balls.root(base, exponent.denominator, key)
            return balls.integer_power(below, exponent.numerator)
        return self._exp(balls.multiply(exponent, self._log(base)))

    def _exp(self, value: Value) -> Value:
        value = balls.ball(value)
        size = balls.magnitude(value.center)
        if size > 18 or value.error > -4:
            if size > 18:
                raise Refused("an exponential of that size is not computed")
            raise Undecided("an inexact exponent")
        center = MP.exp(value.center)
        error = balls.magnitude(center) + max(value.error, -MP.prec) + 2
        return balls.make(center, error, None, value.span)

    def _log(self, value: Value) -> Value:
        if value == 0:
            raise Undefined("the logarithm of zero")
        if value == 1:
            return Fraction(0)
        value = balls.ball(value)
        size = balls.magnitude(value.center)
        if value.error > size - 4:
            raise Undecided("the logarithm of what may be zero")
        center = value.center
        if not value.real and abs(center.imag) <= MP.ldexp(1, value.error):
            center = center.real
        result = MP.log(center)
        error = max(value.error - size + 4, balls.magnitude(result) - MP.prec + 2)
        return balls.make(result, error, None, value.span)

    def _turn(self, node: Node) -> Fraction | None:
        """Returns r if the node is r pi for a rational r, else None.

        Pi is replaced by random rationals; if the ratio does not depend on them, it is r.
        """
        if node not in self.turns:
            ratios = {self._ratio(node, value) for value in _IN_PLACE_OF_PI}
            self.turns[node] = ratios.pop() if len(ratios) == 1 else None
        return self.turns[node]

    def _ratio(self, node: Node, value: Fraction) -> Fraction | None:
        """Returns the node's value as a multiple of pi, with a rational in place of pi."""
        inner = Evaluation({**self.point, "pi": value}, log_base=self.log_base)
        inner.turns, inner.operations = self.turns, self.operations
        try:
            result = inner(node)
        except (ArithmeticError, KeyError):
            return None
        finally:
            self.operations = inner.operations
        return result / value if isinstance(result, Fraction) else None

    def _function(self, name: str, arguments: tuple[Node, ...]) -> Value:
        if name in ("sin", "cos", "tan", "sec", "csc", "cot"):
            if len(arguments) != 1:
                raise Unsupported("a function of one argument")
            return self._trigonometric(name, arguments[0])
        values = [self(argument) for argument in arguments]
        if name in ("binom", "max", "min", "gcd", "lcm"):
            return _of_several(name, values)
        if name == "log":
            base = values[1] if len(values) == 2 else Fraction(self.log_base)
            return balls.multiply(self._log(values[0]), balls.invert(self._log(base)))
        if len(values) != 1:
            raise Unsupported("a function of one argument")
        value = values[0]
        if name in ("fact", "fact2"):
            return _factorial(value, 2 if name == "fact2" else 1)
        if name in ("ln", "lg"):
            logarithm = self._log(value)
            if name == "ln":
                return logarithm
            return balls.multiply(logarithm, balls.invert(self._log(Fraction(10))))
        if name == "exp":
            return self._power(Power(E, arguments[0]))
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
            if not value.real or balls.magnitude(value.center) > 40 or value.error > -4:
                raise Undecided("a trigonometric function of an inexact argument")
            error = max(value.error, balls.magnitude(value.center) - MP.prec) + 3
            cosine = balls.make(MP.cos(value.center), error, None, value.span)
            sine = balls.make(MP.sin(value.center), error, None, value.span)
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
        if not value.real or balls.magnitude(value.center) > 18:
            raise Unsupported(f"{name} outside its domain")
        x = value.center
        # `slope` is log2 of a bound on the derivative.
        if name in ("arcsin", "arccos"):
            if abs(x) >= 1:
                if abs(x) == 1 and value.error <= balls.magnitude(x) - MP.prec + 3:
                    slope = 0
                else:
                    raise Unsupported(f"{name} outside its domain")
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
            raise Unsupported(f"{name} has no value")
        error = max(value.error + slope, balls.magnitude(result) - MP.prec) + 2
        return balls.make(result, error, None, value.span)

    def _big_operator(self, node: BigOperator) -> Value:
        if mentions(node.low, INFINITY) or mentions(node.high, INFINITY):
            raise Unsupported("an infinite bound")
        low, high = self(node.low), self(node.high)
        if not isinstance(low, Fraction) or not isinstance(high, Fraction):
            raise Unsupported("a bound that is no integer")
        if low.denominator != 1 or high.denominator != 1 or high < low - 1:
            raise Unsupported("a bound that is no integer")
        if high - low > MAX_TERMS:
            raise Refused("too many terms")
        combine = balls.add if node.name == "sum" else balls.multiply
        total: Value = Fraction(0 if node.name == "sum" else 1)
        for index in range(int(low), int(high) + 1):
            point = {**self.point, node.index.name: Fraction(index)}
            term = Evaluation(point, log_base=self.log_base)
            term.operations = self.operations
            total = combine(total, term(node.body))
            self.operations = term.operations
        return total

    def _application(self, name: str, argument: Node) -> Value:
        """Returns a random number that is fixed for each unknown function and argument."""
        if isinstance(argument, Tuple | List):
            spelled = repr(argument)
        else:
            value = self(argument)
            if isinstance(value, Ball):
                spelled = MP.nstr(value.center, 20)
            else:
                # Hexadecimal, because Python prints no decimals of more than 4300 digits.
                spelled = f"{value.numerator:x}/{value.denominator:x}"
        digest = hashlib.sha256(f"{name}({spelled})".encode("utf-8", "replace")).digest()
        return Fraction(int.from_bytes(digest[:4], "big") + 1, 65537)


def numeral_value(node: Numeral) -> Fraction:
    """Returns the number that a numeral denotes."""
    digits, base = node.digits, node.base
    if not 2 <= base <= 36 or len(digits) > 2000:
        raise Undefined("a base outside 2 to 36")
    whole, _, part = digits.partition(".")
    try:
        return Fraction(int(whole + part, base), base ** len(part))
    except ValueError:
        raise Undefined("a digit outside its base") from None


def has_base(node: Node) -> bool:
    """Returns whether a node has a number that is written in another base than ten."""
    return any(isinstance(part, Numeral) and part.base != 10 for part in walk(node))


def _factorial(value: Value, step: int) -> Fraction:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unsupported("the factorial of something other than a natural number")
    if value > MAX_FACTORIAL:
        raise Refused("a factorial of that size is not computed")
    if step == 1:
        return Fraction(math.factorial(int(value)))
    return Fraction(math.prod(range(int(value), 0, -2)))


def _of_several(name: str, values: list[Value]) -> Value:
    exact = [value for value in values if isinstance(value, Fraction)]
    if len(exact) < len(values):
        raise Unsupported(f"{name} of inexact numbers")
    if name in ("max", "min"):
        return max(exact) if name == "max" else min(exact)
    if any(value.denominator != 1 for value in exact):
        raise Unsupported(f"{name} of fractions")
    integers = [int(value) for value in exact]
    if name in ("gcd", "lcm"):
        return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))
    if len(integers) != 2:
        raise Unsupported("binom of two")
    n, k = integers
    if n < 0 or k < 0 or k > n:
        raise Unsupported("binom outside its domain")
    if min(k, n - k) * n.bit_length() > balls.MAX_BITS:
        raise Refused("a binomial of that size is not computed")
    return Fraction(math.comb(n, k))


def _absolute(value: Value) -> Value:
    if isinstance(value, Fraction):
        return abs(value)
    if not value.real:
        return Ball(abs(value.center), value.error + 1, None, value.span)
    return value if value.center >= 0 else balls.negate(value)


def _rounded(name: str, value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    if not value.real or balls.magnitude(value.center) > 10_000:
        raise Unsupported(f"{name} of a complex number")
    radius = MP.ldexp(1, value.error)
    low, high = (int(MP.floor(value.center + shift)) for shift in (-radius, radius))
    if low != high:
        raise Undecided(f"{name} at a jump")
    return Fraction(low if name == "floor" else low + 1)

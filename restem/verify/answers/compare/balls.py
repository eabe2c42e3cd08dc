r"""Numbers that know how far off they can be, and when they must be zero.

A value is a `Fraction`, exact, or a `Ball`: a centre, a bound on its error, and, for algebraic
numbers, what the constructive root bound of Burnikel, Funke, Mehlhorn, Schirra and Schmitt ("A
separation bound for real algebraic expressions", Algorithmica 55, 2009) needs: the number is U/L
with U and L algebraic integers in a field of degree at most D over the rationals, all conjugates of
U at most u and of L at most l in absolute value. Then it is zero or at least

    1 / (u^(D-1) l),

so an interval around zero narrower than that *proves* equality. Roots of unity (i, and sine and
cosine at rational multiples of pi) are algebraic integers whose conjugates have absolute value 1,
so they fit in without further ado.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import mpmath

MP = mpmath.mp.clone()
"""A context of our own: changing its precision touches nobody else's."""

MAX_BITS = 120_000
"""No exact integer larger than this is ever built (2004! has 19,054 bits)."""

MAX_MAGNITUDE = 400_000
"""No ball whose binary exponent exceeds this is computed with."""

EXACT = -(10**9)
"""The error exponent of an exact centre."""


class Refused(ArithmeticError):
    """Too large to evaluate within the limits."""


class Undefined(ArithmeticError):
    """Division by zero, or a function outside its domain."""


class Undecided(ArithmeticError):
    """A ball straddles a point where the operation is undefined: more precision may tell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Algebraic:
    """The ingredients of the root bound."""

    log_u: float
    """log2 of a bound on the conjugates of U, at least 0."""
    log_l: float
    """log2 of a bound on the conjugates of L, at least 0."""
    radicals: frozenset[tuple[Any, int]]
    """The radicals adjoined, each with the degree it adds at most."""
    order: int
    """The order of the roots of unity adjoined."""

    def zero_bits(self) -> float:
        """If the number is below 2**-bits it is zero."""
        degree = _totient(self.order)
        for _, d in self.radicals:
            degree *= d
            if degree > 10**6:
                return math.inf
        return (degree - 1) * self.log_u + self.log_l + 2


@dataclasses.dataclass(frozen=True, slots=True)
class Ball:
    """A real or complex number known to within 2**error."""

    centre: Any
    """An mpf or mpc of `MP`."""
    error: int
    """log2 of the error bound, rounded up."""
    algebraic: Algebraic | None
    """None for numbers not known to be algebraic."""
    span: int
    """The largest |log2| of any number that took part, which says how small a difference of such
    numbers may honestly be."""

    @property
    def real(self) -> bool:
        return not hasattr(self.centre, "_mpc_")


Value = Fraction | Ball


@functools.lru_cache(maxsize=1024)
def _totient(n: int) -> int:
    result = n
    p = 2
    while p * p <= n:
        if n % p == 0:
            while n % p == 0:
                n //= p
            result -= result // p
        p += 1
    return result - result // n if n > 1 else result


def log2(n: int) -> float:
    """log2 of max(|n|, 1), rounded up a little."""
    n = abs(n)
    if n <= 1:
        return 0.0
    shift = max(0, n.bit_length() - 60)
    return math.log2(n >> shift) + shift + 1e-9


def magnitude(centre: Any) -> int:
    """An exponent m with |centre| < 2**m, and not much less; EXACT for zero."""
    if not centre:
        return EXACT
    return int(MP.mag(centre))


def make(centre: Any, error: int, algebraic: Algebraic | None, span: int) -> Ball:
    size = magnitude(centre)
    if size > MAX_MAGNITUDE or (-MAX_MAGNITUDE > size > EXACT):
        raise Refused("a number of that size is not computed")
    rounding = size - MP.prec + 2 if size > EXACT else EXACT
    if error > EXACT:
        error = max(error, rounding) + 1
    else:
        error = rounding
    # A centre that may be zero says nothing of size but the rounding.
    if size > max(EXACT, error + 2):
        span = max(span, abs(size))
    return Ball(centre, error, algebraic, span)


def fraction_algebraic(value: Fraction) -> Algebraic:
    return Algebraic(log2(value.numerator), log2(value.denominator), frozenset(), 1)


def ball(value: Value) -> Ball:
    """An exact value as a ball of the working precision."""
    if isinstance(value, Ball):
        return value
    size = max(value.numerator.bit_length(), value.denominator.bit_length())
    if size > MAX_BITS:
        raise Refused("too many digits")
    if not value:
        return Ball(MP.mpf(0), EXACT, fraction_algebraic(value), 0)
    centre = MP.mpf(value.numerator) / value.denominator
    return make(centre, magnitude(centre) - MP.prec + 2, fraction_algebraic(value), 0)


def _joined(a: Algebraic | None, b: Algebraic | None, log_u: float, log_l: float):
    order = math.lcm(a.order, b.order)
    if order > 10**6:
        return None
    return Algebraic(log_u, log_l, a.radicals | b.radicals, order)


def bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Refused("too many digits")
    return value


def add(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a + b)
    a, b = ball(a), ball(b)
    algebraic = None
    if a.algebraic and b.algebraic:
        x, y = a.algebraic, b.algebraic
        log_u = max(x.log_u + y.log_l, x.log_l + y.log_u) + 1
        algebraic = _joined(x, y, log_u, x.log_l + y.log_l)
    return make(a.centre + b.centre, max(a.error, b.error) + 1, algebraic, max(a.span, b.span))


def multiply(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a * b)
    if a == 0 or b == 0:
        return Fraction(0)
    a, b = ball(a), ball(b)
    algebraic = None
    if a.algebraic and b.algebraic:
        x, y = a.algebraic, b.algebraic
        algebraic = _joined(x, y, x.log_u + y.log_u, x.log_l + y.log_l)
    ma, mb = magnitude(a.centre), magnitude(b.centre)
    error = max(ma + b.error, mb + a.error, a.error + b.error) + 2
    return make(a.centre * b.centre, max(error, EXACT), algebraic, max(a.span, b.span))


def negate(a: Value) -> Value:
    if isinstance(a, Fraction):
        return -a
    return Ball(-a.centre, a.error, a.algebraic, a.span)


def invert(a: Value) -> Value:
    if isinstance(a, Fraction):
        if not a:
            raise Undefined("division by zero")
        return 1 / a
    size = magnitude(a.centre)
    if a.error > size - 4:
        raise Undecided("a divisor that may be zero")
    algebraic = None
    if a.algebraic:
        x = a.algebraic
        algebraic = Algebraic(x.log_l, x.log_u, x.radicals, x.order)
    return make(1 / a.centre, a.error - 2 * size + 5, algebraic, a.span)


def integer_power(a: Value, n: int) -> Value:
    if n < 0:
        return integer_power(invert(a), -n)
    if isinstance(a, Fraction):
        size = max(a.numerator.bit_length(), a.denominator.bit_length())
        if a not in (0, 1, -1) and size * n > MAX_BITS:
            raise Refused("a power of that size is not computed")
        if a == 0 and n == 0:
            raise Undefined("zero to the power of zero")
        return (
            a ** (n % 2 if a in (0, 1, -1) and n > 1 else n) if n and a else Fraction(int(n == 0))
        )
    if n == 0:
        return Fraction(1)
    size = magnitude(a.centre)
    if a.error > size - 4 or abs(size) * n > MAX_MAGNITUDE:
        if n <= 16:
            result: Value = a
            for _ in range(n - 1):
                result = multiply(result, a)
            return result
        raise Refused("a power of that size is not computed")
    algebraic = None
    if a.algebraic:
        x = a.algebraic
        algebraic = Algebraic(n * x.log_u, n * x.log_l, x.radicals, x.order)
    centre = a.centre**n
    relative = max(a.error - size, -MP.prec) + n.bit_length() + 2
    return make(centre, magnitude(centre) + relative, algebraic, a.span)


def _integer_root(n: int, k: int) -> int | None:
    """The exact k-th root of n >= 0, or None."""
    if n < 2:
        return n
    if k == 2:
        root = math.isqrt(n)
        return root if root * root == n else None
    if k >= n.bit_length():
        return None
    low, high = 1, 1 << (n.bit_length() // k + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**k < n:
            low = middle + 1
        else:
            high = middle
    return low if low**k == n else None


_SMALL_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def _radical_key(a: Fraction, k: int) -> object:
    """Radicals of one field share a key where that is cheap to see: sqrt 8 and sqrt 2."""
    if k != 2:
        return (a, k)
    n = a.numerator * a.denominator
    if n.bit_length() < 200:
        for p in _SMALL_PRIMES:
            while n % (p * p) == 0:
                n //= p * p
    return (n, k)


def root(a: Value, k: int, key: object) -> Value:
    """The k-th root: real for real numbers where there is one (odd k), else principal.

    Args:
      a: the radicand.
      k: 2 or more.
      key: names the radicand among those of one comparison, so that a radical that occurs twice
        is adjoined once.
    """
    if not 1 <= k <= 1000:
        raise Refused("a root of that degree is not computed")
    if k == 1:
        return a
    if isinstance(a, Fraction):
        if a < 0:
            if k % 2:
                return negate(root(-a, k, key))
            return multiply(root(-a, k, key), unit_root(Fraction(1, k)))
        if a.numerator.bit_length() + a.denominator.bit_length() < 5000:
            top = _integer_root(a.numerator, k)
            bottom = _integer_root(a.denominator, k) if top is not None else None
            if top is not None and bottom is not None:
                return Fraction(top, bottom)
        key = _radical_key(a, k)
    a = ball(a)
    size = magnitude(a.centre)
    algebraic = None
    if a.algebraic:
        x = a.algebraic
        if x.log_u >= x.log_l:
            log_u, log_l = (x.log_u + (k - 1) * x.log_l) / k, x.log_l
        else:
            log_u, log_l = x.log_u, ((k - 1) * x.log_u + x.log_l) / k
        algebraic = Algebraic(log_u, log_l, x.radicals | {(key, k)}, x.order)
    if a.error > size - 4:
        # Perhaps the root of zero: |a| < 2**(error + 5).
        return Ball(MP.mpf(0), -((-(a.error + 5)) // k) + 1, algebraic, a.span)
    centre = a.centre
    turn = None
    if not a.real and abs(centre.imag) <= MP.ldexp(1, a.error):
        centre = centre.real
        # What was dropped is within the error: a real number computed by way of complex ones.
    if not hasattr(centre, "_mpc_") and centre < 0:
        centre = -centre
        turn = Fraction(-1) if k % 2 else unit_root(Fraction(1, k))
    value = MP.root(centre, k)
    relative = max(a.error - size, -MP.prec) + 3
    result: Value = make(value, magnitude(value) + relative, algebraic, a.span)
    return result if turn is None else multiply(result, turn)


def unit_root(turn: Fraction) -> Value:
    """exp(i pi turn)."""
    turn %= 2
    if turn == 0:
        return Fraction(1)
    if turn == 1:
        return Fraction(-1)
    centre = MP.expjpi(MP.mpf(turn.numerator) / turn.denominator)
    if turn == Fraction(1, 2):
        centre = MP.mpc(0, 1)
    elif turn == Fraction(3, 2):
        centre = MP.mpc(0, -1)
    algebraic = None
    if turn.denominator <= 100_000:
        algebraic = Algebraic(0.0, 0.0, frozenset(), 2 * turn.denominator)
    return make(centre, 6 - MP.prec, algebraic, 0)


_RATIONAL_COSINES = {
    Fraction(0): Fraction(1),
    Fraction(1, 3): Fraction(1, 2),
    Fraction(1, 2): Fraction(0),
    Fraction(2, 3): Fraction(-1, 2),
    Fraction(1): Fraction(-1),
}


def cosine_turn(turn: Fraction) -> Value:
    """cos(pi turn), exact where it is rational."""
    turn %= 2
    exact = _RATIONAL_COSINES.get(min(turn, 2 - turn))
    if exact is not None:
        return exact
    centre = MP.cospi(MP.mpf(turn.numerator) / turn.denominator)
    algebraic = None
    if turn.denominator <= 100_000:
        algebraic = Algebraic(1.0, 1.0, frozenset(), 2 * turn.denominator)
    return make(centre, 8 - MP.prec, algebraic, 0)


def is_nonzero(a: Value) -> bool:
    """Whether the ball excludes zero."""
    if isinstance(a, Fraction):
        return bool(a)
    return abs(a.centre) > MP.ldexp(1, a.error)


def smaller_than(a: Ball, bits: float) -> bool:
    """Whether every number of the ball is below 2**-bits in absolute value."""
    return max(magnitude(a.centre), a.error) + 1 < -bits

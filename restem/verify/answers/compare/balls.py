r"""Ball arithmetic with a bound below which an algebraic number must be zero.

A value is a `Fraction`, which is exact, or a `Ball`: a center, a bound on its error and, for
algebraic numbers, the ingredients of the constructive root bound of Burnikel, Funke, Mehlhorn,
Schirra and Schmitt ("A separation bound for real algebraic expressions", Algorithmica 55, 2009).
That bound writes the number as U/L, with U and L algebraic integers in a field of degree at most D
over the rationals, all conjugates of U at most u and of L at most l in absolute value. Then the
number is zero or at least

    1 / (u^(D-1) l),

so an interval around zero that is narrower than this bound *proves* equality. Roots of unity (i,
and sine and cosine at rational multiples of pi) are algebraic integers whose conjugates have
absolute value 1, so the bound covers them without changes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import mpmath

MP = mpmath.mp.clone()
"""A private mpmath context, so that its precision affects nothing else."""

MAX_BITS = 120_000
"""Bits of the largest exact integer that is built (2004! has 19,054)."""

MAX_MAGNITUDE = 400_000
"""Largest absolute value of a ball's binary exponent."""

EXACT = -(10**9)
"""Error exponent of an exact center."""


class Refused(ArithmeticError):
    """The value is too large to evaluate within the limits."""


class Undefined(ArithmeticError):
    """Division by zero, or a function outside its domain."""


class Unsupported(Undefined):
    """A function cannot be evaluated here at its argument."""


class Undecided(ArithmeticError):
    """A ball straddles a point where the operation is undefined; more precision may decide."""


@dataclasses.dataclass(frozen=True, slots=True)
class Algebraic:
    """The ingredients of the root bound."""

    log_u: float
    """Log2 of a bound on the conjugates of U, at least 0."""
    log_l: float
    """Log2 of a bound on the conjugates of L, at least 0."""
    radicals: frozenset[tuple[Any, int]]
    """Adjoined radicals, each with the largest degree that it can add."""
    order: int
    """Order of the adjoined roots of unity."""

    def zero_bits(self) -> float:
        """Returns the number of bits such that a number below 2**-bits is zero."""
        degree = _totient(self.order)
        for _, d in self.radicals:
            degree *= d
            if degree > 10**6:
                return math.inf
        return (degree - 1) * self.log_u + self.log_l + 2


@dataclasses.dataclass(frozen=True, slots=True)
class Ball:
    """A real or complex number that is known to within 2**error."""

    center: Any
    """An mpf or mpc of `MP`."""
    error: int
    """Log2 of the error bound, rounded up."""
    algebraic: Algebraic | None
    """None for numbers not known to be algebraic."""
    span: int
    """Largest |log2| of all numbers involved; indicates how small a non-zero difference of them
    can reasonably be."""

    @property
    def real(self) -> bool:
        return not hasattr(self.center, "_mpc_")


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
    """Returns log2 of max(|n|, 1), rounded up slightly."""
    n = abs(n)
    if n <= 1:
        return 0.0
    shift = max(0, n.bit_length() - 60)
    return math.log2(n >> shift) + shift + 1e-9


def magnitude(center: Any) -> int:
    """Returns an exponent m such that 2**m is a close upper bound of |center|; EXACT for zero."""
    if not center:
        return EXACT
    return int(MP.mag(center))


def make(center: Any, error: int, algebraic: Algebraic | None, span: int) -> Ball:
    size = magnitude(center)
    if size > MAX_MAGNITUDE or (-MAX_MAGNITUDE > size > EXACT):
        raise Refused("a number of that size is not computed")
    rounding = size - MP.prec + 2 if size > EXACT else EXACT
    if error > EXACT:
        error = max(error, rounding) + 1
    else:
        error = rounding
    # The size of a center that may be zero comes only from rounding.
    if size > max(EXACT, error + 2):
        span = max(span, abs(size))
    return Ball(center, error, algebraic, span)


def fraction_algebraic(value: Fraction) -> Algebraic:
    return Algebraic(log2(value.numerator), log2(value.denominator), frozenset(), 1)


def ball(value: Value) -> Ball:
    """Returns an exact value as a ball of the working precision."""
    if isinstance(value, Ball):
        return value
    size = max(value.numerator.bit_length(), value.denominator.bit_length())
    if size > MAX_BITS:
        raise Refused("too many digits")
    if not value:
        return Ball(MP.mpf(0), EXACT, fraction_algebraic(value), 0)
    center = MP.mpf(value.numerator) / value.denominator
    return make(center, magnitude(center) - MP.prec + 2, fraction_algebraic(value), 0)


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
    return make(a.center + b.center, max(a.error, b.error) + 1, algebraic, max(a.span, b.span))


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
    ma, mb = magnitude(a.center), magnitude(b.center)
    error = max(ma + b.error, mb + a.error, a.error + b.error) + 2
    return make(a.center * b.center, max(error, EXACT), algebraic, max(a.span, b.span))


def negate(a: Value) -> Value:
    if isinstance(a, Fraction):
        return -a
    return Ball(-a.center, a.error, a.algebraic, a.span)


def invert(a: Value) -> Value:
    if isinstance(a, Fraction):
        if not a:
            raise Undefined("division by zero")
        return 1 / a
    size = magnitude(a.center)
    if a.error > size - 4:
        raise Undecided("a divisor that may be zero")
    algebraic = None
    if a.algebraic:
        x = a.algebraic
        algebraic = Algebraic(x.log_l, x.log_u, x.radicals, x.order)
    return make(1 / a.center, a.error - 2 * size + 5, algebraic, a.span)


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
    size = magnitude(a.center)
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
    center = a.center**n
    relative = max(a.error - size, -MP.prec) + n.bit_length() + 2
    return make(center, magnitude(center) + relative, algebraic, a.span)


def _integer_root(n: int, k: int) -> int | None:
    """Returns the exact k-th root of n >= 0, or None."""
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
    """Returns a key that radicals of one field share where this is cheap to see: sqrt 8, sqrt 2."""
    if k != 2:
        return (a, k)
    n = a.numerator * a.denominator
    if n.bit_length() < 200:
        for p in _SMALL_PRIMES:
            while n % (p * p) == 0:
                n //= p * p
    return (n, k)


def root(a: Value, k: int, key: object) -> Value:
    """Returns the k-th root: the real one if there is one (odd k), else the principal one.

    Args:
      a: the radicand.
      k: 2 or more.
      key: identifies the radicand within a comparison, so that a radical that occurs twice is
        adjoined once.
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
    size = magnitude(a.center)
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
    center = a.center
    turn = None
    if not a.real and abs(center.imag) <= MP.ldexp(1, a.error):
        center = center.real
        # A real number that was computed with complex ones; the dropped part is within the error.
    if not hasattr(center, "_mpc_") and center < 0:
        center = -center
        turn = Fraction(-1) if k % 2 else unit_root(Fraction(1, k))
    value = MP.root(center, k)
    relative = max(a.error - size, -MP.prec) + 3
    result: Value = make(value, magnitude(value) + relative, algebraic, a.span)
    return result if turn is None else multiply(result, turn)


def unit_root(turn: Fraction) -> Value:
    """Returns exp(i pi turn)."""
    turn %= 2
    if turn == 0:
        return Fraction(1)
    if turn == 1:
        return Fraction(-1)
    center = MP.expjpi(MP.mpf(turn.numerator) / turn.denominator)
    if turn == Fraction(1, 2):
        center = MP.mpc(0, 1)
    elif turn == Fraction(3, 2):
        center = MP.mpc(0, -1)
    algebraic = None
    if turn.denominator <= 100_000:
        algebraic = Algebraic(0.0, 0.0, frozenset(), 2 * turn.denominator)
    return make(center, 6 - MP.prec, algebraic, 0)


_RATIONAL_COSINES = {
    Fraction(0): Fraction(1),
    Fraction(1, 3): Fraction(1, 2),
    Fraction(1, 2): Fraction(0),
    Fraction(2, 3): Fraction(-1, 2),
    Fraction(1): Fraction(-1),
}


def cosine_turn(turn: Fraction) -> Value:
    """Returns cos(pi turn), exact if it is rational."""
    turn %= 2
    exact = _RATIONAL_COSINES.get(min(turn, 2 - turn))
    if exact is not None:
        return exact
    center = MP.cospi(MP.mpf(turn.numerator) / turn.denominator)
    algebraic = None
    if turn.denominator <= 100_000:
        algebraic = Algebraic(1.0, 1.0, frozenset(), 2 * turn.denominator)
    return make(center, 8 - MP.prec, algebraic, 0)


def is_nonzero(a: Value) -> bool:
    """Returns whether the ball excludes zero."""
    if isinstance(a, Fraction):
        return bool(a)
    return abs(a.center) > MP.ldexp(1, a.error)


def smaller_than(a: Ball, bits: float) -> bool:
    """Returns whether every number in the ball is below 2**-bits in absolute value."""
    return max(magnitude(a.center), a.error) + 1 < -bits

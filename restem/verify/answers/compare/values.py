"""Whether two scalar expressions have the same value.

Constants are compared by proof wherever a proof is known:

* rational numbers exactly;
* algebraic numbers (radicals, complex numbers, trigonometry at rational multiples of pi) by the
  root bound of `balls`;
* expressions in pi and e that are otherwise algebraic by replacing pi and e with random rationals
  near them, where absolute values and roots have the same sign: an identity that holds for all
  values holds for these, and since pi is transcendental, one that does not hold for all values does
  not hold for pi.

Expressions with variables are compared at random points (Schwartz and Zippel: a polynomial of
degree d that is not zero vanishes at a random point of a set of size S with probability at most
d/S; S is 2^24 and there are several points), and each point is decided as above. Where the formula
depends on signs or on rounding, there are more points, which `_branch_points` describes. The points
come from a hash of both answers, so they are reproducible, and no answer can be built to match
them.

Logarithms and functions such as sin(x) at general arguments have no decision procedure, and for a
sum of many radicals the root bound needs too many digits. In these cases, agreement to 300 bits
beyond four times the size of every number involved, at every point, counts as equality, and
`Comparison.evidence` says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction

from restem.verify.answers.compare import balls
from restem.verify.answers.compare.balls import MP, Refused, Undecided, Undefined, Unsupported
from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.evaluation import Evaluation
from restem.verify.answers.latex.nodes import (
    INFINITY,
    MINUS_INFINITY,
    Constant,
    Degree,
    Function,
    I,
    Negation,
    Node,
    Number,
    Power,
    Sum,
    Symbol,
)
from restem.verify.answers.latex.walks import mentions, mentions_kind, variables, walk

START_BITS = 96
"""Precision of the first evaluation in bits."""
MAX_BITS = 20_000
"""Largest precision of a proof in bits; evidence that needs more counts as "not shown equal"."""
EVIDENCE_BITS = 300
"""Bits of agreement that count as evidence, beyond four times the size of the numbers involved."""
AGREEMENT = "equal to 300 bits and more"
"""Evidence for equality without a proof."""
POINTS = 3
"""Minimum number of points at which two functions must agree."""
OFFERED = 36
"""Number of points tried, including those where the gold answer is not real."""
BRANCHES = 16
"""Number of further points for functions that branch, and of those for functions that round."""
_PIECEWISE = frozenset(("abs", "floor", "ceil", "max", "min"))
"""Functions that are piecewise linear."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Zero:
    """Whether an expression is zero at a point."""

    zero: bool
    proved: bool
    algebraic: bool
    """Whether the expression is algebraic at the point."""


def seeded(*nodes: object) -> random.Random:
    """Returns a random generator that depends only on the given expressions."""
    return random.Random(hashlib.sha256(repr(nodes).encode("utf-8", "replace")).digest())


def difference(a: Node, b: Node) -> Node:
    """Returns the node of `a - b`."""
    return Sum((a, Negation(b)))


def compare_values(a: Node, b: Node, *, log_base: int = 10) -> Comparison:
    """Compares two scalar expressions as numbers or, if they have variables, as functions.

    Variables are real. Where the gold answer (`b`) is real, the prediction must be real too; points
    where the gold answer is not real (because of the domain of its radicals) are left out.
    """
    if a == b:
        return Comparison(True, "symbolic")
    node = difference(a, b)
    names = sorted(variables(node))
    try:
        if not names:
            return _compare_constants(a, b, node, log_base)
        return _compare_functions(a, b, node, names, log_base)
    except (Refused, Undefined, Undecided) as reason:
        undecided = not isinstance(reason, Undefined) or isinstance(reason, Unsupported)
        return Comparison(False, "symbolic", str(reason), undecided=undecided)


def approximate(node: Node, *, log_base: int = 10) -> float | None:
    """Returns a real constant as a float; None for other nodes and beyond the range of floats."""
    if node == INFINITY:
        return math.inf
    if node == MINUS_INFINITY:
        return -math.inf
    if variables(node):
        return None
    MP.prec = START_BITS
    try:
        value = Evaluation({}, log_base=log_base)(node)
    except ArithmeticError:
        return None
    if isinstance(value, Fraction):
        try:
            return float(value)
        except OverflowError:
            return None
    if not value.real and abs(value.center.imag) > MP.ldexp(1, value.error):
        return None
    size = float(MP.re(value.center))
    return size if math.isfinite(size) else None


def _compare_constants(a: Node, b: Node, node: Node, log_base: int) -> Comparison:
    MP.prec = START_BITS
    evaluate = Evaluation({}, log_base=log_base)
    try:
        left, right = evaluate(a), evaluate(b)
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return Comparison(left == right, "numeric")
        if balls.is_nonzero(balls.add(left, balls.negate(right))):
            return Comparison(False, "symbolic")
    except Undecided:
        pass
    found = _decide(node, {}, seeded(a, b), log_base)
    return Comparison(found.zero, "symbolic", evidence="" if found.proved else AGREEMENT)


def _compare_functions(a: Node, b: Node, node: Node, names: list[str], log_base: int) -> Comparison:
    numbers = seeded(a, b)
    branches = _branches(node)
    wanted = POINTS * 4 if branches else POINTS * 2
    complex_allowed = mentions(node, I)
    if branches:
        for point in _branch_points(node, names, numbers):
            try:
                if not complex_allowed and not _is_real(b, point, log_base):
                    continue
                if not _decide(node, point, numbers, log_base).zero:
                    return Comparison(False, "symbolic")
            except (Refused, Undefined, Undecided):
                # The points below count, and of these only some may be left out.
                continue
    proved = True
    agreed = 0
    for point in _points(names, numbers, small=_grows(node)):
        try:
            if not complex_allowed and not _is_real(b, point, log_base):
                continue
        except (Undefined, Undecided):
            continue
        found = _decide(node, point, numbers, log_base)
        if not found.zero:
            return Comparison(False, "symbolic")
        proved &= found.proved
        agreed += 1
        if agreed == wanted:
            break
    if agreed < POINTS:
        detail = "no point where the answer is defined"
        return Comparison(False, "symbolic", detail, undecided=True)
    return Comparison(True, "symbolic", evidence="" if proved else AGREEMENT)


def _decide(
    node: Node, point: Mapping[str, Fraction], numbers: random.Random, log_base: int
) -> _Zero:
    """Returns whether the node is zero at a point.

    Pi and e are treated as variables if that decides what numbers alone cannot.
    """
    found = _zero_at(node, point, log_base)
    if not found.zero or found.proved:
        return found
    names = [name for name in ("pi", "e") if mentions(node, Constant(name))]
    if "pi" not in names and mentions_kind(node, Degree):
        names.append("pi")
    if names:
        for _ in range(OFFERED):
            constants = {name: _near(name, numbers) for name in names}
            try:
                generic = _zero_at(node, {**point, **constants}, log_base)
            except (Undefined, Undecided):
                continue
            # e^{i pi} = -1 does not hold for all e and pi, so this decides only polynomials.
            return dataclasses.replace(generic, proved=True) if generic.algebraic else found
    return found


def _zero_at(node: Node, point: Mapping[str, Fraction], log_base: int) -> _Zero:
    bits = START_BITS
    while True:
        MP.prec = bits
        try:
            value = Evaluation(point, log_base=log_base)(node)
        except Undecided:
            if bits >= 4 * START_BITS:
                raise Undefined("undefined, as far as can be told") from None
            bits *= 4
            continue
        if isinstance(value, Fraction):
            return _Zero(value == 0, True, True)
        algebraic = value.algebraic is not None
        if balls.is_nonzero(value):
            return _Zero(False, True, algebraic)
        needed = value.algebraic.zero_bits() if algebraic else math.inf
        # If a proof is out of reach (a sum of a dozen radicals), agreement counts as evidence.
        provable = needed <= MAX_BITS
        if not provable:
            needed = EVIDENCE_BITS + 4 * value.span
            if needed > MAX_BITS:
                raise Refused("comparing this takes too many digits")
        if balls.smaller_than(value, needed):
            return _Zero(True, provable, algebraic)
        if bits > 2 * MAX_BITS:
            raise Refused("comparing this takes too many digits")
        bits = max(2 * bits, int(needed) + max(value.error + bits, 0) + 32)


def _is_real(node: Node, point: Mapping[str, Fraction], log_base: int) -> bool:
    MP.prec = START_BITS
    value = Evaluation(point, log_base=log_base)(node)
    return (
        isinstance(value, Fraction)
        or value.real
        or abs(value.center.imag) < MP.ldexp(1, value.error)
    )


def _near(name: str, numbers: random.Random) -> Fraction:
    """Returns a random rational within 2^-80 of pi or e."""
    MP.prec = START_BITS
    digits = int(MP.floor(MP.ldexp(MP.pi if name == "pi" else MP.e, 80)))
    return Fraction((digits << 24) + numbers.getrandbits(24) + 1, 2**104)


def _points(
    names: list[str], numbers: random.Random, *, small: bool = False
) -> Iterator[dict[str, Fraction]]:
    """Yields random points: all positive, with mixed signs, and near zero, in turn.

    Radicals and logarithms are real only in part of the space, so many points are tried. The signs
    of mixed points are a random order of patterns, of which a comparison needs the first few.

    Args:
      small: keeps all points near zero, for functions that grow fast or oscillate.
    """
    patterns = range(1, 2 ** min(len(names), 12))
    order = numbers.sample(patterns, min(len(patterns), OFFERED)) if patterns else [0]
    for index in range(OFFERED):
        turn, kind = divmod(index, 3)
        signs = order[turn % len(order)] if kind == 1 else 0
        point = {}
        for place, name in enumerate(names):
            if small:
                size = Fraction(numbers.getrandbits(12) + 1, 4095 if kind == 2 else 1365)
            elif kind == 2:
                size = Fraction(numbers.getrandbits(10) + 1, 1025)
            else:
                size = Fraction(numbers.getrandbits(24) + 2, numbers.choice((1, 3, 7)))
            point[name] = -size if signs >> place & 1 else size
        yield point


def _branch_points(
    node: Node, names: list[str], numbers: random.Random
) -> Iterator[dict[str, Fraction]]:
    """Yields points on the branches of functions such as |x - 5|, so that none is taken for x - 5.

    The signs go through all patterns (of five variables or more, through some), and the sizes lie
    on both sides of the constants in the node. If anything is rounded, integer points follow:
    floor(x/2) + 1 and ceil(x/2) differ at even numbers only.
    """
    constants = {abs(part.value) for part in walk(node) if isinstance(part, Number) and part.value}
    scales = sorted(constants | {Fraction(1)})
    count = 2 ** min(len(names), 12)
    patterns = range(count) if count <= BRANCHES else numbers.sample(range(count), BRANCHES)
    for _ in range(BRANCHES // len(patterns)):
        for signs in patterns:
            point = {}
            for place, name in enumerate(names):
                size = numbers.choice(scales) * Fraction(numbers.getrandbits(12) + 1, 2048)
                point[name] = -size if signs >> place & 1 else size
            yield point
    if any(isinstance(part, Function) and part.name in ("floor", "ceil") for part in walk(node)):
        # Consecutive values of each variable have all remainders.
        start = {name: numbers.randint(-BRANCHES, 0) for name in names}
        step = {name: numbers.choice((1, 5, 7)) for name in names}
        for index in range(BRANCHES):
            yield {name: Fraction(start[name] + step[name] * index) for name in names}


def _grows(node: Node) -> bool:
    """Returns whether variables occur in exponents or in functions not piecewise linear."""
    for part in walk(node):
        match part:
            case Power(exponent=inner) if variables(inner):
                return True
            case Function(name, arguments) if name not in _PIECEWISE:
                if any(variables(inner) for inner in arguments):
                    return True
    return False


def _branches(node: Node) -> bool:
    """Returns whether the node contains functions whose formula depends on where the point is."""
    for part in walk(node):
        match part:
            case Power(_, Number() | Symbol()):
                pass
            case Power(base, _) if variables(base):
                return True
            case Function(name) if name in _PIECEWISE:
                return True
    return False

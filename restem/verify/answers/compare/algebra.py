"""The last stage: SymPy compares scalars that no earlier stage can decide.

Trees are translated node by node, so SymPy never parses or evaluates text. SymPy is imported when
it is first needed. All SymPy calls of one comparison share `CPU_S` seconds of CPU time, and numbers
that are too large for it are never passed on. If SymPy finds two expressions equal, they must also
be equal at the integer points at which both have values.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from restem.verify.answers.compare import balls
from restem.verify.answers.compare.balls import MP
from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.evaluation import Evaluation, numeral_value
from restem.verify.answers.compare.values import START_BITS, approximate, difference
from restem.verify.answers.latex.nodes import (
    Application,
    BigOperator,
    Constant,
    Degree,
    Function,
    I,
    Inverse,
    Negation,
    Node,
    Number,
    Numeral,
    Percent,
    Power,
    Product,
    Sum,
    Symbol,
)
from restem.verify.answers.latex.walks import mentions, variables, walk

CPU_S = 2.0
"""Seconds of CPU time for all SymPy calls of one comparison, excluding the import of SymPy."""
MAX_NODES = 200
"""Number of nodes of the largest tree that is translated."""
MAX_BITS = 4000
"""Bits of the largest integer, and of the largest constant power."""
MAX_EXPONENT = 400
"""Largest constant exponent, and largest constant argument of a factorial."""
EVIDENCE = "equal by SymPy"

_POINTS = (2, 3, 5, 8)
_TRANSLATED = (
    Number, Numeral, Symbol, Constant, Sum, Product, Negation, Inverse, Power, Percent, Degree,
    Function, Application, BigOperator,
)  # fmt: skip
_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "csc": "csc", "cot": "cot",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "sinh": "sinh",
    "cosh": "cosh", "tanh": "tanh", "exp": "exp", "ln": "log", "abs": "Abs", "floor": "floor",
    "ceil": "ceiling", "max": "Max", "min": "Min", "binom": "binomial", "fact": "factorial",
    "fact2": "factorial2", "gcd": "gcd", "lcm": "lcm",
}  # fmt: skip
_DISCRETE = frozenset(("binom", "fact", "fact2", "gcd", "lcm"))


class _OutOfTime(BaseException):
    """The CPU time is used up. A BaseException, because SymPy catches `Exception` in places."""


class Oracle:
    """Compares scalars with SymPy within one comparison of answers.

    Only the main thread of a process can bound its CPU time, so other threads decide nothing.
    """

    def __init__(self, *, log_base: int = 10):
        """Args:
        log_base: the base of a `\\log` without a subscript.
        """
        self._log_base = log_base
        self._seconds_left = CPU_S

    def __call__(self, answer: Node, gold: Node) -> Comparison:
        """Compares two scalar expressions."""
        if threading.current_thread() is not threading.main_thread():
            return _undecided("SymPy is asked in a main thread only")
        if not _is_small(answer) or not _is_small(gold):
            return _undecided("too large to compare")
        import sympy

        try:
            with self._deadline():
                equal = _equal(sympy, answer, gold, self._log_base)
        except _OutOfTime:
            return _undecided("SymPy did not decide in time")
        except (ArithmeticError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            return _undecided(f"SymPy raised {type(error).__name__}")
        if equal is None:
            return _undecided("SymPy does not know")
        return Comparison(equal, "symbolic", evidence=EVIDENCE if equal else "")

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Raises `_OutOfTime` in its body when the CPU time of this comparison is used up."""

        expired = False

        def expire(*_: object) -> None:
            nonlocal expired
            expired = True
            raise _OutOfTime

        previous = signal.signal(signal.SIGVTALRM, expire)
        # Repeated, because Python drops an exception that is raised in a finaliser.
        signal.setitimer(signal.ITIMER_VIRTUAL, max(self._seconds_left, 1e-3), 1.0)
        try:
            yield
        finally:
            left, _ = signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self._seconds_left = 0.0 if expired else left
            signal.signal(signal.SIGVTALRM, previous)


def _undecided(why: str) -> Comparison:
    return Comparison(False, "symbolic", f"undecided: {why}", undecided=True)


def _equal(sympy: Any, answer: Node, gold: Node, log_base: int) -> bool | None:
    translate = _Translation(sympy, answer, gold, log_base)
    a, b = translate(answer), translate(gold)
    if any(side.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) for side in (a, b)):
        return None
    rest = a - b
    for change in (sympy.expand, sympy.combsimp, sympy.simplify):
        if rest == 0:
            return _holds_at_points(answer, gold, log_base)
        rest = change(rest)
    if rest == 0:
        return _holds_at_points(answer, gold, log_base)
    return False if rest.is_zero is False or rest.equals(0) is False else None


def _holds_at_points(answer: Node, gold: Node, log_base: int) -> bool | None:
    """Returns None if the two expressions differ at an integer point, else True."""
    node = difference(answer, gold)
    for start in _POINTS:
        names = sorted(variables(node))
        point = {name: Fraction(start + 2 * place) for place, name in enumerate(names)}
        MP.prec = 2 * START_BITS
        try:
            if balls.is_nonzero(Evaluation(point, log_base=log_base)(node)):
                return None
        except ArithmeticError:
            continue
    return True


def _is_small(node: Node) -> bool:
    """Returns whether a tree can be translated and contains no huge power or factorial."""
    parts = walk(node)
    return len(parts) <= MAX_NODES and all(map(_is_small_part, parts))


def _is_small_part(part: Node) -> bool:
    match part:
        case Number(value):
            return max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS
        case Power(base, exponent) if not variables(exponent):
            size = approximate(exponent)
            if size is None or abs(size) > MAX_EXPONENT:
                return False
            if variables(base) or mentions(base, I):
                return True
            constant = approximate(base)
            if constant is None:
                return False
            return abs(size) * math.log2(abs(constant) + 2) <= MAX_BITS
        case Function("fact" | "fact2" | "binom" | "exp", arguments):
            sizes = [approximate(argument) for argument in arguments if not variables(argument)]
            return all(size is not None and abs(size) <= MAX_EXPONENT for size in sizes)
    return isinstance(part, _TRANSLATED)


class _Translation:
    """Translates nodes into SymPy expressions, with the same symbols for both answers."""

    def __init__(self, sympy: Any, answer: Node, gold: Node, log_base: int):
        self._sympy = sympy
        self._log_base = log_base
        discrete: set[str] = set()
        for part in (*walk(answer), *walk(gold)):
            match part:
                case Function(name, arguments) if name in _DISCRETE:
                    discrete |= set().union(*map(variables, arguments))
                case BigOperator(_, index, low, high):
                    discrete |= {index.name} | variables(low) | variables(high)
        self._symbols = {
            name: sympy.Symbol(f"v{place}", integer=True, positive=True)
            if name in discrete
            else sympy.Symbol(f"v{place}", real=True)
            for place, name in enumerate(sorted(self._names(answer) | self._names(gold)))
        }

    @staticmethod
    def _names(node: Node) -> set[str]:
        return {part.name for part in walk(node) if isinstance(part, Symbol)}

    def __call__(self, node: Node) -> Any:
        sympy = self._sympy
        match node:
            case Number(value):
                return sympy.Rational(value.numerator, value.denominator)
            case Symbol(name):
                return self._symbols[name]
            case Constant(name):
                return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}[name]
            case Sum(terms):
                return sympy.Add(*map(self, terms))
            case Product(factors):
                return sympy.Mul(*map(self, factors))
            case Negation(value):
                return -self(value)
            case Inverse(value):
                return 1 / self(value)
            case Numeral():
                return self(Number(numeral_value(node)))
            case Percent(value):
                return self(value) / 100
            case Degree(value):
                return self(value) * sympy.pi / 180
            case Power(base, exponent):
                return self._power(base, exponent)
            case Application(name, argument):
                return sympy.Function(f"u{name}")(self(argument))
            case BigOperator(name, index, low, high, body):
                kind = sympy.Sum if name == "sum" else sympy.Product
                return kind(self(body), (self(index), self(low), self(high))).doit()
            case Function(name, arguments):
                return self._function(name, [self(argument) for argument in arguments])
        raise TypeError(f"a {type(node).__name__} is no scalar")

    def _power(self, base: Node, exponent: Node) -> Any:
        value, power = self(base), self(exponent)
        if value.is_negative and power.is_Rational and power.q % 2:
            # The real root of a negative number, as everywhere in this package.
            return (-1) ** power.p * (-value) ** power
        return value**power

    def _function(self, name: str, arguments: list[Any]) -> Any:
        sympy = self._sympy
        if name == "log":
            base = arguments[1] if len(arguments) == 2 else self._log_base
            return sympy.log(arguments[0]) / sympy.log(base)
        if name == "lg":
            return sympy.log(arguments[0]) / sympy.log(10)
        return getattr(sympy, _FUNCTIONS[name])(*arguments)

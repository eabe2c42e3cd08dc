"""The syntax trees of parsed answers.

A tree represents how an answer is written, not its value: `9^{9^{9}}` is a `Power` of a `Power`,
which `compare/` refuses to evaluate. Nodes are immutable and hashable, and equal if they have the
same type and the same parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any


class Node:
    """A part of an answer; each subclass is one kind."""

    __slots__ = ("_hash",)
    __match_args__: tuple[str, ...] = ()
    _hash: int

    def __hash__(self) -> int:
        # Evaluation looks nodes up by value many times, so each hash is computed once.
        try:
            return self._hash
        except AttributeError:
            value = hash((type(self), *(getattr(self, name) for name in self.__match_args__)))
            object.__setattr__(self, "_hash", value)
            return value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in self.__match_args__
        )

    def children(self) -> tuple[Node, ...]:
        """Returns the nodes directly below this one, in the order in which they are written."""
        return ()

    def transform(self, change: Callable[[Node], Node]) -> Node:
        """Returns this node with `change` applied to each of its children."""
        parts = (_transformed(getattr(self, name), change) for name in self.__match_args__)
        return type(self)(*parts)


def _transformed(part: Any, change: Callable[[Node], Node]) -> Any:
    if isinstance(part, Node):
        return change(part)
    if isinstance(part, tuple):
        return tuple(_transformed(item, change) for item in part)
    return part


# Scalars.


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Number(Node):
    """A rational number written in base ten."""

    value: Fraction


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Numeral(Node):
    """A number written in a stated base: `1011_2`."""

    digits: str
    """Digits and letters with an optional sign and point."""
    base: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Symbol(Node):
    """A variable, with its primes, subscript or accent."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Constant(Node):
    """A number with a name."""

    name: str
    """"pi", "e", "i" or "oo"."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sum(Node):
    """Two or more terms, added."""

    terms: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.terms


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Product(Node):
    """Two or more factors, multiplied; a fraction is its numerator times an `Inverse`."""

    factors: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.factors


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Inverse(Node):
    """One divided by a value."""

    value: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Negation(Node):
    """Minus a value."""

    value: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Power(Node):
    """A base raised to an exponent; the exponent of a k-th root is an `Inverse`."""

    base: Node
    exponent: Node

    def children(self) -> tuple[Node, ...]:
        return (self.base, self.exponent)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Function(Node):
    """A function with a known meaning: `\\sin x`, `5!`, `\\binom{5}{2}`."""

    name: str
    arguments: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.arguments


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Application(Node):
    """A function with an unknown meaning, f, g or h, at an argument."""

    name: str
    argument: Node

    def children(self) -> tuple[Node, ...]:
        return (self.argument,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlusMinus(Node):
    """A term with either sign."""

    sign: int
    """1 for `\\pm`, -1 for `\\mp`."""
    value: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Percent(Node):
    """A value with a percent sign."""

    value: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Degree(Node):
    """A value with a degree sign."""

    value: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Quantity(Node):
    """A value with units, or with words that follow it."""

    value: Node
    units: tuple[tuple[str, int], ...]
    """Each unit's words and power."""

    def children(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ratio(Node):
    """Two or more parts joined by colons."""

    parts: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.parts


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Text(Node):
    """Words."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BigOperator(Node):
    """A sum or product over an integer: `\\sum_{k=1}^{n} k^2`."""

    name: str
    """"sum" or "prod"."""
    index: Symbol
    low: Node
    high: Node
    body: Node

    def children(self) -> tuple[Node, ...]:
        return (self.index, self.low, self.high, self.body)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Residue(Node):
    """A number modulo another: `7 \\pmod{10}`."""

    value: Node
    modulus: Node

    def children(self) -> tuple[Node, ...]:
        return (self.value, self.modulus)


# Several values.


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class List(Node):
    """Values without brackets around them, joined by commas or words."""

    items: tuple[Node, ...]
    joined: str = ","
    """"and" or "or" if that is the only word between the items of a whole answer."""

    def children(self) -> tuple[Node, ...]:
        return self.items


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Set(Node):
    """Values in braces."""

    items: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.items


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tuple(Node):
    """Values in round or square brackets: a point, a vector or an interval."""

    opening: str
    """"(" or "["."""
    items: tuple[Node, ...]
    closing: str
    """")" or "]"."""

    def children(self) -> tuple[Node, ...]:
        return self.items


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Matrix(Node):
    """Rows of equal length."""

    rows: tuple[tuple[Node, ...], ...]

    def children(self) -> tuple[Node, ...]:
        return tuple(entry for row in self.rows for entry in row)


# Sets of numbers.


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Reals(Node):
    """All real numbers."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NumberSet(Node):
    """The natural numbers, the integers, the rational or the complex numbers."""

    name: str
    """"N", "Z", "Q" or "C"."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Empty(Node):
    """The empty set."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Union(Node):
    """The union of sets: the numbers in any of the parts."""

    parts: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.parts


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Intersection(Node):
    """The intersection of sets: the numbers in all of the parts."""

    parts: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        return self.parts


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Difference(Node):
    """The numbers that are in the left set and not in the right one."""

    left: Node
    right: Node

    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SetBuilder(Node):
    """The numbers that satisfy conditions: `\\{x \\mid x > 2\\}`."""

    variable: Symbol
    domain: Node
    """Set from which the numbers are taken; `Reals` unless stated."""
    conditions: tuple[Node, ...]
    any: bool
    """Whether one condition suffices ("or"); otherwise all must hold."""

    def children(self) -> tuple[Node, ...]:
        return (self.variable, self.domain, *self.conditions)


# Relations.


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Relation(Node):
    """An equation, an inequality, or a chain of them."""

    sides: tuple[Node, ...]
    operators: tuple[str, ...]
    """Operators between the sides: "=", "!=", "<", "<=", ">", ">=" or "in"."""

    def children(self) -> tuple[Node, ...]:
        return self.sides


PI = Constant("pi")
E = Constant("e")
I = Constant("i")  # noqa: E741
INFINITY = Constant("oo")
MINUS_INFINITY = Negation(INFINITY)


def number(value: int | Fraction) -> Number:
    """Returns the node of an integer or a fraction."""
    return Number(Fraction(value))


NUMBER_SETS: dict[str, Node] = {"R": Reals(), **{name: NumberSet(name) for name in "NZQC"}}
"""Sets of numbers by the letter that stands for them."""

"""Values with units: which units agree, and the values in one unit."""

from __future__ import annotations

from fractions import Fraction

from restem.verify.answers.compare.signs import SIGNS, has_sign, without_sign
from restem.verify.answers.latex.nodes import (
    PI,
    Degree,
    Inverse,
    Node,
    Power,
    Product,
    Quantity,
    Ratio,
    Symbol,
    number,
)
from restem.verify.answers.latex.units import (
    RADIAN,
    Units,
    are_mixed,
    measures,
    measures_nothing,
    readings,
    takes_back,
)
from restem.verify.answers.latex.walks import variables


def is_taken_back(answer: Node) -> bool:
    """Returns whether the words after a value deny it."""
    return isinstance(answer, Quantity) and any(takes_back(words) for words, _ in answer.units)


def without_units(answer: Node, gold: Node) -> tuple[Node, Node]:
    """Returns both values without units, whatever these are."""
    a, given = _value_and_units(answer)
    b, wanted = _value_and_units(gold)
    if wanted and not given:
        a = _without_letter_unit(a, wanted)
    elif given and not wanted:
        b = _without_letter_unit(b, given)
    return a, b


def in_one_unit(answer: Node, gold: Node) -> tuple[Node, Node] | None:
    """Returns both values in the same unit, or None if their units do not agree.

    A unit on one side only is dropped, and so are words that measure nothing, unless the other side
    has a unit.
    """
    (_, given), (_, wanted) = _value_and_units(answer), _value_and_units(gold)
    a, b = without_units(answer, gold)
    if are_mixed(given):
        return None
    mine, theirs = readings(given), readings(wanted)
    for units, own, other in ((mine, a, b), (theirs, b, a)):
        if units == [RADIAN] and has_sign(other, Degree):
            return (_in_radians(a), b) if other is a else (a, _in_radians(b))
        if units and _has_sign(other) and not _has_sign(own):
            return None
    if any(unit.is_clock for unit in mine + theirs):
        return _times(a, b) if mine == theirs or not (mine and theirs) else None
    if mine and theirs:
        pairs = ((unit, other) for unit in mine for other in theirs)
        factors = next(filter(None, (unit.factors(other) for unit, other in pairs)), None)
        return factors and (_scaled(a, factors[0]), _scaled(b, factors[1]))
    if len(given) == len(wanted) == 1 and len(measures(given)) + len(measures(wanted)) == 1:
        ((words, _),) = wanted if measures(given) else given
        if measures_nothing(words):
            return None
    return a, b


def _value_and_units(node: Node) -> tuple[Node, Units]:
    return (node.value, node.units) if isinstance(node, Quantity) else (node, ())


def _in_radians(node: Node) -> Node:
    """Returns the value of `45^\\circ` without its sign, in radians."""
    return Product((without_sign(node, Degree), PI, Inverse(number(180))))


def _has_sign(node: Node) -> bool:
    return any(has_sign(node, kind) for kind in SIGNS)


def _times(a: Node, b: Node) -> tuple[Node, Node]:
    """Returns two times of day in hours, or in hours and minutes if either is written so."""
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        # `10 a.m.` is `10:00 a.m.`; but 10:30 is no third.
        a, b = (time if isinstance(time, Ratio) else Ratio((time, number(0))) for time in (a, b))
    return a, b


def _scaled(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else Product((node, number(factor)))


def _without_letter_unit(node: Node, units: Units) -> Node:
    """Returns `144` for `144 m^3` without \\text, if the other answer's unit is cubic meters."""
    if not isinstance(node, Product) or len(variables(node)) != 1:
        return node
    last = node.factors[-1]
    base, power = (last.base, last.exponent) if isinstance(last, Power) else (last, number(1))
    name, exponent = units[0]
    if base != Symbol(name.strip()) or power != number(exponent):
        return node
    rest = node.factors[:-1]
    return rest[0] if len(rest) == 1 else Product(rest)

r"""Sets of real numbers: intervals, unions, differences and inequalities, compared exactly.

Both sets are cut at all end points that occur in either. What is left are points and open gaps
between neighbours, each wholly inside or wholly outside each set, so that a set is a set of cells
and two sets are equal if their cells are:

    (-oo, 2] \cup (2, 5)  and  (-oo, 5), cut at -oo < 2 < 5 < oo:
    gap(-oo, 2), point 2, gap(2, 5)  both times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from restem.verify.answers.compare import values as math_values
from restem.verify.answers.latex.factors import Node
from restem.verify.answers.latex.nodes import variables

INFINITY: Node = ("const", "oo")
MINUS_INFINITY: Node = ("neg", INFINITY)
MAX_ENDPOINTS = 40
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "="}


class NotASet(ValueError):
    """The node denotes no set of reals that can be cut at constants."""


def is_interval(node: Node) -> bool:
    """Whether a node can only be meant as an interval: a square bracket, or an infinite end."""
    if node[0] != "tuple" or len(node[2]) != 2:
        return False
    return node[1] == "[" or node[3] == "]" or infinite(node[2][0]) or infinite(node[2][1])


def infinite(node: Node) -> bool:
    return node in (INFINITY, MINUS_INFINITY)


def from_relation(node: Node) -> Node:
    """The solution set of an inequality in one bare variable, or of several joined by "or".

    Raises:
      NotASet: it is another kind of relation.
    """
    if node[0] == "list":
        parts = [from_relation(item) for item in node[1]]
        if len({name for item in node[1] for name in variables(item)}) != 1:
            raise NotASet
        return ("union", tuple(parts))
    if node[0] != "rel":
        raise NotASet
    sides, operators = node[1], node[2]
    names = variables(node)
    if len(names) != 1 or len(sides) > 3:
        raise NotASet
    name = ("sym", names.pop())
    if len(sides) == 3:
        low, middle, high = sides
        first, second = operators
        if middle != name:
            raise NotASet
        if first in (">", ">="):
            low, high, first, second = high, low, _MIRRORED[second], _MIRRORED[first]
        if first not in ("<", "<=") or second not in ("<", "<="):
            raise NotASet
        return _interval(low, first == "<=", high, second == "<=")
    left, right = sides
    operator = operators[0]
    if right == name:
        left, right, operator = right, left, _MIRRORED.get(operator, "")
    if left != name or variables(right):
        raise NotASet
    if operator in (">", ">="):
        return _interval(right, operator == ">=", INFINITY, False)
    if operator in ("<", "<="):
        return _interval(MINUS_INFINITY, False, right, operator == "<=")
    if operator == "!=":
        return ("minus", ("reals",), ("set", (right,)))
    if operator == "=":
        return ("set", (right,))
    raise NotASet


def _interval(low: Node, low_closed: bool, high: Node, high_closed: bool) -> Node:
    return ("tuple", "[" if low_closed else "(", (low, high), "]" if high_closed else ")")


def equal(a: Node, b: Node) -> bool:
    """Whether two set expressions denote the same set of reals.

    Raises:
      NotASet: one of them is no set, or has an end point that is no real constant.
    """
    ends: list[Node] = []
    _collect(a, ends)
    _collect(b, ends)
    line = _Line(ends)
    return line.cells(a) == line.cells(b)


def _collect(node: Node, ends: list[Node]) -> None:
    kind = node[0]
    if kind == "tuple" and len(node[2]) == 2:
        ends.extend(node[2])
    elif kind == "set":
        ends.extend(node[1])
    elif kind in ("union", "cap"):
        for part in node[1]:
            _collect(part, ends)
    elif kind == "minus":
        _collect(node[1], ends)
        _collect(node[2], ends)
    elif kind not in ("reals", "empty"):
        raise NotASet
    if len(ends) > MAX_ENDPOINTS:
        raise NotASet


class _Line:
    """The real line, cut at given constants; cell 2k is cut k, cell 2k + 1 the gap after it."""

    def __init__(self, ends: list[Node]):
        """Sorts the end points and merges those of equal value."""
        self.index: dict[Node, int] = {}
        placed = []
        for end in dict.fromkeys([MINUS_INFINITY, INFINITY, *ends]):
            place = math_values.approximate(end)
            if place is None:
                raise NotASet
            placed.append((place, end))
        order: Callable[[Any, Any], int] = lambda x, y: (x[0] > y[0]) - (x[0] < y[0])
        placed.sort(key=functools.cmp_to_key(order))
        cut = -1
        last: Node | None = None
        for _, end in placed:
            if last is None or not math_values.compare_values(end, last).equal:
                cut += 1
                last = end
            self.index[end] = cut
        self.count = cut + 1

    def cells(self, node: Node) -> frozenset[int]:
        kind = node[0]
        if kind == "reals":
            return frozenset(range(1, 2 * self.count - 2))
        if kind == "empty":
            return frozenset()
        if kind == "set":
            return frozenset(2 * self.index[item] for item in node[1])
        if kind == "tuple":
            low, high = (self.index[end] for end in node[2])
            if low > high:
                raise NotASet
            cells = set(range(2 * low + 1, 2 * high))
            # Infinity is no number: a bracket that closes it is a mistake, not a spelling.
            if node[1] == "[":
                if low == 0:
                    raise NotASet
                cells.add(2 * low)
            if node[3] == "]":
                if high == self.count - 1:
                    raise NotASet
                cells.add(2 * high)
            return frozenset(cells)
        if kind == "union":
            return frozenset().union(*(self.cells(part) for part in node[1]))
        if kind == "cap":
            return frozenset.intersection(*(self.cells(part) for part in node[1]))
        if kind == "minus":
            return self.cells(node[1]) - self.cells(node[2])
        raise NotASet

r"""Sets of real numbers: intervals, unions, differences and inequalities, compared exactly.

Both sets are cut at all end points that occur in either of them. This leaves points, and open gaps
between neighbors. Each of these cells is wholly inside or wholly outside each set, so two sets are
equal if they consist of the same cells:

    (-oo, 2] \cup (2, 5)  and  (-oo, 5), cut at -oo < 2 < 5 < oo:
    gap(-oo, 2), point 2, gap(2, 5)  both times.
"""

from __future__ import annotations

from restem.verify.answers.compare.signs import without_sign
from restem.verify.answers.compare.values import approximate, compare_values
from restem.verify.answers.latex.nodes import (
    INFINITY,
    MINUS_INFINITY,
    Degree,
    Difference,
    Empty,
    Intersection,
    List,
    Node,
    Percent,
    Quantity,
    Reals,
    Relation,
    Set,
    SetBuilder,
    Symbol,
    Tuple,
    Union,
)
from restem.verify.answers.latex.walks import variables

MAX_ENDPOINTS = 40
"""Maximum number of end points of both sets together; more would take too long."""

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "="}


class NotASet(ValueError):
    """The node does not denote a set of reals that can be cut at constants."""


def is_interval(node: Node) -> bool:
    """Returns whether a node can only denote an interval.

    A square bracket or an infinite end makes it one; `(1, 2)` may be a point.
    """
    match node:
        case Tuple(opening, (low, high), closing):
            return opening == "[" or closing == "]" or _infinite(low) or _infinite(high)
    return False


def are_inequalities(node: Node) -> bool:
    """Returns whether a node is a list of inequalities."""
    return isinstance(node, List) and all(
        isinstance(item, Relation) and not {"=", "in"} & set(item.operators) for item in node.items
    )


def _infinite(node: Node) -> bool:
    return node in (INFINITY, MINUS_INFINITY)


def from_answer(node: Node) -> Node:
    """Returns a set expression without units, percent or degree signs.

    A list of inequalities is the union or intersection of their solutions, see `from_relation`.

    Raises:
      NotASet: if it is a different kind of list.
    """
    if isinstance(node, Quantity):
        return from_answer(node.value)
    if isinstance(node, List):
        return from_relation(node)
    if isinstance(node, SetBuilder):
        return _solutions(node)
    return without_sign(without_sign(node, Degree), Percent)


def _solutions(node: SetBuilder) -> Node:
    """Returns the set of reals that satisfy the conditions of a set builder."""
    if any(variables(condition) != {node.variable.name} for condition in node.conditions):
        raise NotASet
    parts = tuple(from_relation(condition) for condition in node.conditions)
    joined = Union(parts) if node.any else Intersection(parts)
    return joined if isinstance(node.domain, Reals) else Intersection((node.domain, joined))


def from_relation(node: Node) -> Node:
    """Returns the solution set of an inequality in one bare variable, or of several.

    Several are joined as their word says. Some authors list the parts of a union with "and", and
    the bounds of an interval with commas: what would be empty is a union, and what would be all
    reals an intersection.

    Raises:
      NotASet: if it is a different kind of relation.
    """
    if isinstance(node, List):
        parts = tuple(from_relation(item) for item in node.items)
        if len({name for item in node.items for name in variables(item)}) != 1:
            raise NotASet
        both, either = Intersection(parts), Union(parts)
        if node.joined == "and":
            return either if equal(both, Empty()) else both
        return both if node.joined == "," and equal(either, Reals()) else either
    if not isinstance(node, Relation):
        raise NotASet
    names = variables(node)
    if len(names) != 1:
        raise NotASet
    name = Symbol(names.pop())
    match node:
        case Relation((low, middle, high), (first, second)) if middle == name:
            return _between(low, first, second, high)
        case Relation((left, right), (operator,)):
            if right == name:
                left, right, operator = right, left, _MIRRORED.get(operator, "")
            if left == name and not variables(right):
                return _ray(operator, right)
    raise NotASet


def _between(low: Node, first: str, second: str, high: Node) -> Node:
    """Returns the solution set of `low first x second high`."""
    if first in (">", ">="):
        low, high, first, second = high, low, _MIRRORED[second], _MIRRORED[first]
    if first not in ("<", "<=") or second not in ("<", "<="):
        raise NotASet
    return _interval(low, first == "<=", high, second == "<=")


def _ray(operator: str, bound: Node) -> Node:
    """Returns the solution set of `x operator bound`."""
    match operator:
        case ">" | ">=":
            return _interval(bound, operator == ">=", INFINITY, False)
        case "<" | "<=":
            return _interval(MINUS_INFINITY, False, bound, operator == "<=")
        case "!=":
            return Difference(Reals(), Set((bound,)))
        case "=":
            return Set((bound,))
    raise NotASet


def _interval(low: Node, low_closed: bool, high: Node, high_closed: bool) -> Node:
    return Tuple("[" if low_closed else "(", (low, high), "]" if high_closed else ")")


def equal(a: Node, b: Node) -> bool:
    """Returns whether two set expressions denote the same set of reals.

    Raises:
      NotASet: if one of them is not a set, or has an end point that is not a real constant.
    """
    ends: list[Node] = []
    _collect(a, ends)
    _collect(b, ends)
    line = _Line(ends)
    return line.cells(a) == line.cells(b)


def _collect(node: Node, ends: list[Node]) -> None:
    """Appends the end points and elements of a set expression."""
    match node:
        case Tuple(items=(_, _) as items) | Set(items):
            ends.extend(items)
        case Union(parts) | Intersection(parts):
            for part in parts:
                _collect(part, ends)
        case Difference(left, right):
            _collect(left, ends)
            _collect(right, ends)
        case Reals() | Empty():
            pass
        case _:
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
            place = approximate(end)
            if place is None:
                raise NotASet
            placed.append((place, end))
        placed.sort(key=lambda pair: pair[0])
        cut = -1
        last: Node | None = None
        for _, end in placed:
            if last is None or not compare_values(end, last).equal:
                cut += 1
                last = end
            self.index[end] = cut
        self.count = cut + 1

    def cells(self, node: Node) -> frozenset[int]:
        match node:
            case Reals():
                return frozenset(range(1, 2 * self.count - 2))
            case Empty():
                return frozenset()
            case Set(items):
                return frozenset(2 * self.index[item] for item in items)
            case Tuple():
                return self._interval_cells(node)
            case Union(parts):
                return frozenset().union(*(self.cells(part) for part in parts))
            case Intersection(parts):
                return frozenset.intersection(*(self.cells(part) for part in parts))
            case Difference(left, right):
                return self.cells(left) - self.cells(right)
        raise NotASet

    def _interval_cells(self, node: Tuple) -> frozenset[int]:
        low, high = (self.index[end] for end in node.items)
        if low > high or (low == high and (node.opening, node.closing) != ("[", "]")):
            # `(2, 2)` is a point, not a way to write the empty set.
            raise NotASet
        cells = set(range(2 * low + 1, 2 * high))
        # Infinity is not a number: a closed bracket beside it is a mistake, not a notation.
        if node.opening == "[":
            if low == 0:
                raise NotASet
            cells.add(2 * low)
        if node.closing == "]":
            if high == self.count - 1:
                raise NotASet
            cells.add(2 * high)
        return frozenset(cells)

"""Plus-minus, percent and degree signs that belong to a whole answer."""

from __future__ import annotations

from restem.verify.answers.latex.nodes import (
    Degree,
    Difference,
    Intersection,
    Negation,
    Node,
    Percent,
    PlusMinus,
    Quantity,
    Set,
    Sum,
    Tuple,
    Union,
)

SIGNS: tuple[type[Percent] | type[Degree], ...] = (Percent, Degree)


def choose_signs(node: Node, sign: int) -> Node:
    """Returns the node with its double signs resolved to the upper (1) or lower (-1) sign."""
    if isinstance(node, PlusMinus):
        inner = choose_signs(node.value, sign)
        return inner if node.sign * sign > 0 else Negation(inner)
    return node.transform(lambda part: choose_signs(part, sign))


def has_sign(node: Node, kind: type[Percent] | type[Degree]) -> bool:
    """Returns whether a percent or degree sign belongs to the whole of a scalar.

    In `50\\%`, `-45^\\circ` and `30^\\circ+15^\\circ` it does, in `\\sin 45^\\circ` and `1/(4\\%)`
    it does not.
    """
    match node:
        case Percent() | Degree():
            return isinstance(node, kind)
        case Negation(value) | Quantity(value):
            return has_sign(value, kind)
        case Sum(terms):
            return all(has_sign(term, kind) for term in terms)
    return False


def without_sign(node: Node, kind: type[Percent] | type[Degree]) -> Node:
    """Returns the node without the signs that `has_sign` finds, in every part of a set or point."""
    match node:
        case Percent(value) | Degree(value) if isinstance(node, kind):
            return without_sign(value, kind)
        case Sum() if not has_sign(node, kind):
            return node
        case (
            Negation() | Quantity() | Sum() | Tuple() | Set() | Union() | Difference()
            | Intersection()
        ):  # fmt: skip
            return node.transform(lambda part: without_sign(part, kind))
    return node

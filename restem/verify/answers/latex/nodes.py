"""Questions about parsed answers, and rewritings of them that compute nothing."""

from __future__ import annotations

from restem.verify.answers.latex.factors import Node


def variables(node: object) -> set[str]:
    """Names of the variables in a node; "pi", "e" and "i" are not among them."""
    names: set[str] = set()
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            if len(top) == 2 and top[0] == "sym":
                names.add(top[1])
            else:
                stack.extend(top)
    return names


def mentions(node: object, wanted: Node) -> bool:
    stack = [node]
    while stack:
        top = stack.pop()
        if top == wanted:
            return True
        if isinstance(top, tuple):
            stack.extend(top)
    return False


def mentions_kind(node: object, kind: str) -> bool:
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            if top and top[0] == kind:
                return True
            stack.extend(top)
    return False


def grows(node: object) -> bool:
    """Whether variables stand in exponents or in transcendental functions."""
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            if top and top[0] == "pow" and variables(top[2]):
                return True
            if top and top[0] == "fn" and variables(top[2]):
                return True
            stack.extend(top)
    return False


def branches(node: object) -> bool:
    """Whether a function of variables may change its formula with their signs."""
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, tuple):
            if top and top[0] == "pow" and top[2][0] not in ("num", "sym") and variables(top[1]):
                return True
            if top and top[0] == "fn" and top[1] in ("abs", "floor", "ceil", "max", "min"):
                return True
            stack.extend(top)
    return False


def choose_signs(node: Node, sign: int) -> Node:
    """The node with the upper or the lower of its double signs."""
    if node and node[0] == "pm":
        inner = choose_signs(node[2], sign)
        return inner if node[1] * sign > 0 else ("neg", inner)
    return tuple(choose_signs(part, sign) if isinstance(part, tuple) else part for part in node)


def has_sign(node: Node, kind: str) -> bool:
    """Whether a per cent or degree sign (by its node kind) belongs to the whole of a scalar.

    `50\\%`, `-45^\\circ` and `30^\\circ+15^\\circ` do, `\\sin 45^\\circ` and `1/(4\\%)` do not.
    """
    if node[0] == kind:
        return True
    if node[0] in ("neg", "unit"):
        return has_sign(node[1], kind)
    return node[0] == "add" and all(has_sign(term, kind) for term in node[1])


def without_sign(node: Node, kind: str) -> Node:
    """The node without the signs that `has_sign` sees, in every part of a set or a point."""
    if node[0] == kind:
        return without_sign(node[1], kind)
    if node[0] == "add" and not has_sign(node, kind):
        return node
    if node[0] in ("neg", "unit", "add", "tuple", "set", "union", "minus", "cap"):
        return tuple(_without_sign(part, kind) for part in node)
    return node


def _without_sign(part: object, kind: str) -> object:
    """A part of a node: a node, a tuple of nodes, or a bracket."""
    if not isinstance(part, tuple) or not part:
        return part
    if isinstance(part[0], str):
        return without_sign(part, kind)
    return tuple(_without_sign(item, kind) for item in part)


def substitute(node: Node, values: dict[str, Node]) -> Node:
    if node[0] == "sym":
        return values.get(node[1], node)
    if node[0] == "num":
        return node
    return tuple(
        substitute(part, values) if isinstance(part, tuple) and part else part for part in node
    )

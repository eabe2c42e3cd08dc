"""Walks over syntax trees, and rewritings that do not compute."""

from __future__ import annotations

from collections.abc import Mapping

from restem.verify.answers.latex.nodes import (
    BigOperator,
    List,
    Negation,
    Node,
    Number,
    NumberSet,
    Numeral,
    Relation,
    SetBuilder,
    Symbol,
)


def negative(node: Node) -> Node:
    """Returns minus the node; a literal number takes the sign itself."""
    match node:
        case Number(value):
            return Number(-value)
        case Numeral(digits, base) if digits[0] != "-":
            return Numeral("-" + digits, base)
    return Negation(node)


_BINDERS = (BigOperator, SetBuilder)


def walk(node: Node) -> list[Node]:
    """Returns the node and everything below it, each before its children."""
    found = [node]
    for part in found:
        found.extend(part.children())
    return found


def variables(node: Node) -> set[str]:
    """Returns the names of the free variables in a node; pi, e and i are not among them."""
    names = set()
    for part in walk(node):
        if isinstance(part, Symbol):
            names.add(part.name)
        elif isinstance(part, _BINDERS):
            return _free(node)
    return names


def _free(node: Node) -> set[str]:
    match node:
        case Symbol(name):
            return {name}
        case BigOperator(_, index, low, high, body):
            return _free(low) | _free(high) | (_free(body) - {index.name})
        case SetBuilder(variable, domain, conditions):
            inside = set().union(*map(_free, conditions))
            return _free(domain) | (inside - {variable.name})
    return set().union(*map(_free, node.children()))


def mentions(node: Node, wanted: Node) -> bool:
    """Returns whether `wanted` is the node or a part of it."""
    return wanted in walk(node)


def mentions_kind(node: Node, kind: type[Node]) -> bool:
    """Returns whether the node or a part of it is of a kind."""
    return any(isinstance(part, kind) for part in walk(node))


def replace(node: Node, old: Node, new: Node) -> Node:
    """Returns the node with every occurrence of `old` replaced by `new`."""
    return new if node == old else node.transform(lambda part: replace(part, old, new))


def substitute(node: Node, values: Mapping[str, Node]) -> Node:
    """Returns the node with free variables replaced by name; the values have no variables."""
    match node:
        case Symbol(name):
            return values.get(name, node)
        case BigOperator(index=bound) | SetBuilder(variable=bound):
            values = {name: value for name, value in values.items() if name != bound.name}
    return node.transform(lambda part: substitute(part, values))


def with_parameter_of(answer: Node, gold: Node) -> Node:
    """Returns a family of solutions with its integer parameter renamed as in the gold answer."""
    given, wanted = _parameter(answer), _parameter(gold)
    if given is None or wanted is None or given == wanted or mentions(answer, wanted):
        return answer
    return replace(answer, given, wanted)


def _parameter(node: Node) -> Node | None:
    """Returns the n of `2\\pi n, n \\in \\mathbb{Z}`."""
    if isinstance(node, List):
        for item in node.items:
            match item:
                case Relation((Symbol() as name, NumberSet()), ("in",)):
                    return name
    return None

"""Comparison of equations and inequalities with each other, and with values or sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from restem.verify.answers.compare import sets
from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.evaluation import has_base
from restem.verify.answers.compare.values import approximate, compare_values, difference, seeded
from restem.verify.answers.latex.nodes import (
    PI,
    Application,
    Constant,
    Function,
    Inverse,
    List,
    Matrix,
    Node,
    Number,
    PlusMinus,
    Power,
    Product,
    Quantity,
    Ratio,
    Relation,
    Residue,
    Set,
    Symbol,
    Text,
    Tuple,
    Union,
    number,
)
from restem.verify.answers.latex.walks import mentions_kind, substitute, variables
from restem.verify.answers.options import Options
from restem.verify.answers.question import Question

ROUNDING = 0.01
"""Largest relative difference of a number in a chain from the last one, which may be rounded."""

_MIRRORED = {">": "<", ">=": "<="}


class Relations:
    """Compares relations; the given callables compare their sides."""

    def __init__(
        self,
        options: Options,
        question: Question,
        *,
        match: Callable[[Node, Node], Comparison],
        match_rows: Callable[[Sequence[Node], Sequence[Node], str], Comparison],
    ):
        """Args:
        options: the conventions in force.
        question: the question that is answered.
        match: compares two answers or parts of answers.
        match_rows: compares two sequences part by part; the string names their kind.
        """
        self._options = options
        self._question = question
        self._match = match
        self._match_rows = match_rows

    def match(self, answer: Node, gold: Node) -> Comparison:
        """Compares two answers, at least one of which is a relation."""
        if isinstance(answer, Relation) and isinstance(gold, Relation):
            return self._match_both(_ascending(answer), _ascending(gold))
        if isinstance(answer, Relation):
            relation, other = answer, gold
        else:
            assert isinstance(gold, Relation)
            relation, other = gold, answer
        if set(relation.operators) <= {"=", "in"}:
            value = self._labeled(relation)
            if value is None:
                return Comparison(False, "equation", "an equation is not a value")
            return self._match(value, other) if relation is answer else self._match(other, value)
        try:
            solutions = sets.from_relation(relation)
            return _same_set("inequality", solutions, sets.from_answer(other))
        except sets.NotASet:
            return Comparison(False, "inequality", "an inequality is not a value")

    def _labeled(self, relation: Relation) -> Node | None:
        """Returns the value that `x = 5`, `f(x) = 5` or `\\frac12 + \\frac13 = \\frac56` give."""
        if not self._options.labels:
            return None
        first, last = relation.sides[0], relation.sides[-1]
        if relation.operators[-1] == "in":
            return last if isinstance(first, Symbol) else None
        if is_label(first.value if isinstance(first, Quantity) else first):
            several = isinstance(last, List | Set | Tuple | Matrix | Symbol | Text)
            if isinstance(first, Tuple) and not several:
                return None
            return last if self._is_true_chain(relation) else None
        match first:
            case Power(Symbol(name), Number(power)) if power == -1 and name.isupper():
                # The inverse of a matrix.
                return last if isinstance(last, Matrix) else None
        # What the question asks for may be any expression, as in `a+b+c = 23`. One with a value of
        # its own, as `2+3`, begins a chain.
        has_name = variables(first) or mentions_kind(first, Application)
        if has_name and self._question.states(first) and not self._question.states(relation):
            return last
        if (
            not variables(first)
            and not variables(last)
            # In a chain of numbers, the last one is the answer if the chain is true.
            and all(self._match(side, last).equal for side in relation.sides[:-1])
        ):
            return last
        return None

    def _is_true_chain(self, relation: Relation) -> bool:
        """Returns whether the numbers before the last one of a chain are this number, or close.

        In `x = 4\\pi = 12.57`, the last side is rounded; `x = 4 = 5` does not say which is meant.
        """
        *middle, last = relation.sides[1:]
        if not _is_number(last):
            return True
        for side in middle:
            if not _is_number(side) or has_base(side) or self._match(side, last).equal:
                continue
            a, b = approximate(_value(side)), approximate(_value(last))
            if a is None or b is None or abs(a - b) > ROUNDING * abs(b):
                return False
        return True

    def _match_both(self, answer: Relation, gold: Relation) -> Comparison:
        if set(answer.operators) <= {"="} and set(gold.operators) <= {"="}:
            return self._match_equations(answer, gold)
        if "in" in answer.operators + gold.operators:
            return self._match_membership(answer, gold)
        try:
            if variables(answer) != variables(gold):
                return Comparison(False, "inequality", "another variable")
            return _same_set("inequality", sets.from_relation(answer), sets.from_relation(gold))
        except sets.NotASet:
            pass
        if answer.operators != gold.operators:
            return Comparison(False, "inequality", "other signs")
        result = self._match_rows(answer.sides, gold.sides, "inequality")
        if result.equal or len(answer.sides) != 2:
            return result
        same = self._proportional(answer, gold, positive=answer.operators[0] != "!=")
        return Comparison(same, "inequality", "" if same else "another inequality")

    def _match_membership(self, answer: Relation, gold: Relation) -> Comparison:
        """Compares `x \\in [0,1]` with a membership or with `0 \\le x \\le 1`."""
        if answer.operators == gold.operators == ("in",):
            return self._match_rows(answer.sides, gold.sides, "inequality")
        inside, other = (answer, gold) if "in" in answer.operators else (gold, answer)
        try:
            solutions = sets.from_relation(other)
            return _same_set("inequality", sets.from_answer(inside.sides[-1]), solutions)
        except sets.NotASet:
            return Comparison(False, "inequality", "not comparable as sets of numbers")

    def _match_equations(self, answer: Relation, gold: Relation) -> Comparison:
        if not self._is_true_chain(answer):
            return Comparison(False, "equation", "a chain that is not true")
        answer, gold = _without_middle(answer), _without_middle(gold)
        if not variables(answer) and not variables(gold):
            # `0.56 = 56\\%`: each states one number twice.
            given, wanted = self._labeled(answer), self._labeled(gold)
            if given is not None and wanted is not None:
                return self._match(given, wanted)
        sides = answer.sides + gold.sides
        if len(answer.sides) != 2 or len(gold.sides) != 2 or not all(map(_is_scalar, sides)):
            return self._match_rows(answer.sides, gold.sides, "equation")
        same = self._proportional(answer, gold, positive=False)
        return Comparison(same, "equation", "" if same else "another equation")

    def _proportional(self, answer: Relation, gold: Relation, *, positive: bool) -> bool:
        """Returns whether the differences of the sides are a constant multiple of each other.

        f = c g for a constant c if f(p) g(q) = f(q) g(p) at random points p, q. With `positive`,
        c must be positive, which preserves the direction of an inequality.
        """
        f, g = difference(*answer.sides), difference(*gold.sides)
        names = sorted(variables(g))
        if not names or variables(f) != variables(g):
            return False
        numbers = seeded(f, g)
        point = {name: number(Fraction(numbers.getrandbits(12) + 2, 4099)) for name in names}
        f_there, g_there = substitute(f, point), substitute(g, point)
        log_base = self._options.log_base
        for there in (f_there, g_there):
            if compare_values(there, number(0), log_base=log_base).equal:
                return False
        products = Product((f, g_there)), Product((g, f_there))
        if not compare_values(*products, log_base=log_base).equal:
            return False
        if not positive:
            return True
        left, right = approximate(f_there), approximate(g_there)
        return left is not None and right is not None and left * right > 0


def _same_set(method: str, a: Node, b: Node) -> Comparison:
    same = sets.equal(a, b)
    return Comparison(same, method, "" if same else "another set")


def _ascending(relation: Relation) -> Relation:
    """Returns a chain of inequalities in ascending order."""
    if relation.operators and all(operator in _MIRRORED for operator in relation.operators):
        operators = tuple(_MIRRORED[operator] for operator in reversed(relation.operators))
        return Relation(relation.sides[::-1], operators)
    return relation


def _without_middle(equation: Relation) -> Relation:
    """Returns `y = 2` for `y = 1 + 1 = 2`."""
    if len(equation.sides) > 2 and is_label(equation.sides[0]):
        return Relation((equation.sides[0], equation.sides[-1]), ("=",))
    return equation


def is_label(node: Node) -> bool:
    """Returns whether the left side of an equation only names the value on the right."""
    match node:
        case Symbol() | Application() | Text():
            return True
        case Product(parts) | Tuple(items=parts) | Ratio(parts):
            return all(is_label(part) for part in parts)
        case Inverse(value):
            # The ratio of two segments.
            return is_label(value)
        case Function("abs", (inner,)):
            # The length of a segment or of a vector; `|x| = 5` has two solutions.
            return _is_segment(inner)
        case Power(Symbol("f" | "g" | "h"), Number(power)):
            # A function's inverse.
            return power == -1
        case Constant():
            return node != PI
    return False


def _is_segment(node: Node) -> bool:
    """Returns whether a node names two points or more, or has an accent."""
    match node:
        case Product(parts):
            return all(isinstance(part, Symbol) and part.name[0].isupper() for part in parts)
        case Text(words):
            return words.isupper() and len(words) > 1
        case Symbol(name):
            return ":" in name
    return False


def has_names(items: Sequence[Node]) -> bool:
    """Returns whether each item names its value, and each by another name: `x = 1, y = 2`."""
    return len(_names(items)) == len(items) > 1


def coordinates(items: Sequence[Node]) -> list[Node] | None:
    """Returns the values of `x = 1, y = 2`, which is the point (1, 2); None for other items."""
    names = _names(items)
    letters = [name.name for name in names if isinstance(name, Symbol) and len(name.name) == 1]
    if not has_names(items) or len(letters) < len(items) or letters != sorted(letters):
        return None
    return list(names.values())


def _names(items: Sequence[Node]) -> dict[Node, Node]:
    """Returns the values of the items that name theirs, by name."""
    return {
        item.sides[0]: item.sides[1]
        for item in items
        if isinstance(item, Relation) and item.operators == ("=",) and is_label(item.sides[0])
    }


def _value(node: Node) -> Node:
    return node.value if isinstance(node, Quantity) else node


def _is_number(node: Node) -> bool:
    """Returns whether a node is a number, with or without a unit, that can be computed."""
    value = _value(node)
    return _is_scalar(value) and not (
        variables(value)
        or any(mentions_kind(value, kind) for kind in (Application, PlusMinus, Ratio, Residue))
    )


def _is_scalar(node: Node) -> bool:
    return not isinstance(node, List | Set | Tuple | Matrix | Union | Text | Quantity | Relation)

"""Comparison of parsed answers, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from restem.verify.answers.compare import quantities, relations, sets
from restem.verify.answers.compare.algebra import Oracle
from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.evaluation import has_base, numeral_value
from restem.verify.answers.compare.signs import (
    SIGNS,
    choose_signs,
    has_sign,
    without_sign,
)
from restem.verify.answers.compare.values import approximate, compare_values, difference
from restem.verify.answers.latex.nodes import (
    INFINITY,
    Application,
    BigOperator,
    Constant,
    Degree,
    Difference,
    Empty,
    Function,
    Intersection,
    Inverse,
    List,
    Matrix,
    Negation,
    Node,
    Number,
    NumberSet,
    Numeral,
    Percent,
    PlusMinus,
    Power,
    Product,
    Quantity,
    Ratio,
    Reals,
    Relation,
    Residue,
    Set,
    SetBuilder,
    Sum,
    Symbol,
    Text,
    Tuple,
    Union,
    number,
)
from restem.verify.answers.latex.notation import text_key
from restem.verify.answers.latex.walks import mentions, mentions_kind, variables, with_parameter_of
from restem.verify.answers.options import Options
from restem.verify.answers.question import Question

MAX_LIST = 60
"""Number of elements of the longest list that is compared; all pairs are tried."""

_METHODS = {
    Set: "set", List: "list", Tuple: "tuple", Matrix: "matrix", Text: "text", Ratio: "ratio",
    Numeral: "base", Relation: "equation", Union: "interval", Difference: "interval",
    Reals: "interval",
}  # fmt: skip
"""Names of the method for two equal nodes."""
_NUMBER_SETS = {Union, Difference, Intersection, Reals, NumberSet, SetBuilder, Empty}
_SCALARS = {
    Number, Symbol, Constant, Sum, Product, Inverse, Negation, Power, Function, Application,
    PlusMinus, Percent, Degree, BigOperator,
}  # fmt: skip


class Matcher:
    """Compares two parsed answers under the given options."""

    def __init__(self, options: Options, question: Question, oracle: Oracle | None = None):
        """Args:
        options: what MATH's conventions leave open.
        question: the question that is answered.
        oracle: compares scalars that `compare_values` leaves undecided.
        """
        self.options = options
        self.undecided = False
        """Whether any comparison of scalars was left undecided."""
        self._question = question
        self._oracle = oracle

    def match(self, answer: Node, gold: Node) -> Comparison:
        """Compares two answers or parts of answers, by rules that the gold answer selects."""
        if answer == gold:
            return Comparison(True, _METHODS.get(type(gold), "symbolic"))
        answer, gold = _spread(answer), _spread(gold)
        kinds = {type(answer), type(gold)}
        if kinds <= _SCALARS:
            return self.match_scalars(answer, gold)
        if Relation in kinds:
            # Before quantities: in `x = 5 \\text{ m}` the unit belongs to the right side.
            return relations.Relations(
                self.options, self._question, match=self.match, match_rows=self.match_rows
            ).match(answer, gold)
        if Quantity in kinds:
            return self.match_quantities(answer, gold)
        if Residue in kinds:
            return self.match_residues(answer, gold)
        if kinds & _NUMBER_SETS or (
            kinds <= {Tuple, List, Set} and (sets.is_interval(answer) or sets.is_interval(gold))
        ):
            return self.match_sets(answer, gold)
        if kinds & {List, Set}:
            return self.match_lists(answer, gold)
        if Matrix in kinds:
            return self.match_matrices(answer, gold)
        if Tuple in kinds:
            if isinstance(answer, Tuple) and isinstance(gold, Tuple):
                return self.match_rows(answer.items, gold.items, "tuple")
            return Comparison(False, "tuple", "one is a point, the other is not")
        if Text in kinds:
            same = _word(answer) is not None and _word(answer) == _word(gold)
            return Comparison(same, "text", "" if same else "other words")
        if Numeral in kinds:
            return self.match_numerals(answer, gold)
        if Ratio in kinds:
            return self.match_ratios(answer, gold)
        return Comparison(False, "symbolic", "not comparable")

    # Scalars.

    def match_scalars(self, answer: Node, gold: Node) -> Comparison:
        if self.options.bases != "value" and has_base(answer) and not has_base(gold):
            return Comparison(False, "base", "another base")
        given = [kind for kind in SIGNS if has_sign(answer, kind)]
        wanted = [kind for kind in SIGNS if has_sign(gold, kind)]
        if given and wanted and given != wanted:
            return Comparison(False, "symbolic", "another unit")
        readings = [(answer, gold)]
        for kind, choice in ((Percent, self.options.percent), (Degree, self.options.degrees)):
            if kind not in given and kind not in wanted:
                continue
            bare = [(without_sign(a, kind), without_sign(b, kind)) for a, b in readings]
            if (kind in given and kind in wanted) or choice == "unit":
                readings = bare
            elif choice == "either":
                readings = bare + readings
        detail = ""
        method = "symbolic"
        for a, b in readings:
            if mentions(a, INFINITY) or mentions(b, INFINITY):
                result = self._compare_infinite(a, b)
            else:
                result = self._compare(a, b)
            if result.equal:
                return result
            method = result.method
            detail = detail or result.detail
        return Comparison(False, method, detail or "another value")

    def _compare_infinite(self, answer: Node, gold: Node) -> Comparison:
        if mentions_kind(answer, BigOperator) or mentions_kind(gold, BigOperator):
            # Infinity as a bound of a series.
            return self._compare(answer, gold)
        return Comparison(answer == gold, "symbolic")

    def _compare(self, answer: Node, gold: Node) -> Comparison:
        result = compare_values(answer, gold, log_base=self.options.log_base)
        if result.undecided:
            self.undecided = True
            if self._oracle is not None:
                result = self._oracle(answer, gold)
        tolerance = self.options.relative_tolerance
        if result.equal or not tolerance:
            return result
        a, b = approximate(answer), approximate(gold)
        if a is not None and b and abs(a - b) <= tolerance * abs(b):
            return Comparison(True, "numeric", evidence="equal within the tolerance")
        return result

    def match_residues(self, answer: Node, gold: Node) -> Comparison:
        """Compares residues: equal if the modulus is the same and divides the difference."""
        if not isinstance(answer, Residue) or not isinstance(gold, Residue):
            return Comparison(False, "residue", "one has a modulus, the other has none")
        if not self.match(answer.modulus, gold.modulus).equal:
            return Comparison(False, "residue", "another modulus")
        if self.match(answer.value, gold.value).equal:
            return Comparison(True, "residue")
        quotient = Product((difference(answer.value, gold.value), Inverse(gold.modulus)))
        whole = compare_values(Function("floor", (quotient,)), quotient)
        return Comparison(whole.equal, "residue", "" if whole.equal else "another residue")

    def match_quantities(self, answer: Node, gold: Node) -> Comparison:
        """Compares answers of which at least one has units, or other words after its value."""
        if quantities.is_taken_back(answer):
            return Comparison(False, "text", "the words after the value take it back")
        if self.options.units == "ignore":
            return self.match(*quantities.without_units(answer, gold))
        values = quantities.in_one_unit(answer, gold)
        if values is None:
            return Comparison(False, "symbolic", "another unit")
        return self.match(*values)

    def match_numerals(self, answer: Node, gold: Node) -> Comparison:
        """Compares answers of which at least one states its base."""
        if self.options.bases == "value":
            return self.match_scalars(answer, gold)
        if isinstance(answer, Numeral) and isinstance(gold, Numeral):
            if answer.base != gold.base:
                return Comparison(False, "base", "another base")
            same = numeral_value(answer) == numeral_value(gold)
            return Comparison(same, "base", "" if same else "another number")
        if not isinstance(gold, Numeral) or gold.base == 10:
            return self.match_scalars(answer, gold)
        if self.options.bases == "required" or not isinstance(answer, Number):
            return Comparison(False, "base", "no base given")
        # Compares the digits as written, read in base ten on both sides.
        plain = gold.digits.strip("-").replace(".", "").isdigit()
        same = plain and Fraction(gold.digits) == answer.value
        return Comparison(same, "base", "" if same else "other digits, and no base given")

    def match_ratios(self, answer: Node, gold: Node) -> Comparison:
        """Compares answers of which at least one is a ratio."""
        if isinstance(answer, Ratio) and isinstance(gold, Ratio):
            if self.options.lowest_terms and len(answer.parts) == len(gold.parts):
                # a : b : ... equals c : d : ... if a d = b c, and so on, where a and c are not 0.
                for a, c in zip(answer.parts, gold.parts, strict=True):
                    if compare_values(a, number(0)).equal or compare_values(c, number(0)).equal:
                        continue
                    crosswise = [Product((part, c)) for part in answer.parts]
                    other = [Product((part, a)) for part in gold.parts]
                    return self.match_rows(crosswise, other, "ratio")
            return self.match_rows(answer.parts, gold.parts, "ratio")
        parts = next(node.parts for node in (answer, gold) if isinstance(node, Ratio))
        if not self.options.ratios or len(parts) != 2:
            return Comparison(False, "ratio", "one is a ratio, the other is not")
        result = self.match_scalars(answer, gold)
        return dataclasses.replace(result, method="ratio")

    # Several parts.

    def match_rows(self, answers: Sequence[Node], golds: Sequence[Node], method: str) -> Comparison:
        """Compares two sequences part by part, in order."""
        if len(answers) != len(golds):
            return Comparison(False, method, "another number of parts")
        evidence = ""
        for index, (a, b) in enumerate(zip(answers, golds, strict=True)):
            result = self.match(a, b)
            if not result.equal:
                return Comparison(False, method, f"part {index + 1}: {result.detail}")
            evidence = evidence or result.evidence
        return Comparison(True, method, evidence=evidence)

    def match_lists(self, answer: Node, gold: Node) -> Comparison:
        """Compares lists or sets, ignoring order; braces and bare lists are interchangeable."""
        match answer, gold:
            case (Tuple(items=given), List(wanted)) | (List(given), Tuple(items=wanted)) if (
                self.options.bare_lists
            ):
                return self.match_rows(given, wanted, "tuple")
            case (List(), Tuple()) | (Tuple(), List()) if sets.are_inequalities(
                answer
            ) or sets.are_inequalities(gold):
                return self.match_sets(answer, gold)
            case (List(), List()) if (
                answer.joined != gold.joined
                and sets.are_inequalities(answer)
                and sets.are_inequalities(gold)
                and len(variables(answer) | variables(gold)) == 1
            ):
                return self.match_sets(answer, gold)
            case Tuple("(", items, ")"), List(named) if values := relations.coordinates(named):
                return self.match_rows(items, values, "tuple")
            case List(named), Tuple("(", items, ")") if values := relations.coordinates(named):
                return self.match_rows(values, items, "tuple")
            case (Tuple(), _) | (_, Tuple()):
                return Comparison(False, "list", "one is a list, the other a point")
        answer = with_parameter_of(answer, gold)
        method = "set" if isinstance(answer, Set) or isinstance(gold, Set) else "list"
        answers, golds = _elements(answer), _elements(gold)
        if max(len(answers), len(golds)) > MAX_LIST:
            return Comparison(False, method, "too many parts")
        if method == "list" and self.options.multiplicity:
            return self._match_counted(answers, golds)
        met = set()
        for a in answers:
            index = next((i for i, b in enumerate(golds) if self.match(a, b).equal), None)
            if index is None:
                return Comparison(False, method, "a part that is not in the gold answer")
            met.add(index)
        for index, b in enumerate(golds):
            if index not in met and not any(self.match(a, b).equal for a in answers):
                return Comparison(False, method, "a part is missing")
        return Comparison(True, method)

    def _match_counted(self, answers: Sequence[Node], golds: Sequence[Node]) -> Comparison:
        """Compares lists in which repeated elements count."""
        if len(answers) != len(golds):
            return Comparison(False, "list", "another number of parts")
        if relations.has_names(golds) and not relations.has_names(answers):
            return self.match_rows(answers, golds, "list")
        # Equality is transitive, so taking the first partner that fits loses nothing.
        free = list(golds)
        for a in answers:
            for index, b in enumerate(free):
                if self.match(a, b).equal:
                    del free[index]
                    break
            else:
                return Comparison(False, "list", "a part that is not in the gold answer")
        return Comparison(True, "list")

    def match_matrices(self, answer: Node, gold: Node) -> Comparison:
        if isinstance(answer, Matrix) and isinstance(gold, Matrix):
            if len(answer.rows) != len(gold.rows):
                return Comparison(False, "matrix", "another shape")
            for a, b in zip(answer.rows, gold.rows, strict=True):
                result = self.match_rows(a, b, "matrix")
                if not result.equal:
                    return result
            return Comparison(True, "matrix")
        # A vector may be written as a point; only its entries are compared.
        given, wanted = _entries(answer), _entries(gold)
        if given is None or wanted is None:
            return Comparison(False, "matrix", "one is a matrix, the other is not")
        return self.match_rows(given, wanted, "matrix")

    def match_sets(self, answer: Node, gold: Node) -> Comparison:
        try:
            same = sets.equal(sets.from_answer(answer), sets.from_answer(gold))
        except sets.NotASet:
            # End points with variables: the intervals must be the same, in the same order.
            match answer, gold:
                case Tuple(opening, items, closing), Tuple(left, golds, right):
                    if (opening, closing) != (left, right):
                        return Comparison(False, "interval", "other brackets")
                    return self.match_rows(items, golds, "interval")
            return Comparison(False, "interval", "not comparable as sets of numbers")
        return Comparison(same, "interval", "" if same else "another set")


def _word(node: Node) -> str | None:
    """Returns a node as a word, if it can be read as one."""
    match node:
        case Text(words):
            return text_key(words)
        case Symbol(name):
            return name.casefold()
        case Constant(name):
            return name
        case Product(factors):
            names = [part.name for part in factors if isinstance(part, Symbol | Constant)]
            return "".join(names).casefold() if len(names) == len(factors) else None
    return None


def _elements(node: Node) -> list[Node]:
    """Returns the elements of a list or set; for any other node, the node itself."""
    if not isinstance(node, List | Set):
        return [node]
    elements: list[Node] = []
    for item in node.items:
        spread = _spread(item)
        elements.extend(spread.items if isinstance(spread, List) else [spread])
    return elements


def _spread(node: Node) -> Node:
    """Returns `1 \\pm \\sqrt 2` as the list of both values, with their unit and label.

    In `(\\pm 3, \\mp 4)` all upper signs belong together, so it is `(3, -4), (-3, 4)`.
    """
    inner = node.value if isinstance(node, Quantity) else node
    if not isinstance(
        inner,
        Sum | Product | PlusMinus | Negation | Power | Function | Relation | Tuple | Matrix,
    ) or not mentions_kind(inner, PlusMinus):
        return node
    if isinstance(inner, Relation) and (
        inner.operators != ("=",) or not relations.is_label(inner.sides[0])
    ):
        return node
    return List((choose_signs(node, 1), choose_signs(node, -1)))


def _entries(node: Node) -> tuple[Node, ...] | None:
    """Returns the entries of a vector, or None if the node is not a vector."""
    match node:
        case Tuple("(", items, ")"):
            return items
        case Matrix((row,)):
            return row
        case Matrix(rows) if all(len(row) == 1 for row in rows):
            return tuple(row[0] for row in rows)
    return None

"""Compares parsed answers part by part."""

from __future__ import annotations

from fractions import Fraction

from restem.verify.answers.compare import sets as math_sets
from restem.verify.answers.compare import values as math_values
from restem.verify.answers.compare.evaluation import base_value
from restem.verify.answers.latex import notation as math_notation
from restem.verify.answers.latex.factors import Node
from restem.verify.answers.latex.nodes import (
    choose_signs,
    has_sign,
    mentions,
    mentions_kind,
    substitute,
    variables,
    without_sign,
)
from restem.verify.answers.options import Options

MAX_LIST = 60
_SIGNS = ("percent", "degree")


Result = tuple[bool, str, str]


class Matcher:
    """Compares parsed answers under given options."""

    def __init__(self, options: Options):
        self.options = options

    def match(self, answer: Node, gold: Node) -> Result:
        if answer == gold:
            return True, _name(gold), ""
        answer, gold = _spread(answer), _spread(gold)
        if answer[0] == "unit" or gold[0] == "unit":
            return self.match_units(answer, gold)
        if answer[0] == "rel" or gold[0] == "rel":
            return self.match_relations(answer, gold)
        kinds = {answer[0], gold[0]}
        if kinds & {"union", "minus", "cap", "reals", "empty"} or (
            kinds <= {"tuple", "list", "set"}
            and (math_sets.is_interval(answer) or math_sets.is_interval(gold))
        ):
            return self.match_sets(answer, gold)
        if "list" in kinds or "set" in kinds:
            return self.match_lists(answer, gold)
        if "matrix" in kinds:
            return self.match_matrices(answer, gold)
        if "tuple" in kinds:
            if answer[0] != gold[0]:
                return False, "tuple", "one is a point, the other is not"
            return self.match_rows(answer[2], gold[2], "tuple")
        if "text" in kinds:
            same = _word(answer) is not None and _word(answer) == _word(gold)
            return same, "text", "" if same else "other words"
        if "base" in kinds:
            return self.match_bases(answer, gold)
        if "ratio" in kinds:
            return self.match_ratios(answer, gold)
        return self.match_scalars(answer, gold)

    # Scalars.

    def match_scalars(self, answer: Node, gold: Node) -> Result:
        signs = [{kind for kind in _SIGNS if has_sign(node, kind)} for node in (answer, gold)]
        if signs[0] and signs[1] and signs[0] != signs[1]:
            return False, "symbolic", "another unit"
        readings = [(answer, gold)]
        for kind, choice in (("percent", self.options.percent), ("degree", self.options.degrees)):
            given, wanted = kind in signs[0], kind in signs[1]
            if given and wanted:
                readings = [(without_sign(a, kind), without_sign(b, kind)) for a, b in readings]
            elif given or wanted:
                bare = [(without_sign(a, kind), without_sign(b, kind)) for a, b in readings]
                if choice == "unit":
                    readings = bare
                elif choice == "either":
                    readings = bare + readings
        detail = ""
        method = "symbolic"
        for a, b in readings:
            if _infinite(a) or _infinite(b):
                result = math_values.Comparison(a == b, "symbolic")
            else:
                result = math_values.compare_values(a, b, log_base=self.options.log_base)
            method = result.method
            if result.equal:
                return True, result.method, "" if result.proved else "equal to 300 bits and more"
            detail = detail or result.detail
        return False, method, detail or "another value"

    def match_units(self, answer: Node, gold: Node) -> Result:
        given = answer[2] if answer[0] == "unit" else ()
        wanted = gold[2] if gold[0] == "unit" else ()
        a = answer[1] if given else answer
        b = gold[1] if wanted else gold
        if wanted and not given:
            a = _without_letter_unit(a, wanted)
        elif given and not wanted:
            b = _without_letter_unit(b, given)
        if self.options.units == "check":
            mine = [found for words, power in given if (found := math_notation.unit(words, power))]
            theirs = [found for w, power in wanted if (found := math_notation.unit(w, power))]
            for units, other in ((mine, gold), (theirs, answer)):
                if units and any(has_sign(other, kind) for kind in _SIGNS):
                    return False, "symbolic", "another unit"
            if len(mine) == 1 and len(theirs) == 1:
                if mine[0][0] != theirs[0][0]:
                    return False, "symbolic", "another unit"
                if mine[0][1] != theirs[0][1]:
                    a = ("mul", (a, ("num", Fraction(mine[0][1]))))
                    b = ("mul", (b, ("num", Fraction(theirs[0][1]))))
        return self.match(a, b)

    def match_bases(self, answer: Node, gold: Node) -> Result:
        if self.options.bases == "value":
            return self.match_scalars(answer, gold)
        if answer[0] == gold[0] == "base":
            if answer[2] != gold[2]:
                return False, "base", "another base"
            same = base_value(answer) == base_value(gold)
            return same, "base", "" if same else "another number"
        if answer[0] == "base" or gold[2] == 10:
            return self.match_scalars(answer, gold)
        if self.options.bases == "required" or answer[0] != "num":
            return False, "base", "no base given"
        # The digits as written, read in base ten on both sides.
        digits = gold[1]
        same = digits.strip("-").replace(".", "").isdigit() and Fraction(digits) == answer[1]
        return same, "base", "" if same else "other digits, and no base given"

    def match_ratios(self, answer: Node, gold: Node) -> Result:
        if answer[0] == gold[0]:
            return self.match_rows(answer[1], gold[1], "ratio")
        ratio = answer if answer[0] == "ratio" else gold
        if not self.options.ratios or len(ratio[1]) != 2:
            return False, "ratio", "one is a ratio, the other is not"
        equal, _, detail = self.match_scalars(answer, gold)
        return equal, "ratio", detail

    # Several parts.

    def match_rows(self, answers: tuple[Node, ...], golds: tuple[Node, ...], name: str) -> Result:
        """Part by part, in order."""
        if len(answers) != len(golds):
            return False, name, "another number of parts"
        for index, (a, b) in enumerate(zip(answers, golds, strict=True)):
            equal, _, detail = self.match(a, b)
            if not equal:
                return False, name, f"part {index + 1}: {detail}"
        return True, name, ""

    def match_lists(self, answer: Node, gold: Node) -> Result:
        """Without order; braces and bare lists may stand for each other."""
        if "tuple" in (answer[0], gold[0]):
            if not self.options.bare_lists or "set" in (answer[0], gold[0]):
                return False, "list", "one is a list, the other a point"
            parts = [node[2] if node[0] == "tuple" else node[1] for node in (answer, gold)]
            return self.match_rows(parts[0], parts[1], "tuple")
        name = "set" if "set" in (answer[0], gold[0]) else "list"
        parts = []
        for node in (answer, gold):
            parts.append(_items(node) if node[0] in ("list", "set") else [node])
        answers, golds = parts
        if max(len(answers), len(golds)) > MAX_LIST:
            return False, name, "too many parts"
        counted = name == "list" and self.options.multiplicity
        if counted and len(answers) != len(golds):
            return False, name, "another number of parts"
        # Equality is transitive, so taking the first partner that fits loses nothing.
        free = list(range(len(golds)))
        hit = set()
        for a in answers:
            for index in free:
                if self.match(a, golds[index])[0]:
                    hit.add(index)
                    if counted:
                        free.remove(index)
                    break
            else:
                return False, name, "a part that is not in the gold answer"
        if not counted:
            for index in free:
                if index not in hit and not any(self.match(a, golds[index])[0] for a in answers):
                    return False, name, "a part is missing"
        return True, name, ""

    def match_matrices(self, answer: Node, gold: Node) -> Result:
        rows = [node[1] if node[0] == "matrix" else _as_column(node) for node in (answer, gold)]
        if rows[0] is None or rows[1] is None:
            return False, "matrix", "one is a matrix, the other is not"
        if answer[0] != gold[0]:
            # A vector may be written as a point; then only its entries count.
            flat = [_flat(r) for r in rows]
            if flat[0] is None or flat[1] is None:
                return False, "matrix", "one is a matrix, the other is not"
            return self.match_rows(flat[0], flat[1], "matrix")
        if len(rows[0]) != len(rows[1]):
            return False, "matrix", "another shape"
        for a, b in zip(rows[0], rows[1], strict=True):
            result = self.match_rows(a, b, "matrix")
            if not result[0]:
                return result
        return True, "matrix", ""

    def match_sets(self, answer: Node, gold: Node) -> Result:
        try:
            same = math_sets.equal(_plain(answer), _plain(gold))
        except math_sets.NotASet:
            # End points with variables: the same intervals in the same order.
            if answer[0] == gold[0] == "tuple":
                if (answer[1], answer[3]) != (gold[1], gold[3]):
                    return False, "interval", "other brackets"
                return self.match_rows(answer[2], gold[2], "interval")
            return False, "interval", "not comparable as sets of numbers"
        return same, "interval", "" if same else "another set"

    # Relations.

    def match_relations(self, answer: Node, gold: Node) -> Result:
        if answer[0] == gold[0] == "rel":
            return self.match_both_relations(answer, gold)
        relation, other = (answer, gold) if answer[0] == "rel" else (gold, answer)
        operators = set(relation[2])
        if operators <= {"=", "in"}:
            value = self.labelled(relation)
            if value is None:
                return False, "equation", "an equation is not a value"
            return self.match(value, gold) if relation is answer else self.match(answer, value)
        try:
            as_set = math_sets.from_relation(relation)
            if other[0] == "list":
                other = math_sets.from_relation(other)
            same = math_sets.equal(as_set, _plain(other))
        except math_sets.NotASet:
            return False, "inequality", "an inequality is not a value"
        return same, "inequality", "" if same else "another set"

    def labelled(self, relation: Node) -> Node | None:
        """What `x = 5`, `f(x) = 5` or `\\frac12 + \\frac13 = \\frac56` say the answer is."""
        first, last = relation[1][0], relation[1][-1]
        if not self.options.labels:
            return None
        if relation[2][-1] == "in":
            return last if first[0] == "sym" else None
        if first[0] == "unit":
            first = first[1]
        if _is_label(first):
            return last
        if not variables(first) and not variables(last):
            # A chain of numbers: the last is the answer, if the chain is true.
            whole = relation[1]
            if all(self.match(side, last)[0] for side in whole[:-1]):
                return last
        return None

    def match_both_relations(self, answer: Node, gold: Node) -> Result:
        a, b = _ordered(answer), _ordered(gold)
        if set(a[2]) <= {"="} and set(b[2]) <= {"="}:
            return self.match_equations(a, b)
        if "in" in a[2] + b[2]:
            if a[2] == b[2] == ("in",):
                return self.match_rows(a[1], b[1], "inequality")
            inside, other = (a, b) if "in" in a[2] else (b, a)
            try:
                same = math_sets.equal(_plain(inside[1][-1]), math_sets.from_relation(other))
            except math_sets.NotASet:
                return False, "inequality", "not comparable as sets of numbers"
            return same, "inequality", "" if same else "another set"
        try:
            same = variables(a) == variables(b) and math_sets.equal(
                math_sets.from_relation(a), math_sets.from_relation(b)
            )
            return same, "inequality", "" if same else "another set"
        except math_sets.NotASet:
            pass
        if a[2] != b[2]:
            return False, "inequality", "other signs"
        result = self.match_rows(a[1], b[1], "inequality")
        if result[0] or len(a[1]) != 2:
            return result
        same = self.proportional(a, b, positive=a[2][0] != "!=")
        return same, "inequality", "" if same else "another inequality"

    def match_equations(self, a: Node, b: Node) -> Result:
        if len(a[1]) > 2 and _is_label(a[1][0]):
            a = ("rel", (a[1][0], a[1][-1]), ("=",))
        if len(b[1]) > 2 and _is_label(b[1][0]):
            b = ("rel", (b[1][0], b[1][-1]), ("=",))
        if not variables(a) and not variables(b):
            # `0.56 = 56\%`: each says one number twice.
            values = self.labelled(a), self.labelled(b)
            if None not in values:
                return self.match(*values)
        scalar = all(_is_scalar(side) for side in a[1] + b[1])
        if len(a[1]) != 2 or len(b[1]) != 2 or not scalar:
            return self.match_rows(a[1], b[1], "equation")
        same = self.proportional(a, b, positive=False)
        return same, "equation", "" if same else "another equation"

    def proportional(self, a: Node, b: Node, *, positive: bool) -> bool:
        """Whether the two relations' differences of sides are a constant multiple of each other.

        f = c g for a constant c if f(p) g(q) = f(q) g(p) at random points p, q. With `positive`
        c must be so, which keeps the sense of an inequality.
        """
        f, g = (math_values.difference(node[1][0], node[1][1]) for node in (a, b))
        if variables(f) != variables(g):
            return False
        names = sorted(variables(g))
        if not names:
            return False
        numbers = math_values.seeded(f, g)
        fixed = {name: ("num", Fraction(numbers.getrandbits(12) + 2, 4099)) for name in names}
        f_there, g_there = substitute(f, fixed), substitute(g, fixed)
        zero: Node = ("num", Fraction(0))
        for there in (f_there, g_there):
            if math_values.compare_values(there, zero, log_base=self.options.log_base).equal:
                return False
        result = math_values.compare_values(
            ("mul", (f, g_there)), ("mul", (g, f_there)), log_base=self.options.log_base
        )
        if not result.equal or not positive:
            return result.equal
        signs = [math_values.approximate(there) for there in (f_there, g_there)]
        return None not in signs and signs[0] * signs[1] > 0


def _word(node: Node) -> str | None:
    """A node as a word, where it may be one."""
    if node[0] == "text":
        return math_notation.text_key(node[1])
    if node[0] == "sym":
        return node[1].casefold()
    if node[0] == "const":
        return node[1]
    if node[0] == "mul" and all(factor[0] in ("sym", "const") for factor in node[1]):
        return "".join(factor[1] for factor in node[1]).casefold()
    return None


def _name(node: Node) -> str:
    kind = node[0]
    names = {"rel": "equation", "union": "interval", "minus": "interval", "reals": "interval"}
    if kind in ("list", "set", "tuple", "matrix", "text", "base", "ratio"):
        return kind
    return names.get(kind, "symbolic")


def _items(node: Node) -> list[Node]:
    items: list[Node] = []
    for item in node[1]:
        spread = _spread(item)
        items.extend(spread[1] if spread[0] == "list" else [spread])
    return items


def _spread(node: Node) -> Node:
    """`1 \\pm \\sqrt 2` as the list of both values."""
    inner = node[1] if node[0] == "unit" else node
    if inner[0] not in (
        "add",
        "mul",
        "pm",
        "neg",
        "pow",
        "fn",
        "rel",
    ) or not mentions_kind(inner, "pm"):
        return node
    if inner[0] == "rel":
        if inner[2] != ("=",) or not _is_label(inner[1][0]):
            return node
        inner = inner[1][1]
    return ("list", (choose_signs(inner, 1), choose_signs(inner, -1)))


def _infinite(node: Node) -> bool:
    return mentions(node, math_sets.INFINITY)


def _without_letter_unit(node: Node, wanted: tuple[tuple[str, int], ...]) -> Node:
    """`144 m^3` written without \\text: its last factor is the unit that the gold answer names."""
    if node[0] != "mul" or not wanted:
        return node
    last = node[1][-1]
    base = last[1] if last[0] == "pow" else last
    if base != ("sym", wanted[0][0].strip()) or len(variables(node)) != 1:
        return node
    power = last[2] if last[0] == "pow" else ("num", Fraction(1))
    if power != ("num", Fraction(wanted[0][1])):
        return node
    return node[1][0] if len(node[1]) == 2 else ("mul", node[1][:-1])


def _plain(node: Node) -> Node:
    """A set expression whose parts have no units or signs of their own."""
    if node[0] == "unit":
        return _plain(node[1])
    if node[0] == "list":
        return math_sets.from_relation(node)
    return without_sign(without_sign(node, "degree"), "percent")


def _as_column(node: Node) -> tuple[tuple[Node, ...], ...] | None:
    if node[0] == "tuple" and node[1] == "(" and node[3] == ")":
        return tuple((item,) for item in node[2])
    return None


def _flat(rows: tuple[tuple[Node, ...], ...]) -> tuple[Node, ...] | None:
    if len(rows) == 1:
        return rows[0]
    return tuple(row[0] for row in rows) if all(len(row) == 1 for row in rows) else None


def _is_label(node: Node) -> bool:
    """Whether the left side of an equation only names what the right side is."""
    kind = node[0]
    if kind in ("sym", "app", "text"):
        return True
    if kind in ("mul", "tuple"):
        return all(_is_label(part) for part in node[1 if kind == "mul" else 2])
    # The measure of an angle or of a segment, a function's inverse.
    if kind == "fn" and node[1] == "abs":
        return _is_label(node[2][0])
    if kind == "pow" and node[1][0] == "sym":
        return node[2] == ("neg", ("num", Fraction(1))) or node[2] == ("num", Fraction(-1))
    return kind == "const" and node[1] != "pi"


def _is_scalar(node: Node) -> bool:
    return node[0] not in ("list", "set", "tuple", "matrix", "union", "text", "unit", "rel")


def _ordered(node: Node) -> Node:
    """A chain of inequalities read from the small end to the large one."""
    mirrored = {">": "<", ">=": "<="}
    if node[2] and all(operator in mirrored for operator in node[2]):
        operators = tuple(mirrored[operator] for operator in reversed(node[2]))
        return ("rel", tuple(reversed(node[1])), operators)
    return node

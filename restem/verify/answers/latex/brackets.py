"""A reader of delimited expressions: brackets, groups, sets, absolute values and matrices."""

from __future__ import annotations

from collections.abc import Callable

from restem.verify.answers.latex.cursor import Cursor
from restem.verify.answers.latex.nodes import (
    NUMBER_SETS,
    Empty,
    Function,
    List,
    Matrix,
    Node,
    Reals,
    Set,
    SetBuilder,
    Symbol,
    Tuple,
)
from restem.verify.answers.latex.notation import ROW
from restem.verify.answers.latex.tokens import ParseError

_CLOSERS = {"(": ")]", "[": "])"}
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix"))


class Brackets:
    """Reads delimiters; the given callables read what is between them."""

    def __init__(
        self,
        cursor: Cursor,
        *,
        items: Callable[[], list[Node]],
        item: Callable[[], Node],
        sum: Callable[[], Node],
    ):
        """Args:
        cursor: the position, shared with the other readers.
        items: reads a comma-separated list, one element or more.
        item: reads one element of such a list.
        sum: reads a sum without relations.
        """
        self._cursor = cursor
        self._items = items
        self._item = item
        self._sum = sum
        self._bars = 0
        self._no_builders: set[int] = set()
        """Positions where no set builder starts, so that nested ones are read twice at most."""

    @property
    def bar_opens(self) -> bool:
        """Whether `|` opens an absolute value here rather than closing one."""
        return not self._bars

    def listing(self) -> Node:
        """Reads a comma-separated list; a single element is not made a list."""
        items = self._items()
        return items[0] if len(items) == 1 else List(tuple(items))

    def group(self) -> Node:
        """Reads `{...}`."""
        cursor = self._cursor
        cursor.expect("{")
        if cursor.is_op("}"):
            # `{}^2`, or an empty group used as a spacer.
            raise ParseError("an empty group")
        bars, self._bars = self._bars, 0
        node = self.listing()
        if cursor.is_cmd("choose"):
            cursor.take()
            node = Function("binom", (node, self.listing()))
        self._bars = bars
        cursor.expect("}")
        return node

    def bracket(self) -> Node:
        """Reads `(...)` or `[...]`, or a half-open interval."""
        cursor = self._cursor
        opening = cursor.take().value
        bars, self._bars = self._bars, 0
        items = self._items()
        self._bars = bars
        if not cursor.is_op(*_CLOSERS[opening]):
            raise ParseError("an open bracket")
        closing = cursor.take().value
        if len(items) == 1:
            if _CLOSERS[opening][0] != closing:
                raise ParseError("brackets that do not match")
            return items[0]
        return Tuple(opening, tuple(items), closing)

    def absolute(self) -> Node:
        """Reads `|...|`."""
        self._cursor.take()
        self._bars += 1
        inner = self._sum()
        self._bars -= 1
        self._cursor.expect("|")
        return Function("abs", (inner,))

    def rounded(self, name: str) -> Node:
        """Reads the rest of `\\lfloor ... \\rfloor` or `\\lceil ... \\rceil`."""
        inner = self._sum()
        self._cursor.expect_cmd("r" + name, "an open floor or ceiling")
        return Function(name, (inner,))

    def set(self) -> Node:
        """Reads the rest of `\\{...\\}`."""
        cursor = self._cursor
        builder = self._set_builder()
        if builder is not None:
            return builder
        items = [] if cursor.is_cmd("}") else self._items()
        cursor.expect_cmd("}", "an open set")
        return Set(tuple(items)) if items else Empty()

    def _set_builder(self) -> Node | None:
        """Reads `x \\mid x > 2\\}`, `x \\in \\mathbb{Z} : x > 2\\}` or nothing."""
        cursor = self._cursor
        mark = cursor.at
        if cursor.token.kind != "sym" or mark in self._no_builders:
            return None
        variable = Symbol(cursor.take().value)
        domain: Node = Reals()
        if cursor.is_cmd("in"):
            cursor.take()
            self._bars += 1
            domain = self._sum()
            self._bars -= 1
            if isinstance(domain, Symbol):
                domain = NUMBER_SETS.get(domain.name, domain)
        if not cursor.is_op("|", ":"):
            self._no_builders.add(mark)
            cursor.move(mark)
            return None
        start = cursor.at
        cursor.take()
        conditions = tuple(self._items())
        words = {token.value for token in cursor.tokens[start : cursor.at] if token.kind == "sep"}
        if "or" in words and len(words) > 1:
            raise ParseError("conditions joined in two ways")
        cursor.expect_cmd("}", "an open set")
        return SetBuilder(variable, domain, conditions, words == {"or"})

    def vector(self) -> Node:
        """Reads the rest of `\\langle ... \\rangle`."""
        items = self._items()
        self._cursor.expect_cmd("rangle", "an open vector")
        return Tuple("(", tuple(items), ")")

    def matrix(self) -> Node:
        """Reads the rest of an environment after `\\begin`."""
        cursor = self._cursor
        name = cursor.environment_name()
        if name == "array":
            cursor.environment_name()
        elif name not in _MATRICES:
            raise ParseError(f"an unknown environment {name}")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while not cursor.is_cmd("end"):
            row.append(self._item())
            if cursor.is_op("&"):
                cursor.take()
            elif cursor.is_op(ROW):
                cursor.take()
                rows.append(tuple(row))
                row = []
            elif not cursor.is_cmd("end"):
                raise ParseError("a broken matrix")
        if row:
            rows.append(tuple(row))
        cursor.take()
        if cursor.environment_name() != name:
            raise ParseError("environments that do not match")
        if len({len(row) for row in rows}) != 1:
            raise ParseError("rows of unlike length")
        return Matrix(tuple(rows))

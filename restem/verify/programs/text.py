"""Extraction of the program from a model's text."""

from __future__ import annotations

import ast
import bisect
import re
import warnings
from collections.abc import Sequence, Set

MODES = ("completion", "fenced", "auto")
_FENCE = re.compile(
    # Possessive, since an unclosed fence would otherwise take quadratic time.
    r"^([ \t]*+(?:(?:[-*+]|\d{1,9}[.)])[ \t]++)*+)"  # also right after the mark of a list's item
    r"(`{3,}+|~{3,}+)[ \t]*+([\w+.-]*+)[^\n`]*+\n(.*?)(?:^[ \t]*+\2[ \t]*+$|\Z)",
    re.M | re.S,
)
_OPENING = re.compile(r"\s*+(`{3,}+|~{3,}+)[ \t]*+[\w+.-]*+[^\n`]*+\n")
_CLOSING = re.compile(r"^[ \t]*+(?:```|~~~)", re.M)
_TAB = 4
"""Columns to the next stop of a tab in Markdown."""
_CUTS = 20
"""Maximum number of places that are tried as the beginning of prose after a program."""
_PYTHON_LABELS = frozenset({"python", "python3", "py", "py3"})


def compiles(source: str) -> bool:
    """Returns whether the syntax of `source` is that of a Python program."""
    return isinstance(_parse(source), ast.Module)


def _parse(source: str) -> ast.Module | int:
    """Returns the syntax tree, or the line (from 1) at which `source` stops being Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return source.count("\n") + 1


def extract_program(
    text: str, mode: str = "completion", *, stop: Sequence[str] = (), defines: Sequence[str] = ()
) -> str | None:
    """Returns the program in a model's text, or None if it has none.

    `completion`: the text is the program; it ends at the first of the `stop` strings, at a
    closing fence, or before prose that does not parse. `fenced`: the program is in a Markdown
    block, with the indentation of its fence removed. Of several blocks, it is that which defines
    the most of the names `defines`, then one with the label of Python rather than with none, then
    one that does something rather than one that only shows values, then one that parses, then the
    last; a block that was cut off counts. `auto`: `fenced` if there is a block, else `completion`.

    Raises:
      ValueError: `mode` is none of these.
    """
    if mode not in MODES:
        raise ValueError(f"extraction mode {mode!r}: use one of {', '.join(MODES)}")
    text = text.replace("\r\n", "\n")
    if mode == "completion":
        return _completion(text, stop)
    blocks = [
        _Block(label.lower() in _PYTHON_LABELS, _without(before, block))
        for before, _, label, block in (match.groups() for match in _FENCE.finditer(text))
        if not label or label.lower() in _PYTHON_LABELS
    ]
    if not blocks:
        return _completion(text, stop) if mode == "auto" else None
    names = frozenset(defines)
    best = max(enumerate(blocks), key=lambda pair: (*pair[1].worth(names), pair[0]))[1]
    return best.text if best.text.strip() else None


class _Block:
    """A Markdown block that may be the program."""

    def __init__(self, labelled: bool, text: str):
        self.labelled = labelled
        self.text = text
        self._tree = _parse(text)

    def worth(self, names: Set[str]) -> tuple[int, bool, bool, bool]:
        """Returns what decides between blocks, the most important first."""
        if not isinstance(self._tree, ast.Module):
            return 0, self.labelled, False, False
        defined = len(names & _defined(self._tree)) if names else 0
        return defined, self.labelled, _does_something(self._tree), True


def _without(before: str, block: str) -> str:
    """Returns a block without the indentation that all its lines share, up to that of its fence.

    Args:
      before: what precedes the fence on its line: white space, the mark of a list's item.
      block: lines below the fence.
    """
    lines = block.split("\n")
    first = next((line for line in lines if line.strip()), "")
    most, column, cut = len(before.expandtabs(_TAB)), 0, 0
    for character in first:
        column += _TAB - column % _TAB if character == "\t" else 1
        if character not in " \t" or column > most:
            break
        cut += 1
    for line in lines:
        while line.strip() and not line.startswith(first[:cut]):
            cut -= 1
    return "\n".join(line.removeprefix(first[:cut]) for line in lines) if cut else block


def _does_something(tree: ast.Module) -> bool:
    """Returns whether a program is more than values: the output in a block of its own is not."""
    return any(
        not isinstance(node, ast.Expr | ast.Pass)
        and not (isinstance(node, ast.AnnAssign) and node.value is None)  # `Output: 4`
        for node in tree.body
    ) or any(isinstance(node, ast.Call) for node in ast.walk(tree))


def _defined(tree: ast.Module) -> set[str]:
    """Returns the names that a program defines at its top level, or in its class `Solution`.

    Imported names do not count: `from solution import f` begins an example of use.
    """
    found = _bound(tree.body)
    if "Solution" in found:  # which may inherit its method
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found |= _bound(node.body)
    return found


def _bound(body: Sequence[ast.stmt]) -> set[str]:
    """Returns the names that statements define, also those below `if`, `try` and the like."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)] if node.value else []
            found |= {
                part.id
                for part in parts
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
        else:
            for field in ("body", "handlers", "orelse", "finalbody", "cases"):
                inner = getattr(node, field, ())  # an expression for a lambda
                waiting += inner if isinstance(inner, list) else ()
    return found


def _completion(text: str, stop: Sequence[str]) -> str | None:
    cut = min((at for at in (text.find(mark) for mark in stop if mark) if at >= 0), default=None)
    if cut is not None:
        text = text[:cut]
    opening = _OPENING.match(text)
    before = ""
    if opening:
        before = text[text.rfind("\n", 0, opening.start(1)) + 1 : opening.start(1)]
        text = text[opening.end() :]
    closing = _CLOSING.search(text)
    if closing:
        text = text[: closing.start()]
    return _without(before, text) if text.strip() else None


def without_trailing_prose(source: str) -> str:
    """Returns the longest leading run of whole statements that parses, or `source`.

    If a model continues with prose after its program, the end of its text is not Python. The text
    is cut at the last line that starts in the first column, not after the line where parsing stops.
    The rest is parsed again, since a statement that has lost its body must be removed too.
    """
    stop = _parse(source)
    if isinstance(stop, ast.Module):
        return source
    lines = source.split("\n")
    starts = [n for n, line in enumerate(lines) if line and not line[0].isspace()]
    for _ in range(_CUTS):
        # The line where parsing stops may be the first line of prose.
        n = bisect.bisect_left(starts, stop) - 1
        if n < 0:
            break
        head = "\n".join(lines[: starts[n]])
        del starts[n:]
        if not head.strip():
            break
        found = _parse(head)
        if isinstance(found, ast.Module):
            return head + "\n"
        stop = min(stop, found)
    return source


def definition_line(source: str, name: str) -> int | None:
    """Returns the line number (from 0) of the first top-level `def NAME` or `class NAME`."""
    match = re.search(rf"^(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b", source, re.M)
    return None if match is None else source.count("\n", 0, match.start())


def join_prompt(prompt: str, text: str, entry_point: str) -> str:
    """Returns the whole program for a query that is the beginning of a program (HumanEval).

    `text` is either the rest of the program, or a program that defines `entry_point` again (a
    chat model's answer), which then keeps the prompt's imports and helpers before it.
    """
    if text.startswith(prompt):
        return text
    line = definition_line(text, entry_point)
    if line is not None and (compiles(text) or compiles(without_trailing_prose(text))):
        return preamble(prompt, entry_point) + text
    return prompt + text


def preamble(program: str, entry_point: str) -> str:
    """Returns what precedes the first definition of `entry_point`: imports and helpers."""
    line = definition_line(program, entry_point)
    if line is None:
        return ""
    return "".join(part + "\n" for part in program.split("\n")[:line])

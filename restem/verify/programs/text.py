"""Extraction of the program from a model's text."""

from __future__ import annotations

import ast
import bisect
import re
import warnings
from collections.abc import Sequence

MODES = ("completion", "fenced", "auto")
_FENCE = re.compile(
    # Possessive, since an unclosed fence would otherwise take quadratic time.
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+.-]*+)[^\n`]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)",
    re.M | re.S,
)
_OPENING = re.compile(r"\s*+(?:`{3,}+|~{3,}+)[ \t]*+[\w+.-]*+[^\n`]*+\n")
_CLOSING = re.compile(r"^[ \t]*+(?:```|~~~)", re.M)
_CUTS = 20
"""Maximum number of places that are tried as the beginning of prose after a program."""
_PYTHON_LABELS = frozenset({"", "python", "python3", "py", "py3"})


def compiles(source: str) -> bool:
    """Returns whether the syntax of `source` is that of a Python program."""
    return _error_line(source) is None


def _error_line(source: str) -> int | None:
    """Returns the line (from 1) at which `source` stops being Python; None if it never does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return source.count("\n") + 1
    return None


def extract_program(
    text: str, mode: str = "completion", *, stop: Sequence[str] = (), defines: str | None = None
) -> str | None:
    """Returns the program in a model's text, or None if it has none.

    `completion`: the text is the program; it ends at the first of the `stop` strings, at a
    closing fence, or before prose that does not parse. `fenced`: the program is in a Markdown
    block. Of several blocks, it is the last that parses and defines the name `defines` (if given),
    else the last that parses, else the last; a block that was cut off counts. `auto`: `fenced` if
    there is a block, else `completion`.

    Raises:
      ValueError: `mode` is none of these.
    """
    if mode not in MODES:
        raise ValueError(f"extraction mode {mode!r}: use one of {', '.join(MODES)}")
    text = text.replace("\r\n", "\n")
    if mode == "completion":
        return _completion(text, stop)
    blocks = [match[3] for match in _FENCE.finditer(text) if match[2].lower() in _PYTHON_LABELS]
    if not blocks:
        return _completion(text, stop) if mode == "auto" else None
    whole = [block for block in blocks if compiles(block)]
    named = [block for block in whole if defines and _defines(block, defines)]
    program = (named or whole or blocks)[-1]
    return program if program.strip() else None


def _completion(text: str, stop: Sequence[str]) -> str | None:
    cut = min((at for at in (text.find(mark) for mark in stop if mark) if at >= 0), default=None)
    if cut is not None:
        text = text[:cut]
    opening = _OPENING.match(text)
    if opening:
        text = text[opening.end() :]
    closing = _CLOSING.search(text)
    if closing:
        text = text[: closing.start()]
    return text if text.strip() else None


def without_trailing_prose(source: str) -> str:
    """Returns the longest leading run of whole statements that parses, or `source`.

    If a model continues with prose after its program, the end of its text is not Python. The text
    is cut at the last line that starts in the first column, not after the line where parsing stops.
    The rest is parsed again, since a statement that has lost its body must be removed too.
    """
    stop = _error_line(source)
    if stop is None:
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
        found = _error_line(head)
        if found is None:
            return head + "\n"
        stop = min(stop, found)
    return source


def _defines(source: str, name: str) -> bool:
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.name == name
        for node in ast.parse(source).body
    )


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

"""Checks of the fields of a record, the same for functions and for files as sources.

`where` names the record in messages, such as "problems.jsonl, line 7". All functions raise
`UserError` with it if a value does not fit.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from restem.errors import UserError


def text(value: Any, field: str, *, where: object) -> str:
    """Returns a value as text that files can hold."""
    try:
        written = str(value)
        written.encode("utf-8")
    except ValueError as error:  # lone surrogates, or an integer of too many digits
        raise UserError(f"{where}: {field!r} is not text that UTF-8 can hold ({error})") from error
    return written


def string(value: Any, field: str, *, where: object) -> str:
    """Returns a value that must be a string with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {field!r} must be a non-empty string, not {value!r:.40}")
    return text(value, field, where=where)


def answer(value: Any, *, where: object) -> str | None:
    """Returns a gold answer, given as a string or number, as text; None for None."""
    if value is None:
        return None
    if isinstance(value, (bytes, Mapping, list, tuple, set, frozenset)):
        raise UserError(
            f"{where}: 'answer' must be a string or a number, not {type(value).__name__}"
        )
    rational = isinstance(value, numbers.Rational)  # may be too large for a float
    if isinstance(value, numbers.Real) and not rational and not math.isfinite(value):
        raise UserError(f"{where}: 'answer' is {value}, which is no number")
    return text(value, "answer", where=where)


def solutions(value: Any, *, where: object) -> tuple[str, ...]:
    """Returns solutions, given as strings; empty for None."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UserError(
            f"{where}: 'solutions' must be a list of strings, not {type(value).__name__}"
        )
    given = tuple(value)
    if not all(isinstance(solution, str) for solution in given):
        raise UserError(f"{where}: 'solutions' must be a list of strings")
    return tuple(text(solution, "solutions", where=where) for solution in given)


def tests(value: Any, *, where: object) -> str:
    """Returns tests, given as a JSON object or its text, as text; "" if there are none."""
    if not value:
        return ""
    if isinstance(value, str):
        return text(value, "tests", where=where)
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: 'tests' must be a JSON object, not {type(value).__name__}")
    return _json(value, "tests", where=where)


def metadata(value: Any, *, where: object) -> str:
    """Returns metadata, given as a mapping, as JSON; "{}" for None."""
    if value is None:
        return "{}"
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: 'metadata' must be a JSON object, not {type(value).__name__}")
    return _json(value, "metadata", where=where, sort_keys=True)


def _json(value: Mapping[str, Any], field: str, *, where: object, sort_keys: bool = False) -> str:
    try:
        written = json.dumps(dict(value), sort_keys=sort_keys)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: {field!r} is not what JSON can hold ({error})") from error
    return text(written, field, where=where)

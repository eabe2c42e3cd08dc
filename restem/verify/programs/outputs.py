"""Whether a program's output equals the expected one.

Standard output is split at white space, and its tokens are compared in order. A token equals the
expected one if it is the same text, or if the expected one is a decimal and both are the same
number within 1e-6 (or, for large numbers, within a relative error of 1e-9). Integers, including
those beyond 2^53, and words must be the same text, so "2.0" is wrong if "2" is expected. The order
of tokens matters, line breaks do not.

Returned values are compared with Python's `==` over built-in data, with three exceptions: tuples
equal lists (the expected values come from JSON), numbers have the same tolerance as above if the
expected one is a float, and dictionary keys are compared as JSON writes them (JSON turns 1 into
"1").
"""

from __future__ import annotations

import decimal
import fractions
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from restem.verify.pool.lines import one_line

ABSOLUTE = 1e-6
RELATIVE = 1e-9
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_LONGEST_NUMBER = 400


def expected_text(expected: Any) -> str:
    """Returns the text of an APPS input or expected output, given as text or as a list of lines."""
    if isinstance(expected, list):
        return "\n".join(expected_text(line) for line in expected)
    return expected if isinstance(expected, str) else str(expected)


def output_matches(expected: str, output: str) -> bool:
    """Returns whether the standard output of a program is the expected one."""
    if expected == output:
        return True
    wanted = expected.split()
    found = output.split(None, len(wanted))  # no more than shows that there are too many
    return len(wanted) == len(found) and all(map(_token_matches, wanted, found))


def _token_matches(expected: str, found: str) -> bool:
    if expected == found:
        return True
    if max(len(expected), len(found)) > _LONGEST_NUMBER:
        return False
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(found)):
        return False
    if _INTEGER.fullmatch(expected):
        return False
    with decimal.localcontext() as context:
        context.prec = 50
        wanted = decimal.Decimal(expected)
        difference = abs(wanted - decimal.Decimal(found))
        return difference <= max(
            decimal.Decimal(repr(ABSOLUTE)), abs(wanted) * decimal.Decimal(repr(RELATIVE))
        )


def value_matches(expected: Any, found: Any) -> bool:
    """Returns whether a value is the expected one; `found` must come from `codec.decode`."""
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(expected) == len(found)
            and all(map(value_matches, expected, found))
        )
    if isinstance(expected, Mapping):
        if not isinstance(found, dict) or len(found) != len(expected):
            return False
        by_name = {_json_key(key): value for key, value in found.items()}
        wanted = {_json_key(key): value for key, value in expected.items()}
        return by_name.keys() == wanted.keys() and all(
            value_matches(value, by_name[key]) for key, value in wanted.items()
        )
    if isinstance(expected, float) and type(found) in (int, float):
        return _close(expected, found)
    return type(found) in (bool, int, float, str, type(None)) and bool(expected == found)


def _close(expected: float, found: int | float) -> bool:
    if math.isnan(expected):
        return found != found
    try:
        return math.isclose(expected, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except OverflowError:
        return False


def _json_key(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, float):
        return repr(key)
    # Expected keys are text, and none is a number of thousands of digits.
    return hex(key) if isinstance(key, int) and key.bit_length() > 10_000 else str(key)


def returned_value_matches(expected: Any, found: Any, *, wrapped: bool) -> bool:
    """Returns `value_matches`, also if the problem writes every value v as [v] (`wrapped`)."""
    if value_matches(expected, found):
        return True
    return wrapped and value_matches(expected[0], found)


def values_are_wrapped(outputs: list) -> bool:
    """Returns whether every value is in a list of length one, as in APPS's Codewars problems."""
    return all(isinstance(output, list) and len(output) == 1 for output in outputs)


def short(value: Any, limit: int = 60) -> str:
    """Returns a value on one line of at most `limit` characters, for a verdict's detail."""
    return one_line(value if isinstance(value, str) else "".join(_spelled(value, [limit])), limit)


_BRACKETS: dict[type, str] = {list: "[]", tuple: "()", set: "{}", dict: "{}"}


def _spelled(value: Any, room: list[int]) -> Iterator[str]:
    """Yields the parts of `repr(value)`, and stops after `room[0]` characters."""
    brackets = _BRACKETS.get(type(value))
    if room[0] < 0:
        return
    if brackets is None or not value:
        text = _spelled_whole(value)
        room[0] -= len(text)
        yield text
        return
    room[0] -= 1
    yield brackets[0]
    for n, item in enumerate(value):
        room[0] -= 2
        if room[0] < 0:
            return
        yield ", " if n else ""
        yield from _spelled(item, room)
        if isinstance(value, dict):
            yield ": "
            yield from _spelled(value[item], room)
    if room[0] < 0:
        return
    yield ",)" if type(value) is tuple and len(value) == 1 else brackets[1]


def _spelled_whole(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 10_000:
        return f"<an integer of {value.bit_length()} bits>"
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value[:_LONGEST_NUMBER])
    if isinstance(value, (Collection, fractions.Fraction)) and not isinstance(value, range):
        # These kinds of value can be large and are never right, so the name of the kind is enough.
        return f"<{type(value).__name__}>" if value else repr(value)
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"

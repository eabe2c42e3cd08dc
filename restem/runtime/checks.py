"""Validity of settings: type and range, both read from the annotation.

    num_samples: Annotated[int, at_least(0)] = 32
    cap: Annotated[int | None, at_least(1)] = 10
    distinct: Literal["none", "text"] = "text"

`fault(value, annotation)` returns None for a valid value, and otherwise a description of the
allowed values. The same annotations serve dataclasses of settings and the arguments of functions
that gin binds.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition on a value that already has the right type."""

    allowed: str
    """Description of the allowed values, such as "at least 0"."""
    holds: Callable[[Any], bool]
    """Function that returns whether a value meets the condition."""


def at_least(least: float) -> Check:
    """Returns a check that allows numbers of at least `least`."""
    return Check(f"at least {least:g}", lambda value: value >= least)


def above(bound: float) -> Check:
    """Returns a check that allows numbers greater than `bound`."""
    return Check(f"greater than {bound:g}", lambda value: value > bound)


def at_most(most: float) -> Check:
    """Returns a check that allows numbers of at most `most`."""
    return Check(f"at most {most:g}", lambda value: value <= most)


def below(bound: float) -> Check:
    """Returns a check that allows numbers less than `bound`."""
    return Check(f"less than {bound:g}", lambda value: value < bound)


def between(least: float, most: float) -> Check:
    """Returns a check that allows numbers from `least` to `most`, inclusive."""
    return Check(f"from {least:g} to {most:g}", lambda value: least <= value <= most)


NOT_EMPTY = Check("not empty", lambda value: len(value) > 0)
"""Check that allows non-empty strings and sequences."""

NONE_EMPTY = Check("none of them empty", all)
"""Check that allows sequences of non-empty strings."""


def strings(given: Any, setting: str) -> tuple[str, ...]:
    """Returns a list or tuple of non-empty strings, such as stop strings, as a tuple.

    Raises:
      UserError: `given` is something else; the message names `setting`.
    """
    if not isinstance(given, (list, tuple)) or not all(isinstance(s, str) and s for s in given):
        raise UserError(
            f"{setting} = {given!r:.60}: must be a tuple of strings, none of them empty"
        )
    return tuple(given)


MAY_CHANGE = "may change"
"""Mark of a setting that a resumed run may change: it affects where and how fast, not what."""

_SCALARS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a string",
    type(None): "None",
}


def fault(value: Any, annotation: Any) -> str | None:
    """Returns None if `annotation` allows `value`, and otherwise what it allows."""
    if _is(value, annotation):
        return None
    if _lacks_call(value):
        return f"a reference with parentheses, @{value.__name__}()"
    return allowed(annotation)


def allowed(annotation: Any) -> str:
    """Returns a description of the values that an annotation allows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        of_type, conditions = _parts(annotation)
        members = [t for t in _members(of_type) if t is not type(None)]
        text = ", ".join([" or ".join(map(allowed, members)), *(c.allowed for c in conditions)])
        return text if len(members) == len(_members(of_type)) else f"{text}; or None"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(allowed, arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{a}"' if isinstance(a, str) else str(a) for a in arguments)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin in (tuple, collections.abc.Sequence):
        if not arguments:
            return "a tuple"
        if arguments[0] in (int, float, str):
            return f"a tuple of {_SCALARS[arguments[0]].partition(' ')[2]}s"
        return f"a tuple, each part {allowed(arguments[0])}"
    if _class_of(annotation) in (dict, collections.abc.Mapping):
        return "a dictionary"
    if _class_of(annotation) is collections.abc.Callable:
        return "a reference such as @NAME"
    return f"a reference @NAME() to a {getattr(_class_of(annotation), '__name__', annotation)}"


def hints(configurable: Any) -> dict[str, Any]:
    """Returns the annotations of a dataclass's fields or a function's arguments, by name.

    The result is empty if an annotation uses a name that is imported only for type checking.
    """
    try:
        found = typing.get_type_hints(configurable, include_extras=True)
        if inspect.isclass(configurable) and not dataclasses.is_dataclass(configurable):
            found = typing.get_type_hints(configurable.__init__, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}
    return {name: hint for name, hint in found.items() if name != "return"}


def may_change(annotation: Any) -> bool:
    """Returns whether a resumed run may change a setting with this annotation."""
    return MAY_CHANGE in getattr(annotation, "__metadata__", ())


def _parts(annotation: Any) -> tuple[Any, list[Check]]:
    of_type, *extras = typing.get_args(annotation)
    return of_type, [extra for extra in extras if isinstance(extra, Check)]


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _class_of(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def _lacks_call(value: Any) -> bool:
    """Returns whether a value is the class of a strategy, `@NAME`, in place of one, `@NAME()`.

    A class is callable, so it would pass for a function until the step that calls it.
    """
    return inspect.isclass(value) and any("__call__" in vars(c) for c in value.__mro__[:-1])


def _is(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, (typing.TypeVar, str)):
        return True
    if origin is typing.Annotated:
        of_type, conditions = _parts(annotation)
        return _is(value, of_type) and (value is None or all(c.holds(value) for c in conditions))
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, member) for member in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(a) and value == a for a in arguments)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if annotation in _SCALARS:
        return isinstance(value, annotation)
    if origin in (tuple, collections.abc.Sequence):
        if not isinstance(value, (tuple, list)):
            return False
        return not arguments or all(_is(part, arguments[0]) for part in value)
    kind = _class_of(annotation)
    if kind is collections.abc.Callable:
        return callable(value) and not _lacks_call(value)
    if not inspect.isclass(kind):
        return True
    if _lacks_call(value):
        return False
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return True
    return isinstance(value, kind)

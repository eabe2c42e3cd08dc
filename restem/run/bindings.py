"""Bindings of gin files and flags, by name: the only module that reads gin's internal tables.

Gin's public interface gives bindings as text only; its internal tables hold the values and the
functions whose arguments they are.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import IO, Any

import gin
from gin import config as gin_config
from gin import config_parser

from restem.errors import UserError
from restem.runtime import checks

MACRO = "gin.macro"

_CALLED_WITH_ARGUMENTS = ("restem.tasks", "restem.training", "restem.report")
"""Modules whose functions get their arguments without defaults from their callers."""

FLAG = "flag"
"""Origin of a binding that comes from the command line."""
UNKNOWN = "gin"
"""Origin of a binding that a program made itself, by `gin.parse_config` and the like."""

_origins: dict[tuple[str, str, str], str] = {}
_replaced: dict[tuple[str, str, str], set[str]] = {}
"""Macros that a later binding of the same parameter took the place of."""
_reading: list[str] = [FLAG]


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[str]]:
    """Opens a gin file for gin; bindings made while it is open are recorded as coming from it."""
    with open(path, encoding="utf-8") as file:
        _reading.append(path)
        try:
            yield file
        finally:
            _reading.pop()


@contextlib.contextmanager
def recorded_origins() -> Iterator[None]:
    """Records the origin of every binding made inside the block, as gin itself does not."""
    bind = gin_config.bind_parameter

    def bind_and_record(key, value):
        parsed = gin_config.ParsedBindingKey.parse(key)
        place = (*parsed.config_key, parsed.arg_name)
        before = repr(gin_config._CONFIG.get(parsed.config_key, {}).get(parsed.arg_name))
        bind(key, value)
        _origins[place] = _reading[-1]
        if before.startswith("%"):
            _replaced.setdefault(place, set()).add(before[1:])

    gin_config.bind_parameter = bind_and_record
    try:
        yield
    finally:
        gin_config.bind_parameter = bind


@dataclasses.dataclass(frozen=True)
class Binding:
    """One line of a gin file or one `--gin` flag."""

    scope: str
    """Scope before the slash, such as "e_step"; "" without one."""
    configurable: str
    """Name of the function or class, without its module; "" for a macro."""
    parameter: str
    """Name of the argument; for a macro, the name of the macro."""
    raw: Any
    """Value as written, without following references."""
    target: Any
    """Function or class; None for a macro."""
    origin: str
    """Gin file with the binding, `FLAG` or `UNKNOWN`."""
    replaced: frozenset[str] = frozenset()
    """Macros that were the value before, in a file that this binding comes after."""

    @property
    def name(self) -> str:
        """Full name as in gin files, such as "e_step/make_mesh.tensor"."""
        if not self.configurable:
            return self.parameter
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.configurable}.{self.parameter}"

    @property
    def is_reference(self) -> bool:
        """Whether the value is `@NAME` or `@NAME()`."""
        return str(self.raw).startswith("@") and not isinstance(self.raw, str)

    def value(self) -> Any:
        """Value after following references and macros.

        Raises:
          UserError: a macro has no value, or the function called by `@NAME()` rejects its
            arguments.
        """
        try:
            return copy.deepcopy(self.raw)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.name} = {self.raw}: {explain(error)}") from error


def all_bindings() -> Iterator[Binding]:
    """Yields every active binding, in gin's order."""
    for (scope, selector), parameters in gin_config._CONFIG.items():
        target = gin_config._REGISTRY[selector].wrapped
        for parameter, raw in parameters.items():
            place = (scope, selector, parameter)
            origin = _origins.get(place, UNKNOWN)
            replaced = frozenset(_replaced.get(place, ()))
            if selector == MACRO:
                yield Binding("", "", scope, raw, None, origin)
            else:
                name = selector.rpartition(".")[2]
                yield Binding(scope, name, parameter, raw, target, origin, replaced)


def arguments_of(configurable: str) -> dict[str, Any]:
    """Returns the values bound to a function's arguments, for processes that read no gin files."""
    return {b.parameter: b.value() for b in all_bindings() if b.configurable == configurable}


def is_given(target: Any, parameter: str) -> bool:
    """Returns whether restem itself always passes an argument, so that a binding has no effect:
    the total number of steps to an optimizer, the split to a task."""
    if not inspect.isfunction(target) or not target.__module__.startswith(_CALLED_WITH_ARGUMENTS):
        return False
    found = inspect.signature(target).parameters.get(parameter)
    return found is not None and found.default is inspect.Parameter.empty


def is_readable(line: str) -> bool:
    """Returns whether gin can read a line `NAME = VALUE`, whatever it refers to."""
    delegate = gin_config.ParserDelegate(skip_unknown=True)
    try:
        list(config_parser.ConfigParser(line, delegate))
    except (ValueError, SyntaxError):
        return False
    return True


def explain(error: Exception) -> str:
    """Returns the first line of an error raised through gin, which appends lines of its own."""
    text = str(error)
    if unbound := re.search(r"macro\(\) missing .* in scope '([^']+)'", text, re.DOTALL):
        macro = unbound[1].rpartition("/")[2]
        return f"the macro %{macro} has no value; add --gin.{macro}=VALUE"
    return text.partition("\n")[0] or type(error).__name__


def configurables() -> dict[str, Any]:
    """Returns the functions and classes that gin can bind, by full name."""
    return {
        name: configurable.wrapped
        for name, configurable in gin_config._REGISTRY.items()
        if not name.startswith("gin.")
    }


def check() -> None:
    """Checks the type and range of every bound value against the annotation of its parameter.

    Raises:
      UserError: a value is invalid; the message names the binding, its value and what is allowed.
    """
    for binding in all_bindings():
        if binding.target is None or binding.is_reference:
            continue
        hint = checks.hints(binding.target).get(binding.parameter)
        value = binding.value()
        if hint is None or value is gin.REQUIRED:
            continue
        if allowed := checks.fault(value, hint):
            raise UserError(f"{binding.name} = {shown(value)}: must be {allowed}")


def shown(value: Any, *, limit: int | None = 80) -> str:
    """Returns a value in one line; longer ones than `limit` characters end in "..."."""
    text = " ".join(repr(value).split())
    return text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."

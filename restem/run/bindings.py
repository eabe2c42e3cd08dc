"""What gin's files and flags bind, by name: the one place that reads gin's tables.

Gin offers its bindings as text alone; the tables behind it hold the values and the functions that
they are arguments of.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterator
from typing import IO, Any

import gin
from gin import config as gin_config

from restem.errors import UserError
from restem.runtime import checks

MACRO = "gin.macro"

FLAG = "flag"
"""Origin of a binding that no file holds."""

_origins: dict[tuple[str, str, str], str] = {}
_reading: list[str] = [FLAG]


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[str]]:
    """Opens a gin file for gin; what is bound meanwhile comes from this file."""
    with open(path, encoding="utf-8") as file:
        _reading.append(path)
        try:
            yield file
        finally:
            _reading.pop()


@contextlib.contextmanager
def recorded_origins() -> Iterator[None]:
    """Records where the bindings that gin makes inside come from; gin itself does not."""
    bind = gin_config.bind_parameter

    def bind_and_record(key, value):
        bind(key, value)
        parsed = gin_config.ParsedBindingKey.parse(key)
        _origins[(*parsed.config_key, parsed.arg_name)] = _reading[-1]

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
    """Name of the argument; of a macro, the macro's own name."""
    raw: Any
    """The value as it is written: a reference is not followed."""
    target: Any
    """The function or class; None for a macro."""
    origin: str
    """The gin file that binds it, or `FLAG`."""

    @property
    def name(self) -> str:
        """As gin files write it, such as "e_step/make_mesh.tensor"."""
        if not self.configurable:
            return self.parameter
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.configurable}.{self.parameter}"

    @property
    def is_reference(self) -> bool:
        """Whether the value is `@NAME` or `@NAME()`."""
        return str(self.raw).startswith("@") and not isinstance(self.raw, str)

    def value(self) -> Any:
        """The value with references and macros followed.

        Raises:
          UserError: a macro has no value, or what `@NAME()` calls refuses its arguments.
        """
        try:
            return copy.deepcopy(self.raw)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.name} = {self.raw}: {explain(error)}") from error


def all_bindings() -> Iterator[Binding]:
    """Every binding in force, in gin's order."""
    for (scope, selector), parameters in gin_config._CONFIG.items():
        target = gin_config._REGISTRY[selector].wrapped
        for parameter, raw in parameters.items():
            origin = _origins.get((scope, selector, parameter), FLAG)
            if selector == MACRO:
                yield Binding("", "", scope, raw, None, origin)
            else:
                yield Binding(scope, selector.rpartition(".")[2], parameter, raw, target, origin)


def arguments_of(configurable: str) -> dict[str, Any]:
    """What is bound to the arguments of a function, for a process that does not read gin files."""
    return {b.parameter: b.value() for b in all_bindings() if b.configurable == configurable}


def explain(error: Exception) -> str:
    """The first line of an error that gin passed on; gin adds lines that name its configurables."""
    text = str(error)
    if unbound := re.search(r"macro\(\) missing .* in scope '([^']+)'", text, re.DOTALL):
        macro = unbound[1].rpartition("/")[2]
        return f"the macro %{macro} has no value; add --gin.{macro}=VALUE"
    return text.partition("\n")[0] or type(error).__name__


def configurables() -> dict[str, Any]:
    """Functions and classes that gin can bind, by their full names."""
    return {
        name: configurable.wrapped
        for name, configurable in gin_config._REGISTRY.items()
        if not name.startswith("gin.")
    }


def check() -> None:
    """Checks the type and range of every bound value by the annotation of what it is bound to.

    Raises:
      UserError: names the binding, its value and what is allowed.
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


def shown(value: Any) -> str:
    """A value in one line, as a message quotes it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."

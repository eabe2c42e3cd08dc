"""Flags that would change nothing: a mistyped macro, a strategy that is not in use.

Gin accepts `--gin.seed=1` where `SEED` is meant, since any name may be a macro. The run would go on
with the setting that was to be changed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from restem.data import folder
from restem.errors import UserError
from restem.run import bindings
from restem.run.bindings import Binding

_MACRO = re.compile(r"%([\w.]+)")
_REFERENCE = re.compile(r"@((?:[\w.-]+/)*)(?:[\w.]+\.)?(\w+)")
_READ_BY_CODE = frozenset((folder.MACRO,))
_REACHED_BY_REFERENCE = (
    "restem.steps.strategies", "restem.methods", "restem.sampling", "restem.models",
    "restem.training", "restem.partitioning",
)  # fmt: skip
"""Modules whose functions and classes take part in a run only if another binding names them."""


def check() -> None:
    """Refuses flags of the command line that change nothing.

    Raises:
      UserError: no active binding uses the macro or the configurable of a flag; the message says
        what to write instead.
    """
    found = list(bindings.all_bindings())
    for binding in found:
        if binding.origin != bindings.FLAG:
            continue
        if binding.target is None:
            fault = _of_macro(binding, found)
        elif bindings.is_given(binding.target, binding.parameter):
            fault = "restem itself passes this argument"
        elif binding.configurable == "chat" and not _chats(found):
            fault = "the policy is prompted without chat; add --gin.Run.chat=True"
        else:
            fault = _of_strategy(binding, found)
        if fault:
            raise UserError(f"--gin.{binding.name}={binding.raw} would change nothing: {fault}")


def _chats(found: Sequence[Binding]) -> bool:
    return any(b.value() for b in found if b.name == "Run.chat")


def _of_macro(macro: Binding, found: Sequence[Binding]) -> str:
    """Returns why no binding uses a macro; "" if one does."""
    used = {name for b in found for name in _MACRO.findall(repr(b.raw))}
    name = macro.parameter
    if name in used | _READ_BY_CODE:
        return ""
    for binding in found:
        if name in binding.replaced:
            return (
                f"{binding.name} is bound by {binding.origin}; write"
                f" --gin.{binding.name}={macro.raw}"
            )
    upper = {known.upper(): known for known in used}
    near = difflib.get_close_matches(name.upper(), upper, n=1)
    hint = f"; is it {upper[near[0]]}?" if near else "; `restem config` prints all settings"
    return f"nothing refers to %{name}{hint}"


def _of_strategy(binding: Binding, found: Sequence[Binding]) -> str:
    """Returns why no other binding leads to one of a function or class; "" if one does."""
    module = binding.target.__module__
    if not module.startswith(_REACHED_BY_REFERENCE) or _is_default(binding, found):
        return ""
    scopes = [scope for scope, name in _references(found) if name == binding.configurable]
    if not scopes:
        return f"no setting refers to @{binding.configurable}"
    if binding.scope:
        mentioned = {part for scope, _ in _references(found) for part in _prefixes(scope)}
        return "" if binding.scope in mentioned else f"no reference has scope {binding.scope}/"
    other = {
        b.scope: b.name
        for b in found
        if (b.configurable, b.parameter) == (binding.configurable, binding.parameter) and b.scope
    }
    nearer = [next((other[p] for p in _prefixes(s) if p in other), None) for s in scopes]
    if None in nearer:
        return ""
    return f"{nearer[0]} takes its place; write --gin.{nearer[0]}={binding.raw}"


def _is_default(binding: Binding, found: Sequence[Binding]) -> bool:
    """Returns whether a function takes part without a reference: the default optimizer does."""
    return binding.configurable == "adamw" and all(b.name != "improve.optimizer" for b in found)


def _references(found: Sequence[Binding]) -> Iterator[tuple[str, str]]:
    """Yields scope and name of every reference in a value."""
    for binding in found:
        for scope, name in _REFERENCE.findall(repr(binding.raw)):
            yield scope.rstrip("/"), name


def _prefixes(scope: str) -> Iterator[str]:
    """Yields the scopes whose bindings apply in a scope, the nearest first."""
    parts = scope.split("/")
    for end in range(len(parts), 0, -1):
        yield "/".join(parts[:end])

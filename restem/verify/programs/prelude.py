"""Names that judges of programs import for them: APPS's own harness, and LeetCode.

The harness of APPS (hendrycks/apps, eval/testing_util.py) puts a list of imports before every
program, and later harnesses a longer one, so published programs use names that they never import.
Here such a name becomes a built-in one, and only if the program mentions it: the program's own
namespace holds nothing that it did not bind, so a name of the prelude can never answer for it.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import importlib
import types
from collections.abc import Iterator

_STARS = (
    "typing", "string", "random", "datetime", "copy", "fractions", "decimal", "collections",
    "functools", "heapq", "itertools", "math", "bisect",
)  # fmt: skip
"""Modules whose public names are given; a name of a later module replaces an earlier one."""
_MODULES = (
    "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "io",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "sys", "time",
    "typing", "numpy",
)  # fmt: skip
"""Modules that are given under their own names; `bisect` is the function."""
_SHORT = {"np": "numpy"}
_EVALUATES = frozenset({"eval", "exec", "compile", "globals"})
"""A program that mentions one of these may use names that its code does not show."""
_HEAVY = frozenset({"np", "numpy"})
"""Never given to a program that does not mention them: they take a tenth of a second to load."""


@functools.cache
def table() -> dict[str, tuple[str, str]]:
    """Returns, for each name that is given, its module and attribute; "" for the module itself."""
    found: dict[str, tuple[str, str]] = {}
    for name in _STARS:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
        # What a module imported for itself is not among its names.
        found |= {
            attribute: (name, attribute)
            for attribute in public
            if not isinstance(getattr(module, attribute, None), types.ModuleType)
        }
    found |= {name: (name, "") for name in _MODULES}
    found |= {name: (module, "") for name, module in _SHORT.items()}
    return {name: place for name, place in found.items() if not hasattr(builtins, name)}


def supply(code: types.CodeType) -> None:
    """Makes the names of the prelude that `code` mentions built-in names of this process."""
    given = table()
    used = set(_names(code))
    if used & _EVALUATES:
        used |= given.keys() - _HEAVY
    if used & _HEAVY:
        used -= _HEAVY - (_loaded(code) - _stored(code))
    for name in used & given.keys():
        module, attribute = given[name]
        with contextlib.suppress(ImportError):
            value = importlib.import_module(module)
            setattr(builtins, name, getattr(value, attribute) if attribute else value)


def _stored(code: types.CodeType) -> set[str]:
    """Returns the names that the code itself binds at its top level, by whatever statement."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}


def _loaded(code: types.CodeType) -> set[str]:
    """Returns the names that the code looks up, imported modules and attributes not among them."""
    found = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")
    }
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found.union(*map(_loaded, inner))


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the names that the code looks up outside its functions, attributes among them."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)

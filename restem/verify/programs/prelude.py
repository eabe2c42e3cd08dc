"""Names that judges import for programs: those of APPS's own harness, and of LeetCode.

The harness of APPS (hendrycks/apps, eval/testing_util.py) puts a list of imports before every
program, and later harnesses a longer one, so published programs use names that they never import.
Here, such a name becomes a built-in name if the program mentions it. The program's own namespace
holds only what the program bound, so a test can never call a name of the prelude in its place.
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
"""Modules whose public names are supplied; later modules replace names of earlier ones."""
_MODULES = (
    "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "io",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "sys", "time",
    "typing", "numpy",
)  # fmt: skip
"""Modules that are supplied under their own names; `bisect` is the function."""
_SHORT = {"np": "numpy"}
_EVALUATES = frozenset({"eval", "exec", "compile", "globals"})
"""Names whose mention means that a program may use names that its code does not show."""
_HEAVY = frozenset({"np", "numpy"})
"""Modules for programs that mention them only: they take a tenth of a second to load."""


@functools.cache
def table() -> dict[str, tuple[str, str]]:
    """Returns the module and attribute of each supplied name; "" for the module itself."""
    found: dict[str, tuple[str, str]] = {}
    for name in _STARS:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
        # Names that a module imported for its own use are left out.
        found |= {
            attribute: (name, attribute)
            for attribute in public
            if not isinstance(getattr(module, attribute, None), types.ModuleType)
        }
    found |= {name: (name, "") for name in _MODULES}
    found |= {name: (module, "") for name, module in _SHORT.items()}
    return {name: place for name, place in found.items() if not hasattr(builtins, name)}


def supply(code: types.CodeType) -> None:
    """Adds the prelude's names that `code` mentions to the built-in names of this process."""
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
    """Returns the names that the code itself binds at its top level, by any statement."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}


def _loaded(code: types.CodeType) -> set[str]:
    """Returns the names that the code looks up, without imported modules and attributes."""
    found = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")
    }
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found.union(*map(_loaded, inner))


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the names that the code looks up outside its functions, including attributes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)

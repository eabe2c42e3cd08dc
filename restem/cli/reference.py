"""Every setting that gin can bind: name, default, meaning, and what is allowed.

All of this is read from the code: fields of dataclasses and the text below each field, and
arguments of functions and the "Args" sections of their docstrings. `restem config` prints the
reference, and docs/configuration.md is generated from it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import gin

from restem.cli import gin_files, search_path
from restem.errors import UserError
from restem.run import bindings
from restem.runtime import checks

GROUPS: dict[str, Sequence[str]] = {
    "The run and its steps": (
        "Run", "em", "generate", "select", "improve", "evaluate", "Sampling", "Lora",
    ),
    "Optimizers": ("adamw", "adafactor"),
    "Strategies of selection": (
        "RewardAbove", "BestOfN", "MajorityAnswer", "Everything", "RewardWeight", "UnitWeight",
        "ExponentialWeight",
    ),
    "Strategies of methods": (
        "Rationalization", "HumanSolutions", "HumanWhereSolved", "SearchUnsolved", "MarkovChain",
        "ControlVariate", "RisingThreshold", "WithoutGold", "many_shot",
    ),
    "Devices and hosts": ("make_mesh", "local_mesh", "initialize"),
    "Tasks": ("file_task", "chat", "math", "gsm8k", "apps", "mbpp", "arithmetic"),
    "Plans": ("plan", "ModelConfig", "RopeScaling", "local_layers"),
    "Reports": ("report",),
}  # fmt: skip
"""Configurables in the order of the reference."""

_ALIASES = {"jsonl_task", "materialize"}
"""Configurables left out of the reference: former names and internal ones."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One argument that gin can bind."""

    configurable: str
    """Function or class, as named in gin files."""
    parameter: str
    """Argument of the configurable."""
    default: str
    """Default as written in gin files; "" if the argument is required."""
    meaning: str
    """Description from the code, in one paragraph."""
    allowed: str
    """Type and range, in words; "" if the code gives none."""

    @property
    def name(self) -> str:
        return f"{self.configurable}.{self.parameter}"


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A function or class that gin can bind, and its settings."""

    name: str
    summary: str
    """First sentence of the docstring."""
    settings: Sequence[Setting]


@functools.cache
def all_configurables() -> dict[str, Configurable]:
    """Returns all configurables of restem, by name."""
    assert gin_files.BINDABLE  # importing this module registered them
    found = {}
    for full_name, target in bindings.configurables().items():
        name = full_name.rpartition(".")[2]
        if full_name.startswith("restem.") and name not in _ALIASES:
            found[name] = _configurable(name, target)
    return found


def _configurable(name: str, target: Any) -> Configurable:
    doc = inspect.getdoc(target) or ""
    summary = _paragraph(doc.partition("\n\n")[0])
    meanings = _field_docs(target) if inspect.isclass(target) else _argument_docs(doc)
    hints = checks.hints(target)
    described = []
    for parameter in inspect.signature(target).parameters.values():
        if bindings.is_given(target, parameter.name):
            continue
        hint = hints.get(parameter.name)
        described.append(
            Setting(
                configurable=name,
                parameter=parameter.name,
                default=_default(target, parameter),
                meaning=_capitalised(meanings.get(parameter.name, "")),
                allowed=checks.allowed(hint) if hint is not None else "",
            )
        )
    return Configurable(name, summary, described)


def _default(target: Any, parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return ""
    if dataclasses.is_dataclass(target):
        field = next(f for f in dataclasses.fields(target) if f.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = type(value)()
        changed = [
            f"{f.name}={getattr(value, f.name)!r}"
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != getattr(default, f.name)
        ]
        return f"@{type(value).__name__}({', '.join(changed)})"
    if callable(value):
        return f"@{value.__name__}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _field_docs(cls: type) -> dict[str, str]:
    """Returns the string below each field of a dataclass and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(text)):
                    docs[name] = _paragraph(str(text))
    return docs


def _argument_docs(doc: str) -> dict[str, str]:
    """Returns the "Args" section of a docstring, by argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^  (\w+): (.*?)(?=^  \w+: |\Z)", section[1], re.DOTALL | re.MULTILINE)
    return {name: _paragraph(text) for name, text in entries}


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def named(name: str | None) -> list[Configurable]:
    """Returns the configurables that `restem config NAME` shows, with the matching settings.

    Args:
      name: a configurable ("select"), a setting ("select.cap", "cap"), or None for all.

    Raises:
      UserError: nothing has this name; the message suggests similar names.
    """
    known = [c for names in GROUPS.values() for c in map(all_configurables().get, names) if c]
    if name is None:
        return known
    found = []
    for configurable in known:
        matching = [
            s for s in configurable.settings if name in (configurable.name, s.name, s.parameter)
        ]
        if matching or name == configurable.name:
            found.append(dataclasses.replace(configurable, settings=matching))
    if not found:
        names = {n for c in known for n in (c.name, *(s.name for s in c.settings))}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        hint = f"; is it {' or '.join(near)}?" if near else "; `restem config` prints all"
        raise UserError(f"config: there is no setting {name}{hint}")
    return found


def lines(name: str | None) -> Iterator[str]:
    """Yields the output of `restem config [NAME]`: settings with bound values and meanings."""
    bound: dict[str, list[bindings.Binding]] = {}
    for binding in bindings.all_bindings():
        key = f"{binding.configurable}.{binding.parameter}"
        bound.setdefault(key, []).append(binding)
    for configurable in named(name):
        yield f"{configurable.name}: {configurable.summary}"
        for setting in configurable.settings:
            yield f"  {setting.name}{_default_note(setting)}"
            for binding in bound.get(setting.name, ()):
                yield f"    {binding.name} = {_shown(binding)}    ({_origin(binding)})"
            yield from textwrap.wrap(
                setting.meaning, 96, initial_indent="    ", subsequent_indent="    "
            )
        yield ""


def _default_note(setting: Setting) -> str:
    default = f"default {setting.default}" if setting.default else "required"
    return f"    [{default}; {setting.allowed}]" if setting.allowed else f"    [{default}]"


def _origin(binding: bindings.Binding) -> str:
    """Returns the origin of a binding, named as in `--gin_file`."""
    for folder in search_path.gin_folders():
        if binding.origin.startswith(folder + os.sep):
            return binding.origin.removeprefix(folder + os.sep).removeprefix("gin" + os.sep)
    return binding.origin


def _shown(binding: bindings.Binding) -> str:
    if str(binding.raw).startswith(("@", "%")) and not isinstance(binding.raw, str):
        macro = str(binding.raw).startswith("%")
        try:
            value = binding.value() if macro else None
        except UserError:
            return f"{binding.raw}, which has no value"
        if macro and value is gin.REQUIRED:
            return f"{binding.raw}, which has no value"
        return f"{bindings.shown(value)} (by {binding.raw})" if macro else str(binding.raw)
    return bindings.shown(binding.raw)


INTRODUCTION = """\
# Configuration

This page lists every setting of a run. A gin file sets it by its name, as in `select.cap = 4`,
and so does a flag: `--gin.select.cap=4`. Flags override files, and later files override earlier
ones. All settings are checked, types and ranges, before anything is loaded or written.

`restem config` prints this page for the files and flags of a command, with the value of each
setting and the file that bound it; `restem config select` or `restem config select.cap` prints
a part. This page is made by `restem config --markdown`; edit the code, not the page.

The files of whole runs (`restem_math.gin`, `restem_apps.gin`, `restem_demo.gin`) name what is
changed most often by macros:

| macro | meaning |
| --- | --- |
| `MODEL` | reference of the base policy; required for `restem_math.gin` and `restem_apps.gin` |
| `SEED` | seed of the run |
| `ITERATIONS` | iterations of the loop |
| `DATA_DIR` | folder of the published data sets |
| `TEACHER` | policy that writes the samples; required for `methods/distill.gin` |

A reference `@NAME()` stands for what a function or class of this page returns, with its own
settings, as in `select.keep = @BestOfN()`; `scope/NAME.setting` sets it for one use alone.
"""


def markdown() -> str:
    """Returns the text of docs/configuration.md."""
    known = all_configurables()
    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in names:
            configurable = known[name]
            parts.append(f"### `{name}`\n\n{_wrapped(configurable.summary)}\n")
            if configurable.settings:
                parts.append("\n".join(map(_item, configurable.settings)) + "\n")
    return "\n".join(parts)


def _item(setting: Setting) -> str:
    default = f"default `{setting.default}`" if setting.default else "required"
    allowed = f"; {setting.allowed}" if setting.allowed else ""
    text = f"- `{setting.name}` ({default}{allowed}): {setting.meaning}"
    return _wrapped(text, "  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 96, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

"""`run.json`: the identity of a run, and the check that a folder holds the same run.

The same command resumes a run. Settings marked `MAY_CHANGE`, such as the mesh, the slots and the
number of iterations, may differ then. All other settings must be equal; otherwise, samples of two
different runs would share a folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from restem.data import fingerprints
from restem.errors import UserError
from restem.run import bindings, repair, settings
from restem.run.layout import Workdir
from restem.runtime import checks, storage

FORMAT = 2
"""Version of the folder's format; restem 0.1 wrote none."""

PROMPT_TOKENS = "whole text"
"""Rule by which prompts are tokenised, a part of the identity. Earlier versions wrote none and
tokenised prefix and question apart, so their samples and policies are those of other tokens."""

_RESERVED = "reserved"
"""Key of a `run.json` whose run has not read its problems to the end."""

_NOT_COMPARED = ("fingerprints", "format", "method", "prompt_tokens", "versions", _RESERVED)
"""Keys of `run.json` that are not compared as settings: other versions may change only rounding,
and fingerprints have a message of their own."""

_ELSEWHERE = {"make_mesh", "local_mesh", "initialize", "plan", "report"}
"""Configurables that affect where and how fast a run executes, but not its identity."""


def settings_of(
    all_settings: Any, *, only: Sequence[str] = (), changeable: bool = False
) -> dict[str, Any]:
    """Returns the settings that a resume may not change, by name.

    Args:
      all_settings: a dataclass whose fields are registered settings.
      only: names of groups to include, such as "Run"; empty: all groups.
      changeable: whether to return the other ones instead, which a resume may change.
    """
    found = {}
    for group in dataclasses.fields(all_settings):
        of_group = getattr(all_settings, group.name)
        name = settings.name_of(of_group)
        if only and name not in only:
            continue
        hints = checks.hints(settings.REGISTERED[name])
        for field in dataclasses.fields(of_group):
            if checks.may_change(hints[field.name]) == changeable:
                found[f"{name}.{field.name}"] = plain(getattr(of_group, field.name))
    return found


def other_bindings() -> dict[str, str]:
    """Returns gin's bindings besides the settings: optimizers, tasks and strategies, by name."""
    return {
        b.name: bindings.shown(b.value() if not b.is_reference else b.raw, limit=None)
        for b in bindings.all_bindings()
        if b.target is not None and b.configurable not in (settings.REGISTERED.keys() | _ELSEWHERE)
    }


def plain(value: Any) -> Any:
    """Returns a setting as JSON: a strategy becomes its name and fields, a function its name
    (and the arguments bound to it)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if isinstance(value, functools.partial):
        return {plain(value.func): plain(value.keywords)}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__name__", type(value).__name__)
    return f"{name} {_code(value)}" if name == "<lambda>" else name


def _code(function: Any) -> str:
    """Returns a hash of the code of a function without a name of its own, and of the plain values
    that it has from outside."""
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    plain_ones = [c for c in (*code.co_consts, *cells) if isinstance(c, (int, float, str))]
    seen = (code.co_code, code.co_names, plain_ones)
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]


def claim(files: Workdir, identity: Mapping[str, Any], *, rebuild: bool = False) -> None:
    """Writes the identity of a run to its folder, or checks that the folder holds this run.

    A folder whose run has produced nothing yet may be claimed by another run.

    Args:
      files: the run's folder.
      identity: identity of the run.
      rebuild: whether to write the identity of a run that has lost its `run.json`, rather than
        refuse its folder.

    Raises:
      UserError: the folder holds another run; the message lists what differs.
    """
    written = {"format": FORMAT, "prompt_tokens": PROMPT_TOKENS, **identity}
    if not files.identity.exists():
        if has_results(files):
            if not rebuild:
                raise UserError(
                    f"{files.path}: has iterations but no run.json, so what made them is not known;"
                    " with the settings that the run was started with, --repair writes it again"
                )
            if found := repair.contradictions(files, identity):
                raise UserError(
                    f"{files.path}: these settings are not those that the run was started with:"
                    f" {'; '.join(found)}; repeat them, or use another --workdir"
                )
        storage.write_json(files.identity, written)
        return
    stored = storage.read_json(files.identity)
    before, now = _fingerprints(stored), _fingerprints(identity)
    if not has_results(files):
        is_of_rule = stored.get("prompt_tokens") == PROMPT_TOKENS and _RESERVED not in stored
        if _differences(stored, identity) or not is_of_rule or before != now:
            storage.write_json(files.identity, written)
        return
    _require_same(files, stored, identity)
    if now.keys() - before.keys():  # the files were not at hand before
        storage.write_json(files.identity, {**stored, "fingerprints": {**now, **before}})


def check(files: Workdir, identity: Mapping[str, Any]) -> None:
    """Raises `UserError` if the folder does not hold the run of this identity."""
    stored = storage.read_json(files.identity) if files.identity.exists() else {_RESERVED: True}
    if _RESERVED in stored:
        raise UserError(f"{files.path}: no run here; `restem run` makes one")
    _require_same(files, stored, identity)


def _require_same(files: Workdir, stored: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises `UserError` if the identity stored in a folder is another one."""
    before, now = _fingerprints(stored), _fingerprints(identity)
    check_format(files, stored)
    if differences := _differences(stored, identity):
        shown = "; ".join(differences[:8]) + ("; ..." if len(differences) > 8 else "")
        raise UserError(
            f"{files.identity}: this folder holds another run ({shown});"
            " use another --workdir, or the settings it was started with"
        )
    for role in sorted(before.keys() & now.keys()):
        if before[role] == now[role] or role.startswith(fingerprints.MODULE):
            continue
        what = f"the {role} policy has other weights, another config or another tokenizer"
        if role.startswith("task "):
            what = f"{role} has other problems, another prompt or another grader"
        raise UserError(
            f"{files.identity}: {what} than when this run was started (SHA-256"
            f" {before[role][:12]}... then, {now[role][:12]}... now); restore it, or use another"
            " --workdir"
        )


def _fingerprints(identity: Mapping[str, Any]) -> dict[str, str]:
    """Returns the known fingerprints of the policies and tasks from outside the run, by role."""
    found = identity.get("fingerprints", {})
    return {role: fingerprint for role, fingerprint in found.items() if fingerprint is not None}


def check_format(files: Workdir, stored: Mapping[str, Any]) -> None:
    """Raises `UserError` if an incompatible version of restem wrote the run's folder."""
    found = stored.get("format", 1)
    version = stored.get("versions", {}).get("restem", "0.1.0")
    if found != FORMAT:
        raise UserError(
            f"{files.identity}: this run was started by restem {version}, whose folders this"
            f" version cannot resume (format {found}, not {FORMAT}); resume it with that version,"
            " or start anew in another --workdir"
        )
    if stored.get("prompt_tokens") != PROMPT_TOKENS:
        raise UserError(
            f"{files.identity}: this run tokenised prefix and question apart, and this version"
            f" tokenises whole prompts; resume it with the version that started it ({version}), or"
            " start anew in another --workdir"
        )


def reserve(files: Workdir, identity: Mapping[str, Any]) -> None:
    """Writes what is known of a run before it reads its problems.

    If reading fails or is interrupted, a later command sees whose problems the folder holds. Those
    of another run that produced nothing else are removed; problems without a `run.json` were put
    there by hand and stay.

    Args:
      files: the run's folder.
      identity: identity of the new run, as far as it is known before its problems exist.
    """
    stored = storage.read_json(files.identity) if files.identity.exists() else None
    if has_results(files):
        if stored is not None:
            _require_same(files, stored, {**stored, **identity})
        return
    if stored is not None:
        known = {key: stored.get(key) for key in identity}
        before, now = _fingerprints(stored), _fingerprints(identity)
        is_same_source = all(before.get(role) == found for role, found in now.items())
        if not _differences(known, identity) and is_same_source:
            return
        logging.info("%s: its run made nothing; the folder is free", files.path)
        files.problems("").parent.rmtree(missing_ok=True)
        files.contamination.unlink(missing_ok=True)
    written = {"format": FORMAT, "prompt_tokens": PROMPT_TOKENS, **identity, _RESERVED: True}
    storage.write_json(files.identity, written)


def has_results(files: Workdir) -> bool:
    """Returns whether any step has written results."""
    return any(_holds_a_file(files.iteration(i).path) for i in files.iterations())


def _holds_a_file(folder: epath.Path) -> bool:
    return any(not entry.is_dir() or _holds_a_file(entry) for entry in folder.iterdir())


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Returns the differences, each as "NAME was OLD and is NEW"."""

    def compared(identity: Mapping[str, Any]) -> dict[str, Any]:
        found = {k: v for k, v in identity.items() if k not in _NOT_COMPARED}
        if isinstance(given := found.get("settings"), Mapping):
            # An earlier version may have compared more settings.
            found["settings"] = {k: v for k, v in given.items() if k not in _changeable()}
        return found

    return list(_walk(compared(stored), compared(json.loads(json.dumps(asked)))))


@functools.cache
def _changeable() -> frozenset[str]:
    """Returns the names of all settings that a resume may change."""
    return frozenset(
        f"{name}.{field.name}"
        for name, cls in settings.REGISTERED.items()
        for field in dataclasses.fields(cls)
        if checks.may_change(checks.hints(cls)[field.name])
    )


def _walk(stored: Any, asked: Any, name: str = "") -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*stored, *asked}):
            inner = key if name in ("", "settings", "bindings") else f"{name}.{key}"
            yield from _walk(stored.get(key), asked.get(key), inner)
    elif stored != asked and not _is_cut(stored, asked):
        before, now = _around_difference(repr(stored), repr(asked))
        yield f"{name} was {before} and is {now}"


def _is_cut(stored: Any, asked: Any) -> bool:
    """Returns whether a value is the beginning that earlier versions stored of a long binding."""
    if not (isinstance(stored, str) and isinstance(asked, str) and len(stored) == 80):
        return False
    return stored.endswith("...") and asked.startswith(stored[:-3]) and len(asked) > 80


def _around_difference(before: str, now: str, *, width: int = 80) -> tuple[str, str]:
    """Returns what long values have around the first place where they differ."""
    pairs = zip(before, now, strict=False)
    equal = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(now)))
    start = max(0, equal - width // 2) if max(len(before), len(now)) > width else 0

    def cut(value: str) -> str:
        end = "..." if len(value) > start + width else ""
        return ("..." if start else "") + value[start : start + width] + end

    return cut(before), cut(now)

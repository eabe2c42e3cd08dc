"""Calls into a program from outside its process, and test code that makes them.

A program that defines functions is loaded into a jail of its own and answers requests; values
cross as data (`verify.pool.codec`). The caller is the supervisor (APPS's call-based tests) or a
second jail in which HumanEval's or MBPP's test code runs with a `Remote` in place of each name
that it takes from the program. A `Remote` never lets the program decide a comparison: it is equal
only to itself and has no truth value, so only data that the codec rebuilt can satisfy an assert.
"""

from __future__ import annotations

import builtins
import importlib
import json
import linecache
import os
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from restem.verify.pool import codec
from restem.verify.sandbox.linux import calls as linux

_MUTABLE = (list, dict, set, bytearray)


# ---- the program's side -------------------------------------------------------------------------


class _Objects:
    """Objects of the program that others hold by number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def number(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def get(self, number: int) -> Any:
        return self._objects[number]


def serve_calls(channel: codec.Channel, load: Callable[[], dict]) -> None:
    """Loads the program and answers requests until the other side is gone.

    A request is `[operation, ...]`, a reply `["ok", value, changed arguments]`, or
    `["raised", exception name, text]`.
    """
    objects = _Objects()
    names: dict[str, Any] | None = None
    while True:
        try:
            request = codec.decode(channel.receive(), objects.get)
        except EOFError:
            return
        try:
            if names is None:
                names = load()
            reply: tuple = ("ok", *_perform(request, names, objects))
            data = codec.encode(reply, objects.number if request[0] != "solve" else None)
        except BaseException as error:
            data = codec.encode(("raised", type(error).__name__, _text(error)))
        channel.send(data)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:
        return ""


def _perform(request: list, names: dict[str, Any], objects: _Objects) -> tuple:
    operation = request[0]
    if operation == "solve":
        _, name, arguments = request
        return (_solver(names, name)(*arguments),)
    if operation == "name":
        return (names[request[1]] if request[1] in names else getattr(builtins, request[1]),)
    if operation == "call":
        _, function, arguments, keywords = request
        before = _images(arguments, objects)
        result = function(*arguments, **keywords)
        after = _images(arguments, objects)
        changed = {
            n: arguments[n]
            for n, image in after.items()
            if image is not None and image != before[n]
        }
        return result, changed
    if operation == "get":
        return (getattr(request[1], request[2]),)
    if operation == "set":
        setattr(request[1], request[2], request[3])
        return (None,)
    if operation == "iter":
        return (iter(request[1]),)
    if operation == "next":
        return (next(request[1]),)
    if operation == "len":
        return (len(request[1]),)
    if operation == "item":
        return (request[1][request[2]],)
    raise ValueError(f"unknown operation {operation!r}")


def _images(arguments: list, objects: _Objects) -> dict[int, bytes | None]:
    """What the mutable arguments look like, to see which of them a call changed in place."""
    images: dict[int, bytes | None] = {}
    for n, argument in enumerate(arguments):
        if type(argument) in _MUTABLE:
            try:
                images[n] = codec.encode(argument)
            except codec.CodecError:
                images[n] = None
    return images


def _solver(names: dict[str, Any], name: str) -> Callable:
    """APPS: the function of that name, or the method of a fresh `Solution`."""
    if name in names and callable(names[name]):
        return names[name]
    if "Solution" in names:
        return getattr(names["Solution"](), name)
    raise NameError(f"the program defines neither {name} nor a class Solution")


# ---- the side of the test code ------------------------------------------------------------------


class RemoteError(Exception):
    """The program raised an exception of a class that is not built in."""


class ProgramGone(BaseException):
    """The program's process ended or answered nonsense; no `except Exception` hides it."""


class Remote:
    """An object that lives in the program's process."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int):
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._link.call(self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("set", self, name, value)

    def __iter__(self) -> Any:
        iterator = self._link.ask("iter", self)
        while True:
            try:
                yield self._link.ask("next", iterator)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._link.ask("next", self)

    def __len__(self) -> int:
        return self._link.ask("len", self)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("item", self, key)

    def __bool__(self) -> bool:
        raise TypeError("an object of the program has no truth value for a test")


class Link:
    """A connection to one program."""

    def __init__(self, channel: codec.Channel):
        self._channel = channel

    def ask(self, *request: Any) -> Any:
        return self._exchange(request)[0]

    def call(self, function: Remote, arguments: Sequence[Any], keywords: dict) -> Any:
        result, changed = self._exchange(("call", function, list(arguments), keywords))
        for n, value in changed.items():
            _copy_into(arguments[n], value)
        return result

    def _exchange(self, request: tuple) -> tuple:
        data = codec.encode(request, self._number)
        try:
            self._channel.send(data)
            reply = codec.decode(self._channel.receive(), lambda number: Remote(self, number))
            kind, *rest = reply
            if kind == "raised":
                name, text = rest
            elif (
                kind != "ok"
                or type(reply) is not tuple
                or (request[0] == "call" and (len(rest) != 2 or type(rest[1]) is not dict))
            ):
                raise codec.CodecError("a reply of no known form")
        except (EOFError, OSError, ValueError, TypeError) as error:
            raise ProgramGone(f"the program answered no more ({error})") from None
        if kind == "raised":
            raise _exception(name, text)
        return tuple(rest)

    def _number(self, value: Any) -> int:
        if type(value) is Remote and object.__getattribute__(value, "_link") is self:
            return object.__getattribute__(value, "_number")
        raise codec.CodecError(f"the test passes a {type(value).__name__}, which is no data")


def _is_result(operation: str, rest: list) -> bool:
    return len(rest) == 2 and type(rest[1]) is dict if operation == "call" else len(rest) == 1


def _copy_into(target: Any, value: Any) -> None:
    if type(target) not in _MUTABLE or type(target) is not type(value):
        raise ProgramGone("the program changed an argument into something else")
    if type(target) in (list, bytearray):
        target[:] = value
    else:
        target.clear()
        target.update(value)


def _exception(name: str, text: str) -> BaseException:
    kind = getattr(builtins, name, None) if type(name) is str else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass  # UnicodeDecodeError and others need more than a text
    return RemoteError(f"{name}: {text}")


def run_asserts(job: dict, report_fd: int, channels: Sequence[int]) -> None:
    """Runs the test code of `job` and reports to the supervisor.

    `job`: statements, entry_point, program_names, helper_names, module_names, nonce. `channels`:
    reading and writing descriptor of the program, then those of the helpers where there are any.
    Each passed statement is reported as its number; the nonce, which stands nowhere else, is sent
    only after the last one returned.
    """
    # Not readable through /proc by another process of the same user.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    program = Link(codec.Channel(channels[0], channels[1]))
    report = codec.Channel(-1, report_fd)
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    done = 0
    try:
        for name in job["module_names"]:
            names[name] = (
                importlib.import_module(name)
                if name in sys.stdlib_module_names
                else getattr(typing, name)
            )
        for name in job["program_names"]:
            names[name] = program.ask("name", name)
        if job["helper_names"]:
            helpers = Link(codec.Channel(channels[2], channels[3]))
            for name in job["helper_names"]:
                names[name] = helpers.ask("name", name)
        for statement in job["statements"]:
            exec(_compiled(statement, f"test{done}.py"), names)
            done += 1
            report.send(json.dumps({"passed": done}).encode())
        if job["entry_point"]:
            names["check"](names[job["entry_point"]])
        report.send(json.dumps({"nonce": job["nonce"]}).encode())
    except BaseException as error:
        report.send(json.dumps({"failed": done, "detail": _where(error)}).encode())
    os.close(report_fd)


def _compiled(statement: str, name: str) -> Any:
    linecache.cache[name] = (len(statement), None, statement.splitlines(keepends=True), name)
    return compile(statement, name, "exec", dont_inherit=True)


def _where(error: BaseException) -> str:
    """The failing line of the test code, and what was raised."""
    line, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith("test") and name.endswith(".py") and "/" not in name:
            line = linecache.getline(name, trace.tb_lineno).strip()
        trace = trace.tb_next
    kind = type(error).__name__
    text = _text(error)
    if isinstance(error, AssertionError) and line:
        return line[:200]
    return f"{line[:120]} -> {kind}: {text[:120]}" if line else f"{kind}: {text[:200]}"

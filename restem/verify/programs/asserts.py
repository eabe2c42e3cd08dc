"""Test code that calls into a program: HumanEval's and MBPP's assertions, in a separate jail.

A `Remote` stands for each name that the test code takes from the program, and a `Link` carries its
calls. A `Remote` never lets the program decide a comparison: it equals only itself and has no truth
value, so only data that the codec rebuilt can satisfy an assertion.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import linecache
import os
import sys
import typing
from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from typing import Any

from restem.verify.pool.transport import Channel
from restem.verify.programs import codec
from restem.verify.programs.calls import MUTABLE, check_reply, text_of, token
from restem.verify.sandbox import privacy


class RemoteError(Exception):
    """The program raised an exception whose class test code does not get; the text names it."""


class RemoteExit(BaseException):
    """The program raised what `except Exception` does not catch; the text names it."""


class ProgramGone(BaseException):
    """The program's process ended or sent an invalid reply; no test passes after it."""


class UnfitTest(BaseException):
    """The test passes to the program what is no data, so that it fails every program."""


class _NotData(codec.CodecError):
    """Something of the test's own, such as a function, cannot be sent to a program."""


class _Foreign(codec.CodecError):
    """An object of the program cannot be sent to the helpers' process."""


_MOST_ITEMS = 1 << 20
"""Most items of an iterator that a test passes to a program."""


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
    """A connection to one program, or to the helpers of the tests."""

    def __init__(self, channel: Channel, *, helpers: bool = False):
        self._channel = channel
        self._helpers = helpers
        self._remotes: dict[int, Remote] = {}
        self._end: BaseException | None = None

    def check(self) -> None:
        """Raises what ended the connection, even if test code has caught it."""
        if self._end is not None:
            raise self._end

    def _ended(self, error: BaseException) -> BaseException:
        self._end = self._end or error
        return error

    def ask(self, *request: Any) -> Any:
        return self._exchange(request)[0]

    def call(self, function: Remote, arguments: Sequence[Any], keywords: dict) -> Any:
        result, changed = self._exchange(("call", function, list(arguments), keywords))
        given = dict(enumerate(arguments)) | keywords
        for place, value in changed.items():
            _copy_into(given.get(place), value)
        return result

    def _exchange(self, request: tuple) -> tuple:
        mark = token()
        self.check()
        try:
            data = codec.encode([mark, *request], self._number)
        except _NotData as error:
            raise self._ended(UnfitTest(str(error))) from None
        except _Foreign as error:
            raise RemoteError(str(error)) from None
        except codec.CodecError as error:
            raise self._ended(ProgramGone(f"a value that cannot be sent ({error})")) from None
        try:
            self._channel.send(data)
            received = codec.decode(self._channel.receive(codec.MAX_VALUE), self._remote)
            kind, _, *rest = check_reply(received, mark, request[0])
        except (EOFError, OSError, ValueError, TypeError) as error:
            gone = ProgramGone(f"the program answered no more ({error})")
            raise self._ended(gone) from None
        if kind == "raised":
            name, built_in, text = rest
            raise _exception(name, built_in, text, request[0])
        return tuple(rest)

    def _remote(self, number: int) -> Remote:
        """Returns the proxy of an object of the program, always the same, so that `is` works."""
        return self._remotes.setdefault(number, Remote(self, number))

    def _number(self, value: Any) -> Any:
        """Returns the number of an object of the program, or the data in an iterator of the test.

        Raises:
          CodecError: if it is neither.
        """
        kind = type(value)
        if kind is Remote:
            link = object.__getattribute__(value, "_link")
            if link is self:
                return object.__getattribute__(value, "_number")
            if not link._helpers:
                raise _Foreign("the program returned an object where the test needs data")
            raise _NotData("the test passes an object of its helpers, which is no data")
        if kind.__module__ in ("builtins", "itertools"):
            if isinstance(value, Iterator):
                items = codec.Items(itertools.islice(value, _MOST_ITEMS + 1))
                if len(items) > _MOST_ITEMS:
                    raise _NotData("the test passes an iterator without an end")
                return items
            if isinstance(value, KeysView | ValuesView | ItemsView):
                return list(value)
        raise _NotData(f"the test passes a {kind.__name__}, which is no data")


def _copy_into(target: Any, value: Any) -> None:
    kind = next((kind for kind in MUTABLE if isinstance(target, kind)), None)
    if kind is None or not isinstance(value, kind):
        raise ProgramGone("the program changed an argument into something else")
    target.clear()
    if kind in (dict, set):
        target.update(value)
    else:
        target.extend(value)


def _exception(name: Any, built_in: Any, text: Any, operation: str) -> BaseException:
    """Returns what the test code sees of an exception that the program raised.

    It has the name of the program's class, and derives from the same built-in class, so that the
    same `except` catches it as if both ran in one process.

    An exception that ends iteration keeps its class only as the reply to "next". Elsewhere it would
    end an iterator of the test code itself: `all(map(f, values))` would hold without a value. PEP
    479 has the same rule for generators.
    """
    kind = getattr(builtins, built_in, None) if type(built_in) is str else None
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return RemoteError(f"{name}: {text}")
    if issubclass(kind, (StopIteration, StopAsyncIteration)) and operation != "next":
        return RemoteError(f"{name}: {text}")
    if not issubclass(kind, (Exception, SystemExit, KeyboardInterrupt)):
        return RemoteExit(f"{name}: {text}")
    for base in kind.__mro__:
        try:
            if type(name) is str and name.isidentifier() and name != base.__name__:
                base = type(name, (base,), {})
            return base(text)
        except TypeError:
            continue  # UnicodeDecodeError and others need more than a text
    return RemoteError(f"{name}: {text}")


def run_asserts(job: dict, report_fd: int, channels: Sequence[int]) -> None:
    """Runs the test code of `job` and reports to the supervisor.

    Each passed statement is reported by its number; the call of `check` belongs to the last one.
    The nonce, which exists nowhere else, is sent only after the last statement has returned.

    Args:
      job: statements, entry_point, calls_check, program_names, helper_names, module_names, nonce.
      report_fd: where reports are written.
      channels: descriptors to read from and write to the program, then the helpers' if any.
    """
    privacy.hide_memory()
    program = Link(Channel(channels[0], channels[1]))
    report = Channel(-1, report_fd)
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    done = 0
    links = [program]
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
            helpers = Link(Channel(channels[2], channels[3]), helpers=True)
            links.append(helpers)
            for name in job["helper_names"]:
                try:
                    names[name] = helpers.ask("name", name)
                except NameError:  # a helper that the program defines after its entry point
                    names[name] = program.ask("name", name)
        if job["entry_point"]:
            names.setdefault("candidate", names[job["entry_point"]])
        for statement in job["statements"]:
            exec(_compiled(statement, f"test{done}.py"), names)
            if job["calls_check"] and done == len(job["statements"]) - 1:
                names["check"](names[job["entry_point"]])
            for link in links:
                link.check()
            done += 1
            report.send_message({"passed": done})
        report.send_message({"nonce": job["nonce"]})
    except BaseException as error:
        unfit = isinstance(error, UnfitTest)
        report.send_message({"failed": done, "detail": _where(error), "unfit": unfit})
    os.close(report_fd)


def _compiled(statement: str, name: str) -> Any:
    linecache.cache[name] = (len(statement), None, statement.splitlines(keepends=True), name)
    return compile(statement, name, "exec", dont_inherit=True)


def _where(error: BaseException) -> str:
    """Returns the failing line of the test code and what was raised."""
    line, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith("test") and name.endswith(".py") and "/" not in name:
            line = linecache.getline(name, trace.tb_lineno).strip()
        trace = trace.tb_next
    kind = type(error).__name__
    text = text_of(error)
    if isinstance(error, AssertionError) and line:
        return line[:200]
    return f"{line[:120]} -> {kind}: {text[:120]}" if line else f"{kind}: {text[:200]}"

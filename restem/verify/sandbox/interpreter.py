"""A forked child that behaves like a newly started interpreter, from its streams to its exit."""

from __future__ import annotations

import atexit
import builtins
import fcntl
import functools
import io
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

CRASHED = 1
"""Exit status of a program that ended with an exception."""
MAIN, SOLUTION = "__main__", "solution"
"""Names of a program's module: as a script, and as a module whose functions are called."""


def read_all(fd: int) -> str:
    """Returns the text that one of the supervisor's descriptors holds."""
    parts, offset = [], 0
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "surrogatepass")


def null() -> int:
    return os.open("/dev/null", os.O_RDWR)


def aside(fds: list[int]) -> list[int]:
    """Moves descriptors above the standard ones and those that programs rely on; returns them."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in fds]
    for fd in fds:
        os.close(fd)
    return moved


def standard_streams(fds: list[int]) -> None:
    """Gives this process fresh standard streams, as a newly started interpreter has them."""
    for number, fd in enumerate(aside(fds)):
        os.dup2(fd, number)
        os.close(fd)
    text = functools.partial(open, encoding="utf-8", closefd=False)
    sys.stdin = text(0, errors="surrogateescape")
    sys.stdout = text(1, "w", errors="surrogateescape")
    sys.stderr = text(2, "w", buffering=1, errors="backslashreplace")
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def new_module(name: str) -> types.ModuleType:
    """Returns an empty module for a program, registered in `sys.modules`."""
    module = types.ModuleType(name)
    module.__dict__.update(__builtins__=builtins, __file__="main.py")
    sys.modules[name] = module
    return module


def script(order: dict, fds: list[int], code: types.CodeType | None) -> None:
    """Runs the program as a script, over the three standard streams in `fds`."""
    assert code is not None
    standard_streams(fds)
    leave_after(lambda: exec(code, new_module(MAIN).__dict__))


def leave_after(body: Callable[[], None]) -> None:
    """Runs `body` and ends the process as the interpreter would: threads, atexit, flush, status."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(1000 + depth)
    status = 0
    try:
        body()
    except SystemExit as end:
        status = _exit_status(end.code)
    except BaseException:
        status = CRASHED
        _try(lambda: traceback.print_exc())
    shutdown = threading._shutdown  # type: ignore[attr-defined]  # as Python's own exit calls it
    if not _try(shutdown) or not _try(atexit._run_exitfuncs):
        status = status or CRASHED
    for stream in _open_streams():
        flushed = _is_closed(stream) or _try(functools.partial(_flush, stream))
        if not flushed and stream is sys.stdout:
            status = status or 120
    os._exit(status)


def _open_streams() -> list:
    """Returns the streams that the interpreter flushes at its end: standard streams, open files."""
    streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    for name in (MAIN, SOLUTION):
        module = sys.modules.get(name)
        if isinstance(module, types.ModuleType):
            streams += [v for v in list(vars(module).values()) if isinstance(v, io.IOBase)]
    return list({id(stream): stream for stream in streams if stream is not None}.values())


def _is_closed(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except BaseException:  # as for Python itself, an object without the attribute is open
        return False


def _flush(stream: Any) -> None:
    stream.flush()


def _try(action: Callable[[], object]) -> bool:
    try:
        action()
    except BaseException:
        return False
    return True


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _try(lambda: print(code, file=sys.stderr))
    return CRASHED

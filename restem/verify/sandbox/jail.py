"""What runs inside a jail: its first process, and the programs that it starts.

The first process ("init", PID 1 of the jail's name space) already lost every privilege when it
gets here. It takes orders from the supervisor over a socket, forks a child for each, waits, kills
whatever the child left running, and reports. It holds neither a test nor an expected value, so a
program that took it over would gain nothing: its reports can only make a program fail.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import fcntl
import functools
import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable

from restem.verify.pool import codec
from restem.verify.programs import proxies
from restem.verify.sandbox.linux import calls as linux

CRASHED = 1
"""Exit status of a program that ended with an exception."""
_GIVEN = """
import bisect, collections, copy, functools, heapq, itertools, math
import operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
pow = __import__("builtins").pow
"""


def receive(control: socket.socket, most: int = 8) -> tuple[dict | None, list[int]]:
    """One order and its descriptors; None once the supervisor is gone."""
    size = struct.calcsize("i")
    data, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(most * size))
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(content) // size}i", content[: len(content) // size * size])
    return (json.loads(data) if data else None), fds


def _read_all(fd: int) -> str:
    """The text that a descriptor of the supervisor's holds."""
    parts, offset = [], 0
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "surrogatepass")


def serve(
    control: socket.socket,
    *,
    kill_others: Callable[[int], None],
    before_program: Callable[[], None],
) -> None:
    """The life of a jail's init; does not return."""
    code = None
    while True:
        order, fds = receive(control)
        if order is None:
            os._exit(0)
        if order["do"] == "load":
            code, problem = _compile(_read_all(fds[0]))
            os.close(fds[0])
            control.send(json.dumps({"loaded": problem}).encode())
            continue
        try:
            child = os.fork()
        except OSError as error:
            control.send(json.dumps({"error": str(error)}).encode())
            continue
        if child == 0:
            try:
                control.close()
                before_program()
                _run(order, fds, code)
            finally:
                os._exit(CRASHED)
        for fd in fds:
            os.close(fd)
        status, peak = _wait(child)
        kill_others(child)
        control.send(json.dumps({"status": status, "peak_kb": peak}).encode())


def _wait(child: int) -> tuple[int, int]:
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == child:
            return status, usage.ru_maxrss


def kill_name_space(child: int) -> None:
    """Kills all processes of the PID name space but its first, which is the caller."""
    if os.getpid() != 1:
        raise RuntimeError("only the first process of a PID name space may do this")
    while True:
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def kill_group(child: int) -> None:
    """Kills the process group of `child`, which no member can leave where there is seccomp.

    A process that could leave is killed by the zygote together with the jail.
    """
    for _ in range(50):
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _compile(source: str) -> tuple[types.CodeType | None, str]:
    try:
        return compile(source, "main.py", "exec", dont_inherit=True), ""
    except BaseException as error:
        return None, _last_line(error)


def _last_line(error: BaseException) -> str:
    try:
        return traceback.format_exception_only(error)[-1].strip()[:300]
    except BaseException:
        return type(error).__name__


def _run(order: dict, fds: list[int], code: types.CodeType | None) -> None:
    linux.die_with_parent()
    seconds = order["cpu_s"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if order["do"] == "script":
        _standard_streams(fds)
        _leave(lambda: _script(code))
    elif order["do"] == "calls":
        reader, writer, errors = _aside(fds)
        _standard_streams([_null(), _null(), errors])
        _leave(lambda: proxies.serve_calls(codec.Channel(reader, writer), lambda: _module(code)))
    elif order["do"] == "asserts":
        report, test, *channels, errors = _aside(fds)
        job = json.loads(_read_all(test))
        os.close(test)
        _standard_streams([_null(), _null(), errors])
        _leave(lambda: proxies.run_asserts(job, report, channels))


def _null() -> int:
    return os.open("/dev/null", os.O_RDWR)


def _aside(fds: list[int]) -> list[int]:
    """The same descriptors above the three standard ones and above what programs count on."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in fds]
    for fd in fds:
        os.close(fd)
    return moved


def _standard_streams(fds: list[int]) -> None:
    """Fresh standard streams, as a newly started interpreter has them."""
    for number, fd in enumerate(_aside(fds)):
        os.dup2(fd, number)
        os.close(fd)
    text = functools.partial(open, encoding="utf-8", closefd=False)
    sys.stdin = text(0, errors="surrogateescape")
    sys.stdout = text(1, "w", errors="surrogateescape")
    sys.stderr = text(2, "w", buffering=1, errors="backslashreplace")
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _new_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(__builtins__=builtins, __file__="main.py")
    sys.modules[name] = module
    return module


@functools.cache
def given_names() -> dict[str, object]:
    """Names that judges of functions (LeetCode; APPS's own checker) have imported for a program."""
    names: dict[str, object] = {"__name__": "solution"}
    exec(_GIVEN, names)
    del names["__builtins__"]
    return names


def _script(code: types.CodeType | None) -> None:
    assert code is not None
    exec(code, _new_module("__main__").__dict__)


def _module(code: types.CodeType | None) -> dict:
    """The program as an imported module: a `__main__` guard does not run."""
    assert code is not None
    module = _new_module("solution")
    module.__dict__.update(given_names())
    exec(code, module.__dict__)
    return module.__dict__


def _leave(body: Callable[[], None]) -> None:
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
        _say(lambda: traceback.print_exc())
    shutdown = threading._shutdown  # type: ignore[attr-defined]  # as Python's own exit calls it
    if not _say(shutdown) or not _say(atexit._run_exitfuncs):
        status = status or CRASHED
    for stream in _open_streams():
        if not _say(stream.flush) and stream is sys.stdout:
            status = status or 120
    os._exit(status)


def _open_streams() -> list:
    """What the interpreter would flush at its end: the standard streams, and files still held."""
    streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    for name in ("__main__", "solution"):
        module = sys.modules.get(name)
        if isinstance(module, types.ModuleType):
            streams += [v for v in list(vars(module).values()) if isinstance(v, io.IOBase)]
    return [stream for stream in dict.fromkeys(streams) if stream is not None]


def _say(action: Callable[[], object]) -> bool:
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
    _say(lambda: print(code, file=sys.stderr))
    return CRASHED

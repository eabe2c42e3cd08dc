"""The first process of a jail, which starts programs and ends them.

The first process ("init", PID 1 of the jail's namespace) has already lost every privilege. It takes
orders from the supervisor over a socket, forks a child for each, waits, kills all processes that
the child left running, and reports. It holds no test or expected value, so a program that took it
over would gain nothing: its reports can only make a program fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import time
import traceback
import types
import warnings
from collections.abc import Callable, Mapping

from restem.verify.pool import rlimits
from restem.verify.sandbox import interpreter, scratch
from restem.verify.sandbox.linux import syscalls

FORK_REFUSED = 72
"""Exit status of a jail that could not start a process, which is the machine's fault."""
Body = Callable[[dict, list[int], types.CodeType | None], None]
"""Function that a forked child runs, given an order, its descriptors and the loaded program."""
BODIES: Mapping[str, Body] = {"script": interpreter.script}
"""Orders that a jail accepts besides loading a program; `Config.guest` adds more."""


def receive(control: socket.socket, most: int = 8) -> tuple[dict | None, list[int]]:
    """Returns one order and its descriptors; None once the supervisor is gone."""
    size = struct.calcsize("i")
    data, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(most * size))
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(content) // size}i", content[: len(content) // size * size])
    return (json.loads(data) if data else None), fds


def serve(
    control: socket.socket,
    *,
    bodies: Mapping[str, Body],
    scratch_folder: str,
    kill_others: Callable[[int], None],
    before_program: Callable[[], None],
) -> None:
    """Runs as a jail's init; does not return."""
    code = None
    while True:
        order, fds = receive(control)
        if order is None:
            os._exit(0)
        if order["do"] == "load":
            code, problem = _compile(interpreter.read_all(fds[0]))
            os.close(fds[0])
            control.send(json.dumps({"loaded": problem}).encode())
            continue
        if order["empties_scratch"]:
            scratch.empty(scratch_folder)
        try:
            child = os.fork()
        except OSError:
            os._exit(FORK_REFUSED)
        if child == 0:
            try:
                control.close()
                before_program()
                syscalls.die_with_parent()
                seconds = order["cpu_s"]
                rlimits.bound(resource.RLIMIT_CPU, seconds, seconds + 1)
                bodies[order["do"]](order, fds, code)
            finally:
                os._exit(interpreter.CRASHED)
        for fd in fds:
            os.close(fd)
        status, peak = _wait(child)
        kill_others(child)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = {"status": status, "peak_kb": peak, "cpu_s": used.ru_utime + used.ru_stime}
        control.send(json.dumps(report).encode())


def _wait(child: int) -> tuple[int, int]:
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == child:
            return status, usage.ru_maxrss


def kill_namespace(child: int) -> None:
    """Kills all processes of the PID namespace except its first, which is the caller."""
    if os.getpid() != 1:
        raise RuntimeError("only the first process of a PID namespace may do this")
    while True:
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def kill_group(child: int) -> None:
    """Kills the process group of `child`, which no member can leave if seccomp is in force.

    The zygote kills a process that did leave together with the jail.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this process has the caller's standard error
            return compile(source, "main.py", "exec", dont_inherit=True), ""
    except BaseException as error:
        return None, _last_line(error)


def _last_line(error: BaseException) -> str:
    try:
        return traceback.format_exception_only(error)[-1].strip()[:300]
    except BaseException:
        return type(error).__name__

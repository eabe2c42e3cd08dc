"""One program's execution in jails: its descriptors, its limits, and how it ended.

All decisions are made outside the jails, from bytes that the program wrote and from the reports of
its jail. A report can only make a program fail.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable

from restem.verify.pool.lines import one_line
from restem.verify.pool.transport import FrameBuffer, FrameError
from restem.verify.sandbox import jails, process_tree, scratch
from restem.verify.sandbox.limits import Limits

STDERR_KEPT = 1 << 16
"""Maximum bytes of standard error that are kept for the detail of a verdict."""
_WATCH_S = 0.05
"""Seconds between two looks at a program's memory, or at its time once its limit is over."""
_MOST_PATIENCE = 3.0
"""Multiple of its time limit that a test may last while other programs keep the cores busy."""


class Failure(Exception):
    """The program failed; its arguments are the method and the detail of the verdict."""


class Sink:
    """The output of one descriptor, up to a limit."""

    def __init__(self, fd: int, limit: int, keep: int | None = None):
        self.fd, self.limit, self.keep = fd, limit, keep
        self.parts: list[bytes] = []
        self.size = 0
        self.open = True
        os.set_blocking(fd, False)

    def read(self) -> None:
        try:
            data = os.read(self.fd, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            self.open = False
        elif self.keep is None or self.size < self.keep:
            self.parts.append(data)
        self.size += len(data)

    def renew(self) -> None:
        """Forgets the output so far, so that the next test has the whole limit."""
        self.parts.clear()
        self.size = 0

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode("utf-8", "surrogateescape")


class FrameSink(Sink):
    """The output of one descriptor, as frames of at most `limit` bytes."""

    def __init__(self, fd: int, limit: int):
        super().__init__(fd, limit)
        self.frames = FrameBuffer(limit)

    def read(self) -> None:
        try:
            data = os.read(self.fd, 1 << 18)
        except BlockingIOError:
            return
        self.open = bool(data)
        try:
            self.frames.feed(data)
        except FrameError:
            raise Failure("output", f"a value of more than {self.frames.limit} bytes") from None


class Source:
    """Bytes for one descriptor, written as its reader takes them."""

    def __init__(self, fd: int, data: bytes):
        self.fd = fd
        self.rest = memoryview(data)
        os.set_blocking(fd, False)

    def write(self) -> None:
        try:
            self.rest = self.rest[os.write(self.fd, self.rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # why the reader is gone is for its jail to say
            self.rest = self.rest[:0]


class Execution:
    """One program on one worker; a context manager that leaves no process behind.

    Any method, and the end of the context, may raise ChildProcessError if the machine refuses the
    worker a process; that says nothing of the program.
    """

    def __init__(self, worker: jails.Worker, limits: Limits, *, hangup_fd: int | None = None):
        self.worker = worker
        self.limits = limits
        self.hangup_fd = hangup_fd
        self.started = time.monotonic()
        self.oom_before = worker.out_of_memory_kills()
        self._jails: list[jails.Jail] = []
        self._fds: list[int] = []
        self._cpu_s: dict[int, float] = {}

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        for jail in self._jails:
            jail.close()
        self.close(*self._fds)

    # ---- descriptors ----

    def close(self, *fds: int) -> None:
        """Closes descriptors of this execution."""
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
            if fd in self._fds:
                self._fds.remove(fd)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._fds += ends
        return ends

    def file(self, text: str) -> int:
        """Returns a file in memory that holds a text: a program's standard input or source."""
        fd = os.memfd_create("text", os.MFD_CLOEXEC)
        self._fds.append(fd)
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    # ---- jails ----

    def jail(self, *, untrusted: bool = True, source: str | None = None) -> jails.Jail:
        """Returns a fresh jail, which loads the program `source` if one is given."""
        jail = self.worker.fork(untrusted=untrusted)
        self._jails.append(jail)
        if source is not None:
            fd = self.file(source)
            jail.order({"do": "load"}, [fd])
            self.close(fd)
        return jail

    def order(
        self,
        jail: jails.Jail,
        what: str,
        fds: list[int],
        seconds: float,
        *,
        empties_scratch: bool = False,
    ) -> None:
        """Starts a process in a jail; the descriptors are closed on this side."""
        order = {"do": what, "cpu_s": math.ceil(seconds) + 1, "empties_scratch": empties_scratch}
        jail.order(order, fds)
        self.close(*fds)

    # ---- waiting ----

    def wait(
        self,
        sinks: list[Sink],
        jail: jails.Jail | None,
        seconds: float,
        done: Callable[[], bool] | None,
        *,
        source: Source | None = None,
    ) -> dict | None:
        """Reads until `done()`, or until the jail has reported and all sinks have ended.

        Meanwhile, `source` is written.

        Returns:
          The jail's report; None if `done()` came first.

        Raises:
          Failure: if the deadline or another limit is exceeded.
          EOFError: if the caller is gone.
        """
        start = time.monotonic()
        poll = select.poll()
        by_fd = {sink.fd: sink for sink in sinks if sink.open}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        control = None
        if jail is not None:
            control = jail.control.fileno()
            poll.register(control, select.POLLIN)
        if self.hangup_fd is not None:
            poll.register(self.hangup_fd, 0)
        if source is not None:
            poll.register(source.fd, select.POLLOUT)
        report: dict | None = None
        next_watch, next_check = start + 2 * _WATCH_S, start
        while True:
            ended = control is None and not any(sink.open for sink in by_fd.values())
            if (done is not None and done()) or ended:
                self._watch_scratch()
                return report
            now = time.monotonic()
            if now >= next_watch:
                self._watch_memory()
                self._watch_scratch()
                next_watch = now + _WATCH_S
            left = start + seconds - now
            if left <= 0 and now >= next_check:
                self._check_deadline(-left, seconds)
                next_check = now + _WATCH_S
            for fd, _ in poll.poll(1000 * (min(_WATCH_S, left) if left > 0 else _WATCH_S)):
                if fd == self.hangup_fd:
                    raise EOFError("the caller is gone")
                if source is not None and fd == source.fd:
                    source.write()
                    if not source.rest:
                        poll.unregister(fd)
                    continue
                if fd == control:
                    message = jail.reply()
                    if message is None or "fatal" in message:
                        raise self._dead_jail(message)
                    if "loaded" in message:
                        if message["loaded"]:
                            raise Failure("error", str(message["loaded"])[:200])
                        continue
                    report, control = message, None
                    self._note_cpu(jail, message)
                    poll.unregister(fd)
                    continue
                sink = by_fd[fd]
                sink.read()
                if sink.size > sink.limit:
                    raise Failure("output", f"more than {sink.limit >> 20} MiB of output")
                if not sink.open:
                    poll.unregister(fd)

    def _note_cpu(self, jail: jails.Jail, report: dict) -> None:
        """Notes the CPU time of a jail's ended children, which does not count for the next test."""
        used = report.get("cpu_s")
        if isinstance(used, (int, float)) and 0 <= used < 1e6:
            self._cpu_s[jail.number] = float(used)

    def _dead_jail(self, message: dict | None) -> Failure:
        if message is not None:  # no program has been loaded yet, so the machine is at fault
            raise ChildProcessError(f"no jail for a program ({str(message['fatal'])[:200]})")
        if self.worker.out_of_memory_kills() > self.oom_before:
            return Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")
        return Failure("error", "the program ended its jail")

    def _watch_memory(self) -> None:
        if self.worker.cgroup is not None and self.worker.cgroup.memory:
            if self.worker.out_of_memory_kills() > self.oom_before:
                raise Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")
            return
        allowed = (self.limits.memory_mb + 64) << 20
        if process_tree.memory_bytes(self.worker.pid) > allowed:
            raise Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")

    def _watch_scratch(self) -> None:
        if self.worker.scratch_is_full():
            most = f"{self.limits.scratch_mb} MiB or {scratch.MOST_ENTRIES} files"
            raise Failure("error", f"more than {most} in the scratch folder")

    def _check_deadline(self, over: float, seconds: float) -> None:
        """Raises Failure if a test that is `over` its limit by so much has had its time.

        This looks at every process of the machine, so it costs the judge milliseconds.
        """
        before = sum(self._cpu_s.values())
        waited = process_tree.wait_for_others_s(self.worker.pid, before)
        if over >= min(waited, (_MOST_PATIENCE - 1) * seconds):
            raise Failure("timeout", f"more than {seconds:g} s")
        if time.monotonic() - self.started > self.limits.program_limit_s * _MOST_PATIENCE:
            raise Failure("timeout", f"more than {self.limits.program_limit_s:g} s for all tests")

    def seconds_left(self) -> float:
        """Returns the time limit of the next test in seconds."""
        left = self.limits.program_limit_s - (time.monotonic() - self.started)
        if left <= 0:
            raise Failure("timeout", f"more than {self.limits.program_limit_s:g} s for all tests")
        return min(self.limits.time_limit_s, max(left, 0.1))

    def check_ended_well(self, report: dict | None, errors: Sink) -> None:
        """Raises Failure unless the process ended with status 0."""
        status = (report or {}).get("status")
        if not isinstance(status, int):
            raise Failure("error", "no report")
        if status == 0:
            return
        if self.worker.out_of_memory_kills() > self.oom_before:
            raise Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")
        last = _last_line(errors.text)
        if last.startswith("MemoryError"):
            raise Failure("memory", f"MemoryError: more than {self.limits.memory_mb} MiB")
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU:
                raise Failure("timeout", f"more than {self.limits.time_limit_s:g} s of CPU")
            raise Failure("error", f"killed by {_signal_name(number)}")
        raise Failure("error", f"exit status {os.WEXITSTATUS(status)}" + (last and f": {last}"))

    def script(self, jail: jails.Jail, given: str, seconds: float, *, order: str = "script") -> str:
        """Returns the standard output of the jail's program for one standard input.

        Raises:
          Failure: if the program does not end with status 0.
        """
        out, err = self.pipe(), self.pipe()
        self.worker.give(out[1])
        self.worker.give(err[1])
        fds = [self.file(given), out[1], err[1]]
        self.order(jail, order, fds, seconds, empties_scratch=True)
        limit = self.limits.output_mb << 20
        output, errors = Sink(out[0], limit), Sink(err[0], limit, STDERR_KEPT)
        report = self.wait([output, errors], jail, seconds, None)
        self.close(out[0], err[0])
        self.check_ended_well(report, errors)
        return output.text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1], 160) if lines else ""

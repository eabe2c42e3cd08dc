"""Running one program against its tests, in jails, and deciding.

Decisions are taken here, outside of every jail, from three things only: bytes that the program
wrote, values that the codec rebuilt, and a nonce that test code in its own jail sends after its
last statement. That a program ended in good order never makes it right; that it ended in disorder
always makes it wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import select
import signal
import struct
import time
from collections.abc import Callable

from restem.verify.pool import codec
from restem.verify.programs import outputs as compare
from restem.verify.programs.tests import Asserts, Calls, StandardInput, Tests
from restem.verify.sandbox import jails, process_tree
from restem.verify.sandbox.limits import Limits

_STDERR_KEPT = 1 << 16
_WATCH_S = 0.05
_MOST_PATIENCE = 3.0
"""A test may last this many times its limit while it waits for a core that others keep busy."""


@dataclasses.dataclass
class Outcome:
    """How a program fared."""

    reward: float
    method: str
    detail: str = ""
    passed: int = 0
    total: int = 0


class Failure(Exception):
    """The program failed; its arguments are the method and the detail of the verdict."""


class _Sink:
    """What comes out of one descriptor, up to a limit."""

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

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode("utf-8", "surrogateescape")


class Run:
    """One program on one worker; a context manager that leaves no process behind."""

    def __init__(self, worker: jails.Worker, limits: Limits, *, hangup_fd: int | None = None):
        self.worker = worker
        self.limits = limits
        self.hangup_fd = hangup_fd
        self.started = time.monotonic()
        self.oom_before = worker.out_of_memory_kills()
        self._jails: list[jails.Jail] = []
        self._fds: list[int] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for jail in self._jails:
            jail.close()
        self._close(*self._fds)

    # ---- descriptors ----

    def _keep(self, *fds: int) -> None:
        self._fds += fds

    def _close(self, *fds: int) -> None:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
            if fd in self._fds:
                self._fds.remove(fd)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._keep(*ends)
        return ends

    def _file(self, text: str) -> int:
        """A text as a file in memory, which a program gets as its standard input or source."""
        fd = os.memfd_create("text", os.MFD_CLOEXEC)
        self._keep(fd)
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    # ---- jails ----

    def jail(self, *, untrusted: bool = True, source: str | None = None) -> jails.Jail:
        jail = self.worker.fork(untrusted=untrusted)
        self._jails.append(jail)
        if source is not None:
            fd = self._file(source)
            jail.order({"do": "load"}, [fd])
            self._close(fd)
        return jail

    def order(self, jail: jails.Jail, what: str, fds: list[int], seconds: float) -> None:
        """Starts a process in a jail; the descriptors are closed on this side."""
        jail.order({"do": what, "cpu_s": math.ceil(seconds) + 1}, fds)
        self._close(*fds)

    # ---- waiting ----

    def wait(
        self,
        sinks: list[_Sink],
        jail: jails.Jail | None,
        seconds: float,
        done: Callable[[], bool] | None,
    ) -> dict | None:
        """Reads until `done()`, or until the jail reports and all sinks are at their end.

        Returns the report; raises Failure at the deadline or over a limit.
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
        report: dict | None = None
        next_watch = start + 2 * _WATCH_S
        while True:
            if done is not None and done():
                return report
            if control is None and not any(sink.open for sink in by_fd.values()):
                return report
            now = time.monotonic()
            if now >= next_watch:
                self._watch_memory()
                next_watch = now + _WATCH_S
            self._check_deadline(start, now, seconds)
            for fd, _ in poll.poll(1000 * min(_WATCH_S, max(0.001, start + seconds - now))):
                if fd == self.hangup_fd:
                    raise EOFError("the caller is gone")
                if fd == control:
                    message = jail.reply()
                    if message is None or "fatal" in message:
                        raise self._dead_jail(message)
                    if "loaded" in message:
                        if message["loaded"]:
                            raise Failure("error", str(message["loaded"])[:200])
                        continue
                    report, control = message, None
                    poll.unregister(fd)
                    continue
                sink = by_fd[fd]
                sink.read()
                if sink.size > sink.limit:
                    raise Failure("output", f"more than {sink.limit >> 20} MiB of output")
                if not sink.open:
                    poll.unregister(fd)

    def _dead_jail(self, message: dict | None) -> Failure:
        if message is not None:
            return Failure("error", f"sandbox: {str(message['fatal'])[:200]}")
        if self.worker.out_of_memory_kills() > self.oom_before:
            return Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")
        return Failure("error", "the program ended its jail")

    def _watch_memory(self) -> None:
        if self.worker.cgroup is not None and self.worker.cgroup.memory:
            if self.worker.out_of_memory_kills() > self.oom_before:
                raise Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")
            return
        allowed = (self.limits.memory_mb + 64) << 20
        if process_tree.private_bytes(self.worker.pid) > allowed:
            raise Failure("memory", f"more than {self.limits.memory_mb} MiB in all processes")

    def _check_deadline(self, start: float, now: float, seconds: float) -> None:
        over = now - start - seconds
        if over >= 0:
            waited = process_tree.longest_wait_s(self.worker.pid)
            if over >= min(waited, (_MOST_PATIENCE - 1) * seconds):
                raise Failure("timeout", f"more than {seconds:g} s")
        if now - self.started > self.limits.program_limit_s * _MOST_PATIENCE:
            raise Failure("timeout", f"more than {self.limits.program_limit_s:g} s for all tests")

    def seconds_left(self) -> float:
        """The time limit of the next test."""
        left = self.limits.program_limit_s - (time.monotonic() - self.started)
        if left <= 0:
            raise Failure("timeout", f"more than {self.limits.program_limit_s:g} s for all tests")
        return min(self.limits.time_limit_s, max(left, 0.1))

    def check_ended_well(self, report: dict | None, errors: _Sink) -> None:
        """Raises Failure unless the process ended with status 0."""
        if report is None or "error" in report or not isinstance(report.get("status"), int):
            raise Failure("error", str((report or {}).get("error", "no report"))[:200])
        status = report["status"]
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return compare.short(lines[-1], 160) if lines else ""


def judge(run: Run, program: str, tests: Tests) -> Outcome:
    """The verdict on a whole program; first failure stops."""
    total = len(tests.statements) if isinstance(tests, Asserts) else len(tests.inputs)
    outcome = Outcome(0.0, "tests", total=total)
    try:
        if isinstance(tests, StandardInput):
            _standard_input(run, program, tests, outcome)
        elif isinstance(tests, Calls):
            _calls(run, program, tests, outcome)
        else:
            _asserts(run, program, tests, outcome)
        outcome.reward = 1.0
    except Failure as failure:
        outcome.method, detail = failure.args
        at = f"test {min(outcome.passed + 1, total)} of {total}: "
        outcome.detail = at + " ".join(detail.split())
    return outcome


def run_script(run: Run, jail: jails.Jail, given: str, seconds: float) -> str:
    """Standard output of the jail's program for one standard input; Failure unless it ends well."""
    out, err = run._pipe(), run._pipe()
    run.worker.give(out[1])
    run.worker.give(err[1])
    run.order(jail, "script", [run._file(given), out[1], err[1]], seconds)
    limit = run.limits.output_mb << 20
    output, errors = _Sink(out[0], limit), _Sink(err[0], limit, _STDERR_KEPT)
    report = run.wait([output, errors], jail, seconds, None)
    run._close(out[0], err[0])
    run.check_ended_well(report, errors)
    return output.text


def _standard_input(run: Run, program: str, tests: StandardInput, outcome: Outcome) -> None:
    jail = run.jail(source=program)
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        found = run_script(run, jail, given, run.seconds_left())
        if not compare.output_matches(expected, found):
            raise Failure(
                "tests", f"expected {compare.short(expected)!r}, got {compare.short(found)!r}"
            )
        outcome.passed += 1


def _calls(run: Run, program: str, tests: Calls, outcome: Outcome) -> None:
    jail = run.jail(source=program)
    request, reply, err = run._pipe(), run._pipe(), run._pipe()
    run.order(jail, "calls", [request[0], reply[1], err[1]], run.limits.program_limit_s)
    os.set_blocking(request[1], False)
    output = _Sink(reply[0], codec.MAX_FRAME)
    errors = _Sink(err[0], run.limits.output_mb << 20, _STDERR_KEPT)
    for arguments, expected in zip(tests.inputs, tests.outputs, strict=True):
        seconds = run.seconds_left()
        message = codec.frame(codec.encode(["solve", tests.fn_name, arguments]))
        found = _exchange(run, jail, request[1], message, output, errors, seconds)
        if found[0] == "raised":
            method = "memory" if found[1] == "MemoryError" else "error"
            raise Failure(method, f"{found[1]}: {compare.short(found[2], 160)}")
        if not compare.returned_value_matches(expected, found[1], wrapped=tests.wrapped):
            raise Failure(
                "tests", f"expected {compare.short(expected)}, got {compare.short(found[1])}"
            )
        outcome.passed += 1


def _exchange(run, jail, request_fd, message, output, errors, seconds) -> tuple:
    """One call: the reply as a tuple whose form is checked."""
    output.parts, output.size = [], 0
    rest = memoryview(message)

    def done() -> bool:
        nonlocal rest
        if rest:
            try:
                rest = rest[os.write(request_fd, rest) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                rest = memoryview(b"")
        data = b"".join(output.parts)
        output.parts = [data] if data else []
        return len(data) >= 4 and len(data) >= 4 + struct.unpack("<I", data[:4])[0]

    report = run.wait([output, errors], jail, seconds, done)
    data = b"".join(output.parts)
    if len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
        run.check_ended_well(report, errors)
        raise Failure("error", "the program ended before it returned")
    try:
        reply = codec.decode(data[4:])
    except codec.CodecError as error:
        raise Failure("error", f"no value: {error}") from None
    if type(reply) is not tuple or (reply[:1], len(reply)) not in ((("ok",), 2), (("raised",), 3)):
        raise Failure("error", "a reply of no known form")
    return reply


def _asserts(run: Run, program: str, tests: Asserts, outcome: Outcome) -> None:
    from restem.verify.programs import text as program_text

    errors: list[_Sink] = []
    channels: list[int] = []
    sources = [program]
    if tests.helper_names:
        prompt = tests.prompt or program
        sources.append(program_text.preamble(prompt, tests.entry_point or ""))
    for source in sources:
        jail = run.jail(source=source)
        to_program, to_test, err = run._pipe(), run._pipe(), run._pipe()
        run.order(jail, "calls", [to_program[0], to_test[1], err[1]], run.limits.program_limit_s)
        channels += [to_test[0], to_program[1]]
        errors.append(_Sink(err[0], run.limits.output_mb << 20, _STDERR_KEPT))
    nonce = secrets.token_hex(16)
    fields = ("statements", "entry_point", "program_names", "helper_names", "module_names")
    job = {name: getattr(tests, name) for name in fields} | {"nonce": nonce}
    tester = run.jail(untrusted=False)
    report_pipe, test_err = run._pipe(), run._pipe()
    fds = [report_pipe[1], run._file(json.dumps(job)), *channels, test_err[1]]
    run.order(tester, "asserts", fds, run.limits.program_limit_s)
    reports = _Sink(report_pipe[0], codec.MAX_FRAME)
    errors.append(_Sink(test_err[0], run.limits.output_mb << 20, _STDERR_KEPT))
    seen = 0
    while True:
        before = outcome.passed

        def done(seen: int = seen) -> bool:
            return not reports.open or len(_frames(reports)) > seen

        run.wait([reports, *errors], None, run.seconds_left(), done)
        frames = _frames(reports)
        if len(frames) <= seen:
            raise Failure("error", "the test code ended without a verdict")
        message = json.loads(frames[seen])
        seen += 1
        if "passed" in message:
            outcome.passed = before + 1
        elif secrets.compare_digest(str(message.get("nonce", "")), nonce):
            outcome.passed = outcome.total
            return
        else:
            raise _test_failure(run, str(message.get("detail", "")), errors[0])


def _frames(sink: _Sink) -> list[bytes]:
    data = b"".join(sink.parts)
    frames = []
    while len(data) >= 4:
        size = struct.unpack("<I", data[:4])[0]
        if len(data) < 4 + size:
            break
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames


def _test_failure(run: Run, detail: str, errors: _Sink) -> Failure:
    if run.worker.out_of_memory_kills() > run.oom_before or "MemoryError" in detail:
        return Failure("memory", f"more than {run.limits.memory_mb} MiB: {detail[:160]}")
    method = "error" if " -> " in detail or not detail.startswith("assert") else "tests"
    return Failure(method, detail[:300])

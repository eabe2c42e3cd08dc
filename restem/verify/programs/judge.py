"""The judge, which runs a program against its tests in jails and decides.

The judge decides outside every jail, from three things only: bytes that the program wrote, values
that the codec rebuilt, and a nonce that test code in its own jail sends after its last statement.
A clean exit never makes a program right; a failed one always makes it wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import Any

from restem.verify.pool.transport import frame
from restem.verify.programs import calls, codec
from restem.verify.programs.outputs import output_matches, returned_value_matches, short
from restem.verify.programs.tests import Asserts, Calls, StandardInput, Tests
from restem.verify.programs.text import compiles, preamble
from restem.verify.sandbox.execution import (
    STDERR_KEPT,
    Execution,
    Failure,
    FrameSink,
    Sink,
    Source,
)
from restem.verify.sandbox.jails import Jail

MAX_REPORT = 1 << 16
"""Maximum bytes of one report of test code."""
_SPARE_REPLY = 1 << 20
"""Bytes that any reply may have, even if the expected value is short."""
_LONGEST_ITEM = 32
"""Most bytes on the wire per byte of an equal expected value: those of a float in hexadecimal."""
_READ_S, _READ_RATE = 2.0, 1e6
"""CPU seconds to read and compare any reply, and bytes that add another second."""


@dataclasses.dataclass
class Outcome:
    """The outcome of a program's tests."""

    reward: float
    method: str
    detail: str = ""
    passed: int = 0
    total: int = 0
    unfit: bool = False
    """Whether the test is to blame, because it would fail every program."""


class _Unfit(Failure):
    """The program failed a test that fails every program."""


def judge(
    run: Execution, program: str, tests: Tests, *, before_test: Callable[[], None] = lambda: None
) -> Outcome:
    """Runs a program against its tests until the first failure; returns the outcome.

    Args:
      run: execution of the program.
      program: source text.
      tests: tests of the problem.
      before_test: called before each test; renews the judge's own limits.
    """
    total = len(tests.statements) if isinstance(tests, Asserts) else len(tests.inputs)
    outcome = Outcome(0.0, "tests", total=total)
    try:
        if isinstance(tests, StandardInput):
            steps = _standard_input(run, program, tests)
        elif isinstance(tests, Calls):
            steps = _calls(run, program, tests)
        else:
            steps = _asserts(run, program, tests)
        before_test()
        for passed in steps:
            outcome.passed = passed
            before_test()
        outcome.reward = 1.0
    except Failure as failure:
        outcome.method, detail = failure.args
        outcome.unfit = isinstance(failure, _Unfit)
        at = f"test {min(outcome.passed + 1, total)} of {total}: "
        outcome.detail = at + " ".join(detail.split())
    return outcome


class _Late(BaseException):
    """The judge's own work takes too long; only `_own_work` catches this."""


@contextlib.contextmanager
def _own_work(size: int) -> Iterator[None]:
    """Bounds the CPU time of the judge's own work on a reply to a test of `size` bytes.

    The sizes of values are bounded before they are used, so that no single step takes long; the
    interpreter handles the signal between two steps.
    """

    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, _READ_S + size / _READ_RATE)
    try:
        yield
    except _Late:
        detail = "the verifier takes too long to read what the program returned"
        raise Failure("output", detail) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _size(value: Any) -> int:
    """Returns the approximate number of bytes of a value in JSON."""
    try:
        return len(json.dumps(value))
    except ValueError:  # an integer of thousands of digits
        return codec.MAX_VALUE


def _standard_input(run: Execution, program: str, tests: StandardInput) -> Iterator[int]:
    """Yields the number of passed tests, after each."""
    jail = run.jail(source=program)
    for n, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
        found = run.script(jail, given, run.seconds_left(), order="standard_input")
        with _own_work(len(expected) + len(found)):
            if not output_matches(expected, found):
                raise Failure("tests", f"expected {short(expected)!r}, got {short(found)!r}")
        yield n


def _calls(run: Execution, program: str, tests: Calls) -> Iterator[int]:
    """Yields the number of passed tests, after each."""
    jail = run.jail(source=program)
    request, reply, err = run.pipe(), run.pipe(), run.pipe()
    run.order(jail, "calls", [request[0], reply[1], err[1]], run.limits.program_limit_s)
    answers = FrameSink(reply[0], codec.MAX_VALUE)
    errors = Sink(err[0], run.limits.output_mb << 20, STDERR_KEPT)
    for n, (arguments, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
        seconds = run.seconds_left()
        mark = calls.token()
        call = frame(codec.encode([mark, "solve", tests.fn_name, arguments]))
        size = _size(expected)
        answers.frames.limit = min(codec.MAX_VALUE, _SPARE_REPLY + _LONGEST_ITEM * size)
        data = _exchange(run, jail, Source(request[1], call), answers, errors, seconds)
        with _own_work(size):
            _compare(data, mark, expected, wrapped=tests.wrapped)
        errors.renew()
        yield n


def _exchange(
    run: Execution,
    jail: Jail,
    request: Source,
    answers: FrameSink,
    errors: Sink,
    seconds: float,
) -> bytes:
    """Makes one call; returns the bytes of the reply."""
    answer: bytes | None = None

    def done() -> bool:
        nonlocal answer
        answer = answers.frames.take()
        return answer is not None

    report = run.wait([answers, errors], jail, seconds, done, source=request)
    if answer is None:
        run.check_ended_well(report, errors)
        raise Failure("error", "the program ended before it returned")
    if answers.frames:
        raise Failure("error", "more than one reply to a call")
    return answer


def _compare(data: bytes, mark: str, expected: Any, *, wrapped: bool) -> None:
    """Raises Failure unless a reply returns the expected value."""
    try:
        kind, _, *rest = calls.check_reply(codec.decode(data), mark, "solve")
    except codec.CodecError as error:
        raise Failure("error", f"no value: {error}") from None
    if kind == "raised":
        name, built_in, text = rest
        method = "memory" if built_in == "MemoryError" else "error"
        raise Failure(method, f"{short(name)}: {short(text, 160)}")
    if not returned_value_matches(expected, rest[0], wrapped=wrapped):
        raise Failure("tests", f"expected {short(expected)}, got {short(rest[0])}")


def _asserts(run: Execution, program: str, tests: Asserts) -> Iterator[int]:
    """Yields the number of passed statements, after each."""
    errors: list[Sink] = []
    channels: list[int] = []
    sources = [program]
    if tests.helper_names:
        # The whole prompt, so that no program can replace a helper in it.
        whole = tests.prompt and compiles(tests.prompt)
        entry_point = tests.entry_point or ""
        sources.append(tests.prompt if whole else preamble(tests.prompt or program, entry_point))
    for source in sources:
        jail = run.jail(source=source)
        to_program, to_test, err = run.pipe(), run.pipe(), run.pipe()
        run.order(jail, "calls", [to_program[0], to_test[1], err[1]], run.limits.program_limit_s)
        channels += [to_test[0], to_program[1]]
        errors.append(Sink(err[0], run.limits.output_mb << 20, STDERR_KEPT))
    nonce = secrets.token_hex(16)
    fields = (
        "statements", "entry_point", "calls_check", "program_names", "helper_names", "module_names",
    )  # fmt: skip
    job = {name: getattr(tests, name) for name in fields} | {"nonce": nonce}
    tester = run.jail(untrusted=False)
    report_pipe, test_err = run.pipe(), run.pipe()
    fds = [report_pipe[1], run.file(json.dumps(job)), *channels, test_err[1]]
    run.order(tester, "asserts", fds, run.limits.program_limit_s)
    reports = FrameSink(report_pipe[0], MAX_REPORT)
    errors.append(Sink(test_err[0], run.limits.output_mb << 20, STDERR_KEPT))
    passed = 0
    while True:
        report: bytes | None = None

        def done() -> bool:
            nonlocal report
            report = reports.frames.take()
            return report is not None or not reports.open

        run.wait([reports, *errors], None, run.seconds_left(), done)
        if report is None:
            raise Failure("error", "the test code ended without a verdict")
        message = json.loads(report)
        if "passed" in message:
            passed += 1
            for sink in errors:
                sink.renew()
            yield passed
        elif secrets.compare_digest(str(message.get("nonce", "")), nonce):
            return
        elif message.get("unfit"):
            raise _Unfit("error", str(message.get("detail", ""))[:300])
        else:
            raise _test_failure(run, str(message.get("detail", "")))


def _test_failure(run: Execution, detail: str) -> Failure:
    if run.worker.out_of_memory_kills() > run.oom_before or "MemoryError" in detail:
        return Failure("memory", f"more than {run.limits.memory_mb} MiB: {detail[:160]}")
    method = "error" if " -> " in detail or not detail.startswith("assert") else "tests"
    return Failure(method, detail[:300])

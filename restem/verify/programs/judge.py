"""Running one program against its tests, in jails, and deciding.

Decisions are taken here, outside of every jail, from three things only: bytes that the program
wrote, values that the codec rebuilt, and a nonce that test code in its own jail sends after its
last statement. That a program ended in good order never makes it right; that it ended in disorder
always makes it wrong.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets

from restem.verify.pool.transport import frame
from restem.verify.programs import codec
from restem.verify.programs.outputs import output_matches, returned_value_matches, short
from restem.verify.programs.tests import Asserts, Calls, StandardInput, Tests
from restem.verify.programs.text import preamble
from restem.verify.sandbox.execution import STDERR_KEPT, Execution, Failure, FrameSink, Sink
from restem.verify.sandbox.jails import Jail

MAX_REPORT = 1 << 16
"""Bytes of one report of test code."""


@dataclasses.dataclass
class Outcome:
    """How a program fared."""

    reward: float
    method: str
    detail: str = ""
    passed: int = 0
    total: int = 0


def judge(run: Execution, program: str, tests: Tests) -> Outcome:
    """Runs a program against its tests until the first failure; returns how it fared."""
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


def _standard_input(run: Execution, program: str, tests: StandardInput, outcome: Outcome) -> None:
    jail = run.jail(source=program)
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        found = run.script(jail, given, run.seconds_left())
        if not output_matches(expected, found):
            raise Failure("tests", f"expected {short(expected)!r}, got {short(found)!r}")
        outcome.passed += 1


def _calls(run: Execution, program: str, tests: Calls, outcome: Outcome) -> None:
    jail = run.jail(source=program)
    request, reply, err = run.pipe(), run.pipe(), run.pipe()
    run.order(jail, "calls", [request[0], reply[1], err[1]], run.limits.program_limit_s)
    os.set_blocking(request[1], False)
    answers = FrameSink(reply[0], codec.MAX_VALUE)
    errors = Sink(err[0], run.limits.output_mb << 20, STDERR_KEPT)
    for arguments, expected in zip(tests.inputs, tests.outputs, strict=True):
        seconds = run.seconds_left()
        request_frame = frame(codec.encode(["solve", tests.fn_name, arguments]))
        found = _exchange(run, jail, request[1], request_frame, answers, errors, seconds)
        if found[0] == "raised":
            method = "memory" if found[1] == "MemoryError" else "error"
            raise Failure(method, f"{found[1]}: {short(found[2], 160)}")
        if not returned_value_matches(expected, found[1], wrapped=tests.wrapped):
            raise Failure("tests", f"expected {short(expected)}, got {short(found[1])}")
        outcome.passed += 1


def _exchange(
    run: Execution,
    jail: Jail,
    request_fd: int,
    request: bytes,
    answers: FrameSink,
    errors: Sink,
    seconds: float,
) -> tuple:
    """Makes one call; returns the reply as a tuple whose form is checked."""
    rest = memoryview(request)
    answer: bytes | None = None

    def done() -> bool:
        nonlocal rest, answer
        if rest:
            try:
                rest = rest[os.write(request_fd, rest) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                rest = memoryview(b"")
        answer = answers.frames.take()
        return answer is not None

    report = run.wait([answers, errors], jail, seconds, done)
    if answer is None:
        run.check_ended_well(report, errors)
        raise Failure("error", "the program ended before it returned")
    try:
        reply = codec.decode(answer)
    except codec.CodecError as error:
        raise Failure("error", f"no value: {error}") from None
    if type(reply) is not tuple or (reply[:1], len(reply)) not in ((("ok",), 2), (("raised",), 3)):
        raise Failure("error", "a reply of no known form")
    return reply


def _asserts(run: Execution, program: str, tests: Asserts, outcome: Outcome) -> None:
    errors: list[Sink] = []
    channels: list[int] = []
    sources = [program]
    if tests.helper_names:
        prompt = tests.prompt or program
        sources.append(preamble(prompt, tests.entry_point or ""))
    for source in sources:
        jail = run.jail(source=source)
        to_program, to_test, err = run.pipe(), run.pipe(), run.pipe()
        run.order(jail, "calls", [to_program[0], to_test[1], err[1]], run.limits.program_limit_s)
        channels += [to_test[0], to_program[1]]
        errors.append(Sink(err[0], run.limits.output_mb << 20, STDERR_KEPT))
    nonce = secrets.token_hex(16)
    fields = ("statements", "entry_point", "program_names", "helper_names", "module_names")
    job = {name: getattr(tests, name) for name in fields} | {"nonce": nonce}
    tester = run.jail(untrusted=False)
    report_pipe, test_err = run.pipe(), run.pipe()
    fds = [report_pipe[1], run.file(json.dumps(job)), *channels, test_err[1]]
    run.order(tester, "asserts", fds, run.limits.program_limit_s)
    reports = FrameSink(report_pipe[0], MAX_REPORT)
    errors.append(Sink(test_err[0], run.limits.output_mb << 20, STDERR_KEPT))
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
            outcome.passed += 1
        elif secrets.compare_digest(str(message.get("nonce", "")), nonce):
            outcome.passed = outcome.total
            return
        else:
            raise _test_failure(run, str(message.get("detail", "")))


def _test_failure(run: Execution, detail: str) -> Failure:
    if run.worker.out_of_memory_kills() > run.oom_before or "MemoryError" in detail:
        return Failure("memory", f"more than {run.limits.memory_mb} MiB: {detail[:160]}")
    method = "error" if " -> " in detail or not detail.startswith("assert") else "tests"
    return Failure(method, detail[:300])

"""The worker that judges programs: single-threaded, started by exec.

Only the supervisor holds tests and expected values. It runs programs in jails that its zygote
forks, compares their output, and replies with verdicts. It is not forked from the process that
holds the accelerator, and ends when that process does.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from typing import Any

from restem.records import Verdict
from restem.verify.pool import worker
from restem.verify.pool.transport import Channel
from restem.verify.programs import codec, judge
from restem.verify.programs.tests import Tests, parse_tests, program_names, program_of
from restem.verify.programs.text import extract_program
from restem.verify.sandbox import jails, layers, privacy, probes
from restem.verify.sandbox.execution import Execution
from restem.verify.sandbox.limits import Limits

GUEST = "restem.verify.programs.guest"
MAX_PROGRAM = 1 << 17
"""Maximum characters of a model's text; a longer one does not count as a program."""


class Supervisor:
    """Grades texts on one worker of the sandbox."""

    def __init__(
        self, jailer: jails.Worker, setup: dict[str, Any], hangup_fd: int, limits: worker.Limits
    ):
        self._jailer = jailer
        self._extraction: str = setup["extraction"]
        self._stop: list[str] = setup["stop"]
        self._hangup_fd = hangup_fd
        self._limits = limits
        self.statuses = probes.probe(jailer)
        self._sandbox = layers.summary(layers.read(self.statuses))
        self._unfit = False

    def reply(self, job: dict[str, Any]) -> dict[str, Any]:
        """Returns the reply to one job, with the problem's name if its tests fail every program."""
        self._unfit = False
        reply = worker.reply(functools.partial(self.grade, job))
        return reply | {"unfit": job["where"]} if self._unfit else reply

    def grade(self, job: dict[str, Any]) -> Verdict:
        """Returns the verdict on one text."""
        start = time.monotonic()
        extracted, outcome = self._judge(job["text"], job["tests"])
        self._unfit = outcome.unfit
        return Verdict(
            reward=outcome.reward,
            method=outcome.method,
            extracted=extracted,
            detail=outcome.detail,
            passed=outcome.passed,
            total=outcome.total,
            seconds=time.monotonic() - start,
            sandbox=self._sandbox,
        )

    def _judge(self, text: str, given: Any) -> tuple[str | None, judge.Outcome]:
        # The samples of a problem arrive one after the other.
        tests = _parse_text(given) if isinstance(given, str) else parse_tests(given)
        if len(text) > MAX_PROGRAM:
            too_long = judge.Outcome(0.0, "error", f"a text of {len(text)} characters")
            return text[:MAX_PROGRAM], too_long
        extracted = extract_program(
            text, self._extraction, stop=self._stop, defines=program_names(tests)
        )
        if extracted is None:
            return None, judge.Outcome(0.0, "none", "no program in the text")
        extracted = program_of(tests, extracted)
        with Execution(self._jailer, self._jailer.limits, hangup_fd=self._hangup_fd) as run:
            try:
                return extracted, judge.judge(
                    run, extracted, tests, before_test=self._limits.allow_cpu
                )
            except codec.CodecError as error:
                return extracted, judge.Outcome(0.0, "error", str(error))


@functools.lru_cache(maxsize=4)
def _parse_text(tests: str) -> Tests:
    return parse_tests(tests)


@contextlib.contextmanager
def _prepare(
    setup: dict[str, Any], channel: Channel, limits: worker.Limits
) -> Iterator[tuple[dict[str, Any], worker.Answer]]:
    jailer = jails.Worker(
        slot=setup["slot"],
        limits=Limits(**setup["limits"]),
        without=setup["without"],
        packages=setup["packages"],
        guest=GUEST,
    )
    try:
        supervisor = Supervisor(jailer, setup, channel.read_fd, limits)
        # After the zygote has started: programs have limits of their own.
        limits.bound_memory(setup["memory_mb"])
        yield (
            {"layers": supervisor.statuses},
            lambda jobs: [supervisor.reply(job) for job in jobs],
        )
    finally:
        jailer.close()


def start(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides; it closes the pipe
    privacy.hide_memory()
    worker.serve(_prepare)

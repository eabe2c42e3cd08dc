"""Programs as answers: a pool of supervisors that run them against their tests.

    with ProgramPool(extraction="fenced") as pool:
        verdict = pool.submit(model_text, {"inputs": ["3\\n"], "outputs": ["6\\n"]}).result()

Each worker is a supervisor process with a warm zygote (`restem.verify.programs.supervisor`,
`restem.verify.sandbox.zygote`); programs run while the caller goes on with other things.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.records import Verdict
from restem.verify.pool import codec
from restem.verify.programs import tests as program_tests
from restem.verify.programs import text as program_text
from restem.verify.sandbox import layers as sandbox
from restem.verify.sandbox.limits import Limits

_slots = itertools.count(os.getpid() * 16)
_PATIENCE = 4.0
"""A supervisor that takes this many times the program limit is taken for dead."""


@dataclasses.dataclass(frozen=True)
class ProgramVerdict(Verdict):
    """A verdict with what a program's run adds to it."""

    passed: int = 0
    """Tests that passed before the first failure."""
    total: int = 0
    """Tests in all."""
    seconds: float = 0.0
    """Wall-clock time of the verification."""
    sandbox: str = ""
    """The layers of isolation that were in force, by name."""


class _Job:
    def __init__(self, text: str, tests: Mapping | str):
        self.text, self.tests = text, tests
        self.future: concurrent.futures.Future[Verdict] = concurrent.futures.Future()


class ProgramPool:
    """Workers that grade programs; `submit` returns at once.

    `extraction`: how the program is found in a text (`program_text.extract_program`). `stop`:
    strings at which a completion ends. Raises UserError where the machine's sandbox is too weak,
    unless `allow_weak_sandbox`. `without` leaves layers out, as if the machine refused them.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        allow_weak_sandbox: bool = False,
        time_limit_s: float = 4.0,
        memory_mb: int = 1024,
        extraction: str = "completion",
        stop: Sequence[str] = (),
        limits: Limits | None = None,
        without: Sequence[str] = (),
    ):
        if extraction not in program_text.MODES:
            raise UserError(
                f"extraction {extraction!r}: use one of {', '.join(program_text.MODES)}"
            )
        if time_limit_s <= 0 or memory_mb < 64:
            raise UserError("time_limit_s must be positive and memory_mb at least 64")
        if limits is None:
            limits = Limits(
                time_limit_s=time_limit_s,
                memory_mb=memory_mb,
                program_limit_s=max(Limits.program_limit_s, 5 * time_limit_s),
            )
        self.limits = limits
        self.extraction = extraction
        self.stop = tuple(stop)
        self._without = tuple(without)
        self._allow_weak = allow_weak_sandbox
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._workers: list[_Worker] = []
        count = workers or len(os.sched_getaffinity(0))
        try:
            # All are started before the first is waited for.
            for _ in range(count):
                self._workers.append(_Worker(self))
            for worker in self._workers:
                worker.meet()
            self.layers = self._workers[0].layers
            sandbox.check(self.layers, allow_weak_sandbox=allow_weak_sandbox)
        except BaseException:
            for worker in self._workers:
                worker.stop()
            raise
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, text: str, tests: Mapping | str) -> concurrent.futures.Future[Verdict]:
        """Grades `text`, a model's answer, by `tests`; UserError where these are malformed."""
        if self._closed:
            raise RuntimeError("this pool is closed")
        check_tests(tests)
        job = _Job(text, tests)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Waits for what was submitted, then ends every process of the pool."""
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(queue.Empty):
                while True:  # nobody will read these
                    job = self._jobs.get_nowait()
                    if job is not None:
                        job.future.cancel()
        self.close()

    def _serve(self, worker: _Worker) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(worker.grade(job))
            except BaseException as error:
                job.future.set_exception(error)


class _Worker:
    """The caller's end of one supervisor."""

    def __init__(self, pool: ProgramPool):
        self._pool = pool
        self._slot = next(_slots)
        self.layers: dict[str, sandbox.LayerStatus] = {}
        self._start()

    def _start(self) -> None:
        self._process = sandbox.start_supervisor(
            slot=self._slot, limits=self._pool.limits, without=self._pool._without
        )
        self._channel = codec.Channel(self._process.stdout.fileno(), self._process.stdin.fileno())

    def meet(self) -> None:
        """Waits until the supervisor has started and probed its sandbox."""
        self.layers = sandbox.read_layers(self._channel)

    def grade(self, job: _Job) -> Verdict:
        message = json.dumps(
            {
                "id": 0,
                "text": job.text,
                "tests": job.tests,
                "extraction": self._pool.extraction,
                "stop": self._pool.stop,
            }
        ).encode()
        # A text that brings its supervisor down twice is no right program.
        for _ in range(2):
            if self._process.poll() is not None:
                self.stop()
                self._start()
                self.meet()
                sandbox.check(self.layers, allow_weak_sandbox=self._pool._allow_weak)
            watch = threading.Timer(
                _PATIENCE * self._pool.limits.program_limit_s, self._process.kill
            )
            watch.daemon = True
            watch.start()
            try:
                self._channel.send(message)
                return self._verdict(json.loads(self._channel.receive()))
            except (EOFError, OSError):
                self._process.kill()
                self._process.wait()
            finally:
                watch.cancel()
        return ProgramVerdict(0.0, "error", detail="the verifier itself failed on this text")

    def _verdict(self, reply: dict[str, Any]) -> Verdict:
        return ProgramVerdict(
            reward=reply["reward"],
            method=reply["method"],
            extracted=reply["extracted"],
            detail=reply["detail"],
            passed=reply["passed"],
            total=reply["total"],
            seconds=reply["seconds"],
            sandbox=sandbox.summary(self.layers),
        )

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@functools.lru_cache(maxsize=64)
def _check_text(tests: str) -> None:
    program_tests.parse_tests(tests)


def check_tests(tests: Mapping | str) -> None:
    """UserError unless `tests` is of a form that APPS, HumanEval or MBPP publishes."""
    if isinstance(tests, str):
        _check_text(tests)
    else:
        program_tests.parse_tests(tests)


def run_programs(
    programs: Sequence[str],
    tests: Sequence[Mapping | str],
    *,
    time_limit_s: float = 4.0,
    memory_mb: int = 1024,
    workers: int | None = None,
    allow_weak_sandbox: bool = False,
    extraction: str = "completion",
    stop: Sequence[str] = (),
    limits: Limits | None = None,
) -> list[Verdict]:
    """Grades `programs[i]` by `tests[i]`, in parallel, in the sandbox.

    `tests` are in APPS's `input_output` form (`inputs`, `outputs`, for call-based problems
    `fn_name`), HumanEval's (`test`, `entry_point`, optionally `prompt`, which is put before the
    program) or MBPP's (`test_list`, optionally `test_setup_code`), as mappings or JSON. The
    verdict's method is "tests", or how the program failed otherwise: "timeout", "memory",
    "output", "error". UserError where tests are malformed or the sandbox is too weak.
    """
    if len(programs) != len(tests):
        raise UserError(f"{len(programs)} programs but {len(tests)} tests: one for each is needed")
    for row in tests:
        check_tests(row)
    if not programs:
        return []
    count = min(workers or len(os.sched_getaffinity(0)), len(programs))
    with ProgramPool(
        workers=count,
        allow_weak_sandbox=allow_weak_sandbox,
        time_limit_s=time_limit_s,
        memory_mb=memory_mb,
        extraction=extraction,
        stop=stop,
        limits=limits,
    ) as pool:
        futures = [pool.submit(text, row) for text, row in zip(programs, tests, strict=True)]
        return [future.result() for future in futures]

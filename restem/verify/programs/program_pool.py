"""Programs as answers: workers that run them against their tests.

    with ProgramPool(extraction="fenced") as pool:
        verdict = pool.submit(model_text, {"inputs": ["3\\n"], "outputs": ["6\\n"]}).result()

Each worker is a supervisor process with a warm zygote (`restem.verify.programs.supervisor`,
`restem.verify.sandbox.zygote`); programs run while the caller does other things.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from restem.errors import UserError
from restem.records import Verdict
from restem.verify.pool import bootstrap
from restem.verify.pool.pool import WorkerPool, usable_cores
from restem.verify.pool.process import Launch
from restem.verify.programs.tests import parse_tests
from restem.verify.programs.text import MODES
from restem.verify.sandbox import layers, privacy
from restem.verify.sandbox.limits import Limits

SUPERVISOR_MB = 2048
"""Address space of a supervisor in MiB; it holds the tests and the programs' replies."""
JUDGE_CPU_S = 10.0
"""Seconds of CPU time that a supervisor itself may use between two tests of a program."""
_PATIENCE = 4.0
"""Multiple of the program limit after which a supervisor counts as dead."""
_PROBE = {
    "text": "```python\nprint(1)\n```",  # a program for every mode of extraction
    "tests": {"inputs": [""], "outputs": ["1"]},
}
"""A job that every supervisor answers that can run programs at all."""
_slots = itertools.count(os.getpid() * 16)


class ProgramPool:
    """Workers that grade programs, as a context manager; `submit` returns immediately."""

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
        """Starts the workers and waits for the first.

        Args:
          workers: supervisors; None takes one per usable core.
          allow_weak_sandbox: whether programs run where the machine isolates them too little.
          time_limit_s: seconds for each test.
          memory_mb: memory of a program in MiB.
          extraction: how the program is found in a text; see `extract_program`.
          stop: strings at which a completion ends.
          limits: all limits, instead of `time_limit_s` and `memory_mb`.
          without: layers to leave out, as if the machine refused them.

        Raises:
          UserError: if the extraction is unknown, a limit is out of range, or the sandbox too weak.
          WorkersLostError: if no worker can be started.
        """
        if extraction not in MODES:
            raise UserError(f"extraction {extraction!r}: use one of {', '.join(MODES)}")
        if time_limit_s <= 0 or memory_mb < 64:
            raise UserError("time_limit_s must be positive and memory_mb at least 64")
        if limits is None:
            limits = Limits(
                time_limit_s=time_limit_s,
                memory_mb=memory_mb,
                program_limit_s=max(Limits.program_limit_s, 5 * time_limit_s),
            )
        self.limits = limits
        self.layers: Mapping[str, layers.LayerStatus] = {}
        """Layers of isolation of the worker that started last."""
        self.unfit: set[str] = set()
        """Problems whose tests fail every program, as far as samples have shown."""
        self._lock = threading.Lock()
        self._setup = {
            "limits": dataclasses.asdict(limits),
            "without": list(without),
            "packages": bootstrap.package_folders(),
            "extraction": extraction,
            "stop": list(stop),
            "memory_mb": SUPERVISOR_MB,
        }
        self._allow_weak = allow_weak_sandbox
        count = workers or usable_cores()
        self._slots = [next(_slots) for _ in range(count)]
        self.pool = WorkerPool(
            self._launch,
            workers=count,
            probe=_PROBE,
            on_ready=self._meet,
            on_verdict=self._note,
        )
        try:
            self.pool.start()
        except BaseException:
            self.pool.close()
            raise

    def _launch(self, number: int) -> Launch:
        return Launch(
            command=tuple(bootstrap.command("programs.supervisor")),
            environment=bootstrap.CLEAN_ENVIRONMENT,
            setup={**self._setup, "slot": self._slots[number]},
            time_limit_s=_PATIENCE * self.limits.program_limit_s,
            cpu_s=JUDGE_CPU_S,
            close_s=5.0,
        )

    def _meet(self, facts: Mapping[str, Any]) -> None:
        self.layers = layers.read(facts["layers"])
        layers.check(self.layers, allow_weak_sandbox=self._allow_weak)
        if layers.missing(self.layers):
            # Before the first program runs: this process holds the expected values too.
            privacy.hide_memory()

    def _note(self, verdict: Verdict, reply: Mapping[str, Any]) -> None:
        """Logs each problem whose tests fail every program, once."""
        where = reply.get("unfit")
        with self._lock:
            if where is None or where in self.unfit:
                return
            self.unfit.add(where)
            count = len(self.unfit)
        logging.warning(
            "%s: no program can pass (%s), so each of its samples has reward 0; so far, this holds"
            " for %d problems",
            where,
            verdict.detail,
            count,
        )

    def submit(self, text: str, tests: Mapping | str, *, where: str = "tests") -> Future[Verdict]:
        """Returns the verdict on `text`, a model's answer, by `tests`.

        Raises:
          UserError: if the tests are malformed; the message begins with `where`.
        """
        check_tests(tests, where=where)
        return self.pool.submit({"text": text, "tests": tests, "where": where})

    def close(self) -> None:
        """Ends every process of the pool; texts without a verdict by now are cancelled."""
        self.pool.close()

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@functools.lru_cache(maxsize=64)
def _check_text(tests: str, where: str) -> None:
    parse_tests(tests, where=where)


def check_tests(tests: Mapping | str, *, where: str = "tests") -> None:
    """Raises UserError unless `tests` is of a form that APPS, HumanEval or MBPP publishes."""
    if isinstance(tests, str):
        _check_text(tests, where)
    else:
        parse_tests(tests, where=where)


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

    Args:
      programs: model texts.
      tests: in APPS's `input_output` form (`inputs`, `outputs`, for call-based problems `fn_name`),
        HumanEval's (`test`, `entry_point`, optionally `prompt`, which is put before the program) or
        MBPP's (`test_list`, optionally `test_setup_code`), as mappings or JSON.
      time_limit_s: seconds for each test.
      memory_mb: memory of a program in MiB.
      workers: supervisors; None takes one per usable core.
      allow_weak_sandbox: whether programs run where the machine isolates them too little.
      extraction: how the program is found in a text; see `extract_program`.
      stop: strings at which a completion ends.
      limits: all limits, instead of `time_limit_s` and `memory_mb`.

    Returns:
      One verdict per program, in order. Its method is "tests", or another way in which the program
      failed: "timeout", "memory", "output", "error".

    Raises:
      UserError: tests are malformed, a limit is out of range, or the sandbox is too weak.
      WorkersLostError: no worker can be started, or each dies of every program.
    """
    if len(programs) != len(tests):
        raise UserError(f"{len(programs)} programs but {len(tests)} tests: give one per program")
    for row in tests:
        check_tests(row)
    if not programs:
        return []
    with ProgramPool(
        workers=min(workers or usable_cores(), len(programs)),
        allow_weak_sandbox=allow_weak_sandbox,
        time_limit_s=time_limit_s,
        memory_mb=memory_mb,
        extraction=extraction,
        stop=stop,
        limits=limits,
    ) as pool:
        futures = [
            pool.submit(text, row, where=f"tests[{number}]")
            for number, (text, row) in enumerate(zip(programs, tests, strict=True))
        ]
        return [future.result() for future in futures]

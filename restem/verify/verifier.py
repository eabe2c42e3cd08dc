"""`Verifier`, which turns the samples of a task into verdicts with any kind of grader."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict
from restem.verify import graders, grading
from restem.verify.pool import resources
from restem.verify.pool.pool import WorkerPool, usable_cores
from restem.verify.pool.resources import Resources
from restem.verify.programs.program_pool import ProgramPool
from restem.verify.sandbox import layers

_DEFAULTS = {
    "program": Resources(time_limit_s=4.0, memory_mb=1024),
    "function": Resources(time_limit_s=10.0, memory_mb=8192),
}
_DEFAULT = Resources(time_limit_s=10.0, memory_mb=2048)


class Verifier:
    """Grades samples of one task in child processes; a context manager.

    `submit` returns immediately, so that verification overlaps sampling; `grade` waits. The verdict
    on a sample that exceeds its time has method "timeout", and that on a sample that breaks the
    worker "error". Both have reward 0 and do not affect other samples. If a worker dies by another
    cause than our limits, it is replaced and its sample is tried once more. If more than 1% of the
    verdicts are timeouts or errors, a warning is logged. If a reward function fails on each of its
    first 32 samples, UserError is raised.
    """

    def __init__(
        self,
        *,
        grader: Mapping[str, Any],
        workers: int | None = None,
        allow_weak_sandbox: bool = False,
        time_limit_s: float | None = None,
        memory_mb: int | None = None,
        jobs_per_worker: int = 20_000,
    ):
        """Starts the workers for programs; otherwise, the first sample starts the first worker.

        Args:
          grader: `TaskCard.grader`; see `restem.verify.graders`. Its keys `time_limit_s`,
            `memory_mb` and `workers` apply if the arguments of the same names are None.
          workers: child processes; None takes one per usable core.
          allow_weak_sandbox: whether programs run where the machine isolates them too little.
          time_limit_s: wall-clock seconds for one sample (10), or for one test of a program (4).
          memory_mb: address space of a worker in MiB: 2048, for reward functions 8192, for
            programs 1024. A worker whose resident size has passed half of it (for reward
            functions, all of it) is replaced.
          jobs_per_worker: samples after which a worker is replaced.

        Raises:
          UserError: if the kind of grader, an option or the extraction is unknown, if a limit is
            out of range, or if the machine isolates programs too little.
        """
        graders.check(grader)
        asked, options = resources.split(grader)
        kind = options["kind"]
        limits = resources.merged(
            resources.merged(
                Resources(time_limit_s=time_limit_s, memory_mb=memory_mb, workers=workers), asked
            ),
            _DEFAULTS.get(kind, _DEFAULT),
        )
        self._kind = kind
        self._programs: ProgramPool | None = None
        self._pool: WorkerPool | None = None
        if kind == "program":
            del options["kind"]
            self._programs = ProgramPool(
                workers=limits.workers,
                allow_weak_sandbox=allow_weak_sandbox,
                time_limit_s=limits.time_limit_s,
                memory_mb=limits.memory_mb,
                **options,
            )
            self._pool = self._programs.pool
        elif kind != "none":
            launch = grading.launch(
                options,
                time_limit_s=limits.time_limit_s,
                memory_mb=limits.memory_mb,
                jobs=jobs_per_worker,
            )
            self._pool = WorkerPool(
                lambda _: launch,
                workers=limits.workers or usable_cores(),
                on_verdict=_Watch(options.get("function")),
            )

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def counts(self) -> dict[str, int]:
        """Returns the workers' events so far, without zeros: "deaths" by other causes than our
        limits, samples "retried" after one death and "lost" after a second one, "timeouts"."""
        return dict(+self._pool.counts) if self._pool else {}

    @property
    def layers(self) -> Mapping[str, layers.LayerStatus]:
        """Returns the layers of isolation that programs run in; empty for other graders."""
        return self._programs.layers if self._programs else {}

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Returns the verdict on one sample, as a future.

        Its result raises UserError if the grader or the problem is at fault rather than the sample
        (there is no gold answer, or a reward function cannot be imported), and `WorkersLostError`
        if no worker can be started. A reward function that returns no reward gives the verdict
        "error". Blocks while thousands of samples wait.

        Raises:
          UserError: if the problem has no tests to run.
        """
        if self._pool is None:
            future: Future[Verdict] = Future()
            future.set_result(Verdict(0.0, method="ungraded"))
            return future
        if self._programs is not None:
            if problem.tests is None:
                raise UserError(f"problem {problem.problem_id!r} has no tests to run")
            where = f"problem {problem.problem_id!r}"
            return self._programs.submit(text, problem.tests, where=where)
        fields: dict[str, Any]
        if self._kind == "function":
            fields = {**vars(problem), "metadata": dict(problem.metadata)}
        else:
            fields = {
                "problem_id": problem.problem_id,
                "split": problem.split,
                "inputs": problem.inputs if self._kind == "math" else "",
                "answer": problem.answer,
                "solutions": (),
            }
        return self._pool.submit({"problem": fields, "text": text})

    def grade(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Returns the verdicts on `texts[k]` as a solution to `problems[k]`, in order.

        Raises:
          UserError, WorkersLostError: as from the future of `submit`.
          ValueError: the two lengths differ.
        """
        if len(problems) != len(texts):
            raise ValueError(f"{len(problems)} problems but {len(texts)} texts")
        futures = [
            self.submit(problem, text) for problem, text in zip(problems, texts, strict=True)
        ]
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the workers; samples without a verdict by now are cancelled."""
        if self._pool is not None:
            self._pool.close()


class _Watch:
    """Watches verdicts for systematic failures, which no single verdict shows."""

    FIRST = 32
    """Number of failed samples at the start after which a reward function is stopped."""
    SHARE = 0.01
    """Share of timeouts and errors above which a warning is logged."""

    def __init__(self, function: str | None):
        self._function = function
        self._lock = threading.Lock()
        self._seen = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._first = ""
        self._next_warning = 200

    def __call__(self, verdict: Verdict, reply: Mapping[str, Any]) -> None:
        with self._lock:
            self._seen += 1
            if verdict.method in ("error", "timeout"):
                self._failed[verdict.method] += 1
                self._first = self._first or reply.get("traceback", "")
            failed = self._failed.total()
            if self._function is not None and failed == self._seen == self.FIRST:
                if self._first:
                    logging.error("the reward function's first failure:\n%s", self._first)
                raise UserError(
                    f"the reward function {self._function!r} failed on each of its first"
                    f" {self.FIRST} samples, the last time so: {verdict.detail}; fix it, or give it"
                    " more time_limit_s or memory_mb in the task's grader, and run the same"
                    " command again"
                )
            if self._seen >= self._next_warning and failed > self.SHARE * self._seen:
                self._next_warning = 4 * self._seen
                logging.warning(
                    "%d of %d verdicts so far are failures of the verifier (%s), reward 0 each; the"
                    " latest: %s",
                    failed,
                    self._seen,
                    ", ".join(f"{count} {method}" for method, count in self._failed.items()),
                    verdict.detail,
                )

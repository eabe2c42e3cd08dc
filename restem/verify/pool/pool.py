"""A pool of killable child processes that grade samples.

Only a process can be stopped for sure, so each worker is one: started by exec (never forked from
the process that may hold an accelerator), in a session and process group of its own, killed as a
group. One thread per worker feeds it, reads its verdicts, watches the head job's deadline and
replaces it when it hangs, dies, has grown or has done its share. The samples that a killed worker
had not begun go to another.
"""

from __future__ import annotations

import collections
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict
from restem.verify import graders
from restem.verify.pool.process import Job, WorkerProcess

WINDOW = 8
"""Jobs in one worker's hands at a time, so that it never waits for the parent."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Verifier:
    """Grades samples of one task in child processes; a context manager.

    `submit` returns at once, so that verification overlaps sampling; `grade` waits. Verdicts of
    samples that ran past their time have method "timeout", of those that broke the worker "error";
    both have reward 0 and cost nobody else's verdict.
    """

    def __init__(
        self,
        *,
        grader: Mapping[str, Any],
        workers: int | None = None,
        allow_weak_sandbox: bool = False,
        time_limit_s: float = 10.0,
        memory_mb: int = 2048,
        jobs_per_worker: int = 20_000,
    ):
        """Starts nothing yet: the first sample starts the first worker.

        Args:
          grader: `TaskCard.grader`; see `restem.verify.graders`.
          workers: child processes; None takes one per usable core.
          allow_weak_sandbox: passed on to `programs.ProgramPool` for graders of kind "program".
          time_limit_s: wall-clock seconds for one sample (programs have limits of their own).
          memory_mb: address space of a worker in MiB; one whose resident size has passed half of
            it is replaced.
          jobs_per_worker: samples after which a worker is replaced.

        Raises:
          UserError: an unknown kind of grader, option or extraction.
        """
        graders.check(grader)
        if workers is not None and workers < 1:
            raise UserError(f"workers is {workers}; at least one is needed")
        self._grader = dict(grader)
        self._count = workers or _usable_cores()
        self._time_limit_s = time_limit_s
        self._memory_mb = memory_mb
        self._jobs_per_worker = jobs_per_worker
        self._programs = None
        self._threads: list[threading.Thread] = []
        self._queue: collections.deque[Job] = collections.deque()
        self._idle = 0
        self._closed = False
        self._broken: Exception | None = None
        self._changed = threading.Condition()
        if self._grader["kind"] == "program":
            from restem.verify.programs import programs

            options = {name: value for name, value in self._grader.items() if name != "kind"}
            self._programs = programs.ProgramPool(
                workers=workers, allow_weak_sandbox=allow_weak_sandbox, **options
            )

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """The verdict of one sample, as a future.

        Its result raises UserError where the grader or the problem is at fault, not the sample: no
        answer to compare with, a reward function that returns no reward.
        """
        kind = self._grader["kind"]
        if kind == "none":
            future: Future[Verdict] = Future()
            future.set_result(Verdict(0.0, method="ungraded"))
            return future
        if self._programs is not None:
            if problem.tests is None:
                raise UserError(f"problem {problem.problem_id!r} has no tests to run")
            return self._programs.submit(text, problem.tests)
        fields: dict[str, Any]
        if kind == "function":
            fields = {**vars(problem), "metadata": dict(problem.metadata)}
        else:
            fields = {
                "problem_id": problem.problem_id,
                "split": problem.split,
                "inputs": "",
                "answer": problem.answer,
                "solutions": (),
            }
        job = Job({"problem": fields, "text": text}, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the verifier is closed")
            if self._broken is not None:
                job.future.set_exception(self._broken)
                return job.future
            self._queue.append(job)
            if not self._idle and len(self._threads) < self._count:
                thread = threading.Thread(
                    target=self._serve, name=f"verifier-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        return job.future

    def grade(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """The verdicts of `texts[k]` as a solution to `problems[k]`, in order."""
        if len(problems) != len(texts):
            raise ValueError(f"{len(problems)} problems but {len(texts)} texts")
        futures = [
            self.submit(problem, text) for problem, text in zip(problems, texts, strict=True)
        ]
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the workers; samples without a verdict by now are cancelled."""
        with self._changed:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for job in waiting:
            if not job.future.cancel():
                job.future.set_exception(CancelledError())
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._programs is not None:
            self._programs.close()

    # One thread per worker.

    def _serve(self) -> None:
        worker: WorkerProcess | None = None
        failures = 0
        try:
            while self._wait(worker):
                if worker is None:
                    worker = self._start()
                for job in self._take(worker):
                    worker.send(job)
                outcome = worker.step(self._closing)
                if outcome == "ok":
                    failures = 0
                    if not worker.pending and worker.spent(self._jobs_per_worker):
                        worker.stop()
                        worker = None
                    continue
                if outcome == "closing":
                    return
                # It hung, died or refused: it is gone, and what it had not begun goes back.
                with self._changed:
                    self._queue.extendleft(reversed(worker.pending))
                    worker.pending.clear()
                    self._changed.notify_all()
                if not worker.ready:
                    failures += 1
                    if worker.refusal is not None or failures >= 3:
                        self._break(worker.refusal or RuntimeError("no verifier can be started"))
                worker.stop()
                worker = None
        except Exception as error:
            # A bug here must not leave anybody waiting for a verdict.
            if worker is not None:
                for job in worker.pending:
                    job.future.set_exception(error)
                worker.pending.clear()
            self._break(error)
        finally:
            if worker is not None:
                for job in worker.pending:
                    job.future.set_exception(CancelledError())
                worker.stop()

    def _closing(self) -> bool:
        return self._closed

    def _wait(self, worker: WorkerProcess | None) -> bool:
        """Blocks until there is something to do; False when the pool is closed."""
        with self._changed:
            if worker is None or not worker.pending:
                self._idle += 1
                self._changed.wait_for(lambda: self._queue or self._closed)
                self._idle -= 1
            return not self._closed

    def _take(self, worker: WorkerProcess) -> list[Job]:
        if worker.spent(self._jobs_per_worker):
            return []
        window = 1 if self._grader["kind"] == "function" else WINDOW
        taken: list[Job] = []
        with self._changed:
            # No more than a fair share, or the last samples would all wait in one worker's hands.
            share = 1 + len(self._queue) // self._count
            while self._queue and len(worker.pending) + len(taken) < min(window, share):
                job = self._queue.popleft()
                if self._broken is not None:
                    job.future.set_exception(self._broken)
                elif job.begun or job.future.set_running_or_notify_cancel():
                    job.begun = True
                    taken.append(job)
        return taken

    def _break(self, error: Exception) -> None:
        """Nothing can be graded: everybody who waits or will wait is told why."""
        with self._changed:
            self._broken = error
            waiting = list(self._queue)
            self._queue.clear()
        for job in waiting:
            if not job.future.cancelled():
                job.future.set_exception(error)

    def _start(self) -> WorkerProcess:
        own = self._grader["kind"] == "function"
        environment = dict(os.environ) if own else {}
        for name in _KEPT_ENVIRONMENT:
            if name in os.environ:
                environment[name] = os.environ[name]
        # A reward function may import JAX; the accelerator is its parent's.
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        setup = {
            "grader": self._grader,
            "memory_mb": max(self._memory_mb, 8192) if own else self._memory_mb,
            "time_limit_s": self._time_limit_s,
            "parent": os.getpid(),
        }
        return WorkerProcess(setup, environment)

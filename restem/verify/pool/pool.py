"""The pool of worker processes that grade answers, run programs and call reward functions.

Only a process can be stopped reliably, so each worker is a process. It is started by exec (never
forked from the process that may hold an accelerator) in its own session and process group, and
killed as a group. One thread per worker feeds it, reads its replies, watches its deadline and
replaces it when it hangs, dies, has grown too large or has done its number of jobs. The jobs that a
lost worker had not begun go to another worker. The job that it was working on is tried once more if
the worker did not die by one of our limits.

If the next worker dies of that job too, either the text is to blame or the machine, and no count of
deaths tells which: a policy may write many texts in a row that kill a worker. So a worker is given
a *probe*, a job without any text of a model. If it answers, the text is to blame, and its verdict
is an error. If three workers in a row die of the probe, no worker can work here, and the pool
breaks before it has given a verdict that the text does not deserve.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from restem.errors import UserError
from restem.records import Verdict
from restem.verify.pool.process import Event, Job, Launch, WorkerProcess

START_ATTEMPTS = 3
"""Number of consecutive failed starts, on one thread, after which the pool gives up."""
PROBE_ATTEMPTS = 3
"""Number of workers that die of the probe, one after the other, before the pool gives up."""
_TRIES = 2
"""Number of workers that a text may kill before it is held to blame."""
RETRY_S = 0.5
"""Seconds to the next attempt when the machine refuses a process."""
MOST_WAITING = 4096
"""Maximum number of jobs that wait for a worker; `submit` blocks at this number."""


class WorkersLostError(RuntimeError):
    """No worker can work on this machine now; the same command may succeed later."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: the same command continues the run."""


def usable_cores() -> int:
    """Returns the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """Workers of one kind and the jobs that wait for them; a context manager."""

    def __init__(
        self,
        launch: Callable[[int], Launch],
        *,
        workers: int,
        probe: Any = None,
        on_ready: Callable[[Mapping[str, Any]], None] | None = None,
        on_verdict: Callable[[Verdict, Mapping[str, Any]], None] | None = None,
    ):
        """Starts nothing yet.

        Args:
          launch: returns how worker number n is started.
          workers: maximum number of worker processes at a time.
          probe: payload of a harmless job, which any worker that can work answers; None only asks
            whether it answers messages.
          on_ready: receives the facts of each worker that has started. If it raises an exception,
            the pool breaks and every job's future raises that exception.
          on_verdict: receives each verdict and the reply that contained it (empty if no worker
            replied), in some worker's thread; its exceptions have the same effect.
        """
        self._launch = launch
        self._count = workers
        self._probe = probe
        self._on_ready = on_ready
        self._on_verdict = on_verdict
        self._threads: list[threading.Thread] = []
        self._queue: collections.deque[Job] = collections.deque()
        self._idle = 0
        self._ready = 0
        self._closed = False
        self._broken: Exception | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._live: dict[int, int] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        """Events since the start: "deaths" of workers by other causes than our limits, jobs
        "retried" after one death and "lost" after a second one, "timeouts" of workers."""

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process numbers of the live workers."""
        with self._lock:
            return list(self._live.values())

    def start(self) -> None:
        """Starts all workers and waits for the first to be ready.

        Raises:
          UserError: if the workers refuse their set-up.
          WorkersLostError: if no worker can be started.
        """
        with self._changed:
            while len(self._threads) < self._count:
                self._add_thread(eager=True)
            self._changed.wait_for(lambda: self._ready or self._broken or self._closed)
            if self._broken is not None:
                raise self._broken

    def submit(self, payload: Any) -> Future[Verdict]:
        """Returns the verdict on one job, as a future; blocks while too many jobs wait."""
        job = Job(payload)
        with self._changed:
            self._room.wait_for(
                lambda: len(self._queue) < MOST_WAITING or self._closed or self._broken
            )
            if self._closed:
                raise RuntimeError("the verifier is closed")
            if self._broken is not None:
                job.future.set_exception(self._broken)
                return job.future
            self._queue.append(job)
            if not self._idle and len(self._threads) < self._count:
                self._add_thread(eager=False)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Ends the workers; jobs without a verdict by now are cancelled."""
        with self._changed:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
            self._room.notify_all()
        _cancel(waiting)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _add_thread(self, *, eager: bool) -> None:
        number = len(self._threads)
        thread = threading.Thread(
            target=self._serve, args=(number, eager), name=f"verifier-{number}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    # One thread per worker.

    def _serve(self, number: int, eager: bool) -> None:
        worker: WorkerProcess | None = None
        failures = 0
        try:
            while eager or self._wait(worker):
                if worker is None:
                    try:
                        worker = WorkerProcess(self._launch(number))
                    except (FileNotFoundError, PermissionError):
                        raise  # the command is wrong, and stays so
                    except OSError as error:
                        failures += 1
                        eager = self._pause(str(error), failures) and eager
                        continue
                    self._live[number] = worker.pid
                while batch := self._take(worker):
                    try:
                        worker.send(batch)
                    except (TypeError, ValueError) as error:
                        _fail(batch, UserError(f"a problem cannot be sent to a worker: {error}"))
                if worker.ready and not worker.pending:
                    continue  # another worker was faster
                event = worker.step(lambda: self._closed)
                if event.kind == "closing":
                    return
                if event.kind == "ready":
                    failures, eager = 0, False
                    self._greet(event)
                elif event.kind == "replies":
                    self._deliver(event)
                    if worker.spent() and not worker.pending:
                        self._dismiss(number, worker)
                        worker = None
                else:
                    failures += not worker.ready
                    self._lose(worker, event, failures)
                    self._dismiss(number, worker)
                    worker = None
                    if self._broken is not None:
                        eager = False
        except Exception as error:
            # No failure here may leave a caller waiting for a verdict.
            self._break(error)
        finally:
            if worker is not None:
                left = [job for batch in worker.pending for job in batch]
                self._dismiss(number, worker)
                if self._broken is not None:
                    _fail(left, self._broken)
                else:
                    _cancel(left)

    def _dismiss(self, number: int, worker: WorkerProcess) -> None:
        self._live.pop(number, None)
        worker.stop()

    def _wait(self, worker: WorkerProcess | None) -> bool:
        """Blocks until there is something to do; returns False when the pool is closed."""
        with self._changed:
            if worker is None or not worker.pending:
                self._idle += 1
                self._changed.wait_for(lambda: self._queue or self._closed)
                self._idle -= 1
            return not self._closed

    def _take(self, worker: WorkerProcess) -> list[Job]:
        """Returns the jobs of the worker's next message; none if it has enough."""
        window, size = worker.launch.window, worker.launch.batch
        taken: list[Job] = []
        if worker.spent():
            return taken
        with self._changed:
            # No more than a fair share, or the last jobs would all wait for one worker.
            share = 1 + len(self._queue) // (self._count * size)
            if len(worker.pending) >= min(window, share):
                return taken
            while self._queue and len(taken) < size:
                if taken and (taken[0].alone or self._queue[0].alone):
                    break
                job = self._queue.popleft()
                if self._broken is not None:
                    _fail([job], self._broken)
                elif job.begun or job.future.set_running_or_notify_cancel():
                    job.begun = True
                    taken.append(job)
            self._room.notify(len(taken))
        return taken

    def _greet(self, event: Event) -> None:
        if self._on_ready is not None:
            self._on_ready(event.facts)
        with self._changed:
            self._ready += 1
            self._changed.notify_all()

    def _deliver(self, event: Event) -> None:
        for position, (job, reply) in enumerate(event.replies):
            if "user_error" in reply and job.held is None:
                job.future.set_exception(UserError(reply["user_error"]))
                continue
            try:
                if job.held is not None:  # so the text is to blame, not the machine
                    self._blame(job.held)
                    self._decide(job, job.held, {})
                else:
                    self._decide(job, Verdict(**reply["verdict"]), reply)
            except Exception as error:
                _fail([job for job, _ in event.replies[position + 1 :]], error)
                raise

    def _decide(self, job: Job, verdict: Verdict, reply: Mapping[str, Any]) -> None:
        try:
            if self._on_verdict is not None:
                self._on_verdict(verdict, reply)
        except Exception as error:
            _fail([job], error)
            raise
        job.future.set_result(verdict)

    def _blame(self, verdict: Verdict) -> None:
        """Counts a text that killed its workers, and logs the first and then ever fewer."""
        with self._lock:
            self.counts["lost"] += 1
            lost = self.counts["lost"]
        if lost & (lost - 1) == 0:
            logging.warning(
                "%d of the samples so far killed a verification worker, and the next one too, while"
                " workers answer other jobs; reward 0 each; the latest: %s",
                lost,
                verdict.detail,
            )

    def _lose(self, worker: WorkerProcess, event: Event, failures: int) -> None:
        """Decides what happens to the jobs of a worker that refused, hung or died."""
        died = event.kind == "died"
        self.counts["deaths"] += died
        self.counts["timeouts"] += event.kind == "timeout"
        again: list[Job] = []
        late: Job | None = None
        if worker.ready and worker.pending:
            head = worker.pending.popleft()
            if len(head) > 1:  # any of them may be to blame
                for job in head:
                    job.alone = True
                again = head
            elif died or head[0].held is not None:
                self._suspect(head[0], event)
                again = head
            else:
                late = head[0]
        again += [job for batch in worker.pending for job in batch]
        worker.pending.clear()
        with self._changed:
            self._queue.extendleft(reversed(again))
            self._changed.notify_all()
        if late is not None:
            self._decide(late, Verdict(0.0, method="timeout", detail=event.detail), {})
        if event.kind == "refused":
            self._break(UserError(event.detail))
        else:
            self._give_up(event.detail, failures)
        if self._broken is not None:
            self._break(self._broken)  # the jobs that have just come back too

    def _suspect(self, job: Job, event: Event) -> None:
        """Decides what the next worker tries after one that died of a job: it, or the probe."""
        # A death from outside, such as the kernel's for want of memory elsewhere, says nothing of
        # the text; if the text is to blame, the next worker dies of it too.
        job.deaths += 1
        self.counts["retried"] += job.deaths == 1
        if job.deaths == _TRIES:
            job.held = Verdict(0.0, method="error", detail=event.detail)
            job.payload, job.alone = self._probe, True
        elif job.deaths >= _TRIES + PROBE_ATTEMPTS:
            self._break(
                WorkersLostError(
                    "the verification workers die of every job, also of one without any text of a"
                    f" model ({event.detail}, {job.deaths} times); the messages above say why; run"
                    " the same command again to continue"
                )
            )

    def _pause(self, detail: str, failures: int) -> bool:
        """Waits after a process that the machine refused; returns whether to try again."""
        self._give_up(detail, failures)
        with self._changed:
            ended = lambda: self._closed or self._broken is not None
            return not self._changed.wait_for(ended, RETRY_S)

    def _give_up(self, detail: str, failures: int) -> None:
        """Breaks the pool if no worker has started in so many attempts."""
        if failures >= START_ATTEMPTS:
            self._break(
                WorkersLostError(
                    f"no verification worker can be started ({detail}, {failures} times);"
                    " the messages above say why; run the same command again to continue"
                )
            )

    def _break(self, error: Exception) -> None:
        """Breaks the pool: all current and future jobs fail with the reason."""
        with self._changed:
            self._broken = self._broken or error
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
            self._room.notify_all()
        _fail(waiting, error)


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.future.cancel():
            job.future.set_exception(CancelledError())


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        if job.begun or job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

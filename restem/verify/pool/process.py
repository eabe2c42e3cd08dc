"""The parent's end of a worker process: its jobs, its deadline and how it ended."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Literal

from restem.records import Verdict
from restem.verify.pool.transport import FrameBuffer, FrameError, message

GRACE_S = 0.2
"""Seconds between SIGTERM and SIGKILL."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a worker is started, and its limits."""

    command: tuple[str, ...]
    """Command line of the worker."""
    environment: Mapping[str, str]
    """Whole environment of the worker."""
    setup: Mapping[str, Any]
    """First message to the worker."""
    time_limit_s: float
    """Wall-clock seconds for one message of jobs."""
    cpu_s: float
    """Seconds of the worker's own CPU time for one message of jobs."""
    start_limit_s: float = 60.0
    """Wall-clock seconds from the start of the process until it is ready."""
    recycle_mb: int = 1024
    """Resident size in MiB from which a worker is replaced."""
    recycle_jobs: int = 20_000
    """Number of jobs after which a worker is replaced."""
    window: int = 1
    """Messages that the worker holds at a time, so that it never waits for its parent."""
    batch: int = 1
    """Jobs in one message."""
    close_s: float = 0.0
    """Seconds that a busy worker has to end by itself once its input is closed."""


@dataclasses.dataclass
class Job:
    """One text on its way to a verdict."""

    payload: Any
    """Data that the worker receives; None only asks whether it answers."""
    future: Future[Verdict] = dataclasses.field(default_factory=Future)
    """Future of the verdict."""
    begun: bool = False
    """Whether a worker has received it; a future can be set running only once."""
    deaths: int = 0
    """Number of workers that died while working on it, by other causes than our limits."""
    held: Verdict | None = None
    """Verdict on a text that killed two workers, given once a worker has answered the probe, which
    is the payload by then."""
    alone: bool = False
    """Whether it must be in a message of its own, because a batch with it failed."""


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to a worker."""

    kind: Literal["ready", "replies", "refused", "timeout", "died", "closing"]
    """Kind of event; after "refused", "timeout" and "died", the process is of no more use."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Facts that a ready worker reports about itself."""
    replies: tuple[tuple[Job, Mapping[str, Any]], ...] = ()
    """Jobs and the replies to them."""
    detail: str = ""
    """Reason why the worker is of no more use."""


class WorkerProcess:
    """One child process and the jobs it has been given."""

    def __init__(self, launch: Launch):
        self.launch = launch
        self.ready = False
        self.pending: collections.deque[list[Job]] = collections.deque()
        self._done = 0
        self._rss_mb = 0
        self._output = bytearray(message({**launch.setup, "cpu_s": launch.cpu_s}))
        self._input = FrameBuffer()
        self._process = subprocess.Popen(
            launch.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(launch.environment),
            start_new_session=True,
            bufsize=0,
        )
        self._to, self._back = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._back, False)
        self._deadline = time.monotonic() + launch.start_limit_s

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, batch: list[Job]) -> None:
        """Gives the worker a message of jobs.

        Raises:
          TypeError, ValueError: if a job holds data that JSON cannot represent; nothing is sent.
        """
        data = message({"jobs": [job.payload for job in batch if job.payload is not None]})
        if not self.pending and self.ready:
            self._deadline = time.monotonic() + self.launch.time_limit_s
        self.pending.append(batch)
        self._output += data

    def spent(self) -> bool:
        """Returns whether the worker has done its number of jobs, or has grown too large."""
        given = self._done + sum(map(len, self.pending))
        return given >= self.launch.recycle_jobs or self._rss_mb > self.launch.recycle_mb

    def step(self, closing: Callable[[], bool]) -> Event:
        """Moves bytes until there is an event; checks `closing` twice a second."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._back, selectors.EVENT_READ)
            writing = False
            while True:
                if event := self._received():
                    return event
                if bool(self._output) != writing:
                    writing = not writing
                    if writing:
                        selector.register(self._to, selectors.EVENT_WRITE)
                    else:
                        selector.unregister(self._to)
                left = self._deadline - time.monotonic()
                if left <= 0:
                    limit = self.launch.time_limit_s if self.ready else self.launch.start_limit_s
                    return Event("timeout", detail=f"ran past {limit:g} s")
                ready = {key.fd for key, _ in selector.select(min(left, 0.5))}
                if closing():
                    return Event("closing")
                if self._to in ready and not self._write():
                    return self._death()
                if self._back in ready:
                    try:
                        alive = self._read()
                    except FrameError as error:
                        return Event("died", detail=str(error))
                    if not alive:
                        return self._received() or self._death()

    def _write(self) -> bool:
        try:
            sent = os.write(self._to, memoryview(self._output)[: 2**16])
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self._output[:sent]
        return True

    def _read(self) -> bool:
        try:
            data = os.read(self._back, 2**16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._input.feed(data)
        return bool(data)

    def _received(self) -> Event | None:
        """Returns the event in complete messages; None if none has arrived."""
        replies: list[tuple[Job, Mapping[str, Any]]] = []
        while (data := self._input.take()) is not None:
            received = json.loads(data)
            self._deadline = time.monotonic() + self.launch.time_limit_s
            if "user_error" in received:
                return Event("refused", detail=received["user_error"])
            if not self.ready:
                self.ready = True
                return Event("ready", facts=received["ready"])
            batch = self.pending.popleft()
            self._done += len(batch)
            self._rss_mb = received["rss_mb"]
            asked = [job for job in batch if job.payload is not None]
            replies += zip(asked, received["replies"], strict=True)
            replies += [(job, {}) for job in batch if job.payload is None]
        return Event("replies", replies=tuple(replies)) if replies else None

    def _death(self) -> Event:
        self._wait(GRACE_S)
        code = self._status()
        if code is None:
            return Event("died", detail="the verifier closed its output")
        if code == -signal.SIGXCPU:
            return Event("timeout", detail=f"used more than {self.launch.cpu_s:g} s of CPU time")
        return Event("died", detail=f"the verifier died with status {code}")

    def stop(self) -> None:
        """Closes the worker's input, then SIGTERM, then SIGKILL to its whole group."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        idle = self.ready and not self.pending
        self._wait(max(self.launch.close_s, GRACE_S if idle else 0.0))
        # Also if the worker has ended: processes that it started may be left.
        self._signal(signal.SIGTERM)
        self._wait(GRACE_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdout.close()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._status() is None:
            time.sleep(0.005)

    def _status(self) -> int | None:
        """Returns the worker's exit status, negative for a signal; None while it runs.

        The worker is not reaped until its group is killed, so that no other process can have its
        number before then.
        """
        if not hasattr(os, "waitid"):
            return self._process.poll()
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        found = os.waitid(os.P_PID, self._process.pid, flags)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _signal(self, number: int) -> None:
        if self._process.returncode is not None:
            return  # reaped, on a system without waitid
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

"""One worker process, seen from the parent: what it was given, its deadline, its end."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from restem.errors import UserError
from restem.records import Verdict
from restem.verify.pool.worker import frame

START_LIMIT_S = 60.0
"""A worker that says nothing for so long after its start is given up."""
GRACE_S = 0.2
"""Between SIGTERM and SIGKILL."""


@dataclasses.dataclass
class Job:
    """One sample on its way to a verdict."""

    payload: dict[str, Any]
    """The message to the worker."""
    future: Future[Verdict]
    """Where the verdict goes."""
    begun: bool = False
    """Whether a worker has had it; a future can be set running once only."""


class WorkerProcess:
    """One child process and what it has been given."""

    def __init__(self, setup: dict[str, Any], environment: dict[str, str]):
        self.time_limit_s: float = setup["time_limit_s"]
        self.memory_mb: int = setup["memory_mb"]
        self.pending: collections.deque[Job] = collections.deque()
        self.ready = False
        self.refusal: Exception | None = None
        self.done = 0
        self.rss_mb = 0
        self.output = bytearray(frame(setup))
        self.input = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "restem.verify.pool.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.to, False)
        os.set_blocking(self.back, False)
        self.deadline = time.monotonic() + START_LIMIT_S

    def send(self, job: Job) -> None:
        if not self.pending and self.ready:
            self.deadline = time.monotonic() + self.time_limit_s
        self.pending.append(job)
        self.output += frame(job.payload)

    def spent(self, jobs: int) -> bool:
        return self.done + len(self.pending) >= jobs or self.rss_mb > self.memory_mb // 2

    def step(self, closing: Callable[[], bool]) -> str:
        """Moves bytes until at least one verdict came: "ok", "gone" or "closing"."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.back, selectors.EVENT_READ)
            writing = False
            while True:
                if bool(self.output) != writing:
                    writing = not writing
                    if writing:
                        selector.register(self.to, selectors.EVENT_WRITE)
                    else:
                        selector.unregister(self.to)
                left = self.deadline - time.monotonic()
                if left <= 0:
                    self._fail("timeout", f"ran past {self.time_limit_s:g} s")
                    return "gone"
                # Woken twice a second to notice that the pool is being closed.
                events = selector.select(min(left, 0.5))
                if closing():
                    return "closing"
                for key, _ in events:
                    if key.fd == self.to:
                        if not self._write():
                            self._fail("error", "the verifier died")
                            return "gone"
                    elif not self._read():
                        self._fail(*self._death())
                        return "gone"
                if self.refusal is not None:
                    return "gone"
                if any(key.fd == self.back for key, _ in events) and self._deliver():
                    return "ok"

    def _write(self) -> bool:
        try:
            sent = os.write(self.to, self.output[: 2**16])
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self.output[:sent]
        return True

    def _read(self) -> bool:
        try:
            data = os.read(self.back, 2**16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.input += data
        return bool(data)

    def _deliver(self) -> bool:
        """Hands out the verdicts that arrived; True if there was one."""
        delivered = False
        while len(self.input) >= 4:
            size = struct.unpack_from(">I", self.input)[0]
            if len(self.input) < 4 + size:
                break
            message = json.loads(bytes(self.input[4 : 4 + size]))
            del self.input[: 4 + size]
            self.deadline = time.monotonic() + self.time_limit_s
            if not self.ready:
                if "user_error" in message:
                    self.refusal = UserError(message["user_error"])
                    return delivered
                self.ready = True
                continue
            job = self.pending.popleft()
            self.done += 1
            delivered = True
            self.rss_mb = message.get("rss_mb", 0)
            if "user_error" in message:
                job.future.set_exception(UserError(message["user_error"]))
            else:
                job.future.set_result(Verdict(**message["verdict"]))
        return delivered

    def _fail(self, method: str, detail: str) -> None:
        """The head job is to blame for what happened to the worker, if it had begun."""
        if self.ready and self.pending:
            job = self.pending.popleft()
            job.future.set_result(Verdict(0.0, method=method, detail=detail))

    def _death(self) -> tuple[str, str]:
        try:
            code = self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "error", "the verifier closed its output"
        if code == -signal.SIGXCPU:
            return "timeout", f"used more than {self.time_limit_s:g} s of CPU time"
        return "error", f"the verifier died with status {code}"

    def stop(self) -> None:
        """SIGTERM, then SIGKILL, to the whole group."""
        if self.process.returncode is None:
            self._signal(signal.SIGTERM)
            end = time.monotonic() + GRACE_S
            # Not reaped until the group is killed, so that its number cannot be another's by then.
            while time.monotonic() < end and not self._exited():
                time.sleep(0.005)
            self._signal(signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def _exited(self) -> bool:
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

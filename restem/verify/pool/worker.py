"""The child's end of a worker process, which reads jobs, answers them and enforces its limits.

Parent and worker exchange messages (`restem.verify.pool.transport`). The parent's first message is
the set-up; the worker answers `{"ready": facts}` or `{"user_error": text}`. Each later message is
`{"jobs": [payload, ...]}`; the worker answers in order with
`{"replies": [reply, ...], "rss_mb": size}`, where a reply is `{"verdict": fields}` or
`{"user_error": text}`. A message without jobs only asks whether it answers. The parent kills a
worker that is late. As a second safeguard, the kernel
enforces limits on memory and CPU time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from restem.errors import UserError
from restem.records import Verdict, verdict_fields
from restem.verify.pool import rlimits
from restem.verify.pool.transport import Channel

Answer = Callable[[list[Any]], list[dict[str, Any]]]
"""Replies to the jobs of one message, in order."""


class Limits:
    """Limits on this process's memory and CPU time; each message renews that on CPU time."""

    def __init__(self, *, cpu_s: float):
        self._cpu_s = int(cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def bound_memory(self, megabytes: int) -> None:
        """Bounds the address space of this process and of those that it starts later."""
        # macOS defines this limit but refuses to set it.
        with contextlib.suppress(ValueError, OSError):
            rlimits.bound(resource.RLIMIT_AS, megabytes << 20, megabytes << 20)

    def allow_cpu(self) -> None:
        """Lets this process use `cpu_s` more seconds of CPU time; then SIGXCPU kills it.

        At the machine's own limit, the kernel sends SIGKILL instead. That says nothing of the job,
        which the next worker takes.
        """
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime) + 1
        rlimits.bound(resource.RLIMIT_CPU, used + self._cpu_s)

    def peak_mb(self) -> int:
        """Returns the largest resident size so far."""
        # On Linux, ru_maxrss includes what the process held before exec, which is the memory of the
        # trainer that started it. Then this worker would be replaced after every answer.
        with contextlib.suppress(OSError), open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) // 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // (2**20 if sys.platform == "darwin" else 1024)


Prepare = Callable[
    [dict[str, Any], Channel, Limits], AbstractContextManager[tuple[dict[str, Any], Answer]]
]
"""Prepares the work that a set-up asks for: facts to tell the parent, and what answers jobs."""


def serve(prepare: Prepare) -> None:
    """Runs a worker over standard input and output until the parent is gone."""
    channel = Channel(os.dup(0), os.dup(1))
    # The output of a grader must not mix with the replies.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        setup = channel.receive_message()
        limits = Limits(cpu_s=setup["cpu_s"])
        try:
            with prepare(setup, channel, limits) as (facts, answer):
                channel.send_message({"ready": facts})
                while True:
                    jobs = channel.receive_message()["jobs"]
                    limits.allow_cpu()
                    replies = answer(jobs) if jobs else []
                    channel.send_message({"replies": replies, "rss_mb": limits.peak_mb()})
        except UserError as error:
            channel.send_message({"user_error": str(error)})
    except (EOFError, BrokenPipeError):
        return  # the parent is done


def reply(grade: Callable[[], Verdict]) -> dict[str, Any]:
    """Returns one reply; what `grade` raises becomes a verdict, or a user error."""
    try:
        return {"verdict": verdict_fields(grade())}
    except UserError as error:
        return {"user_error": str(error)}
    except MemoryError:
        return {"verdict": verdict_fields(error_verdict("out of memory"))}
    except (EOFError, OSError):
        raise  # the parent, or a process that this one needs, is gone: start anew
    except Exception as error:
        return {"verdict": verdict_fields(error_verdict(f"{type(error).__name__}: {error}"))}


def error_verdict(detail: str) -> Verdict:
    """Returns the verdict on a text that could not be graded."""
    return Verdict(0.0, method="error", detail=detail[:500].replace("\n", " "))


def die_with(parent: int) -> None:
    """Has the kernel end this process when its parent, process `parent`, ends."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    # The parent may have ended before the request was made.
    if os.getppid() != parent:
        os._exit(0)

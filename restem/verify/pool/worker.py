"""The child process that grades: `python -P -m restem.verify.pool.worker`.

It reads jobs from its standard input and writes verdicts to its standard output, each a 4-byte
big-endian length and that many bytes of JSON, in order. Nothing is ever unpickled. The parent kills
it when a job runs past its time; here, limits on memory and CPU time back that up, and the kernel
ends it when the parent dies.

Messages: first a set-up `{"grader": ..., "memory_mb": ..., "time_limit_s": ..., "parent": pid}`,
answered by `{"ready": true}` or `{"user_error": message}`; then jobs `{"problem": fields,
"text": text}`, each answered by `{"verdict": fields, "rss_mb": size}` or `{"user_error": message}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

from restem.errors import UserError
from restem.records import Problem, Verdict

MAX_MESSAGE = 256 * 2**20


def read(stream: BinaryIO) -> Any | None:
    """The next message, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = struct.unpack(">I", head)[0]
    if size > MAX_MESSAGE:
        return None
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None


def frame(message: Any) -> bytes:
    """A message as bytes; ASCII only, so that lone surrogates survive."""
    body = json.dumps(message, ensure_ascii=True).encode("ascii")
    return struct.pack(">I", len(body)) + body


def _die_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    # The parent may have gone before the request was made.
    if os.getppid() != parent:
        os._exit(0)


class _Limits:
    """rlimits of this process; the CPU limit moves along with each job."""

    def __init__(self, memory_mb: int, time_limit_s: float):
        import resource

        self.resource = resource
        self.seconds = int(time_limit_s) + 2
        # macOS has the name of this limit and refuses to set it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def start_job(self) -> None:
        usage = self.resource.getrusage(self.resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime) + 1
        self.resource.setrlimit(
            self.resource.RLIMIT_CPU, (used + self.seconds, self.resource.RLIM_INFINITY)
        )

    def peak_mb(self) -> int:
        # Linux keeps in ru_maxrss what the process held before exec: the memory of the trainer that
        # started this worker, which would have it replaced after every answer.
        with contextlib.suppress(OSError), open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) // 1024
        peak = self.resource.getrusage(self.resource.RUSAGE_SELF).ru_maxrss
        return peak // (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    jobs = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a grader prints must not get between the answers.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)

    def reply(message: Any) -> None:
        answers.write(frame(message))
        answers.flush()

    setup = read(jobs)
    if setup is None:
        return
    _die_with(setup["parent"])
    limits = _Limits(setup["memory_mb"], setup["time_limit_s"])
    from restem.verify import graders

    try:
        grade = graders.build(setup["grader"])
    except UserError as error:
        reply({"user_error": str(error)})
        return
    reply({"ready": True})
    while (job := read(jobs)) is not None:
        limits.start_job()
        try:
            fields = job["problem"]
            fields["solutions"] = tuple(fields["solutions"])
            verdict = grade(Problem(**fields), job["text"])
            message = {"verdict": dataclasses.asdict(verdict), "rss_mb": limits.peak_mb()}
        except UserError as error:
            message = {"user_error": str(error)}
        except MemoryError:
            message = {"verdict": _error("out of memory"), "rss_mb": 2**30}
        except Exception as error:
            message = {
                "verdict": _error(f"{type(error).__name__}: {error}"[:500]),
                "rss_mb": limits.peak_mb(),
            }
        reply(message)


def _error(detail: str) -> dict[str, Any]:
    verdict = Verdict(0.0, method="error", detail=detail.replace("\n", " "))
    return dataclasses.asdict(verdict)


if __name__ == "__main__":
    main()

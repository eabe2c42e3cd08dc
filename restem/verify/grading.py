"""The worker that grades answers and calls reward functions: `python -m restem.verify.grading`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from restem.records import Problem
from restem.verify import graders
from restem.verify.pool import worker
from restem.verify.pool.process import Launch
from restem.verify.pool.transport import Channel

WINDOW = 8
"""Samples in one worker's hands at a time."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def launch(grader: Mapping[str, Any], *, time_limit_s: float, memory_mb: int, jobs: int) -> Launch:
    """Returns how a worker for `grader` is started.

    Args:
      grader: a task's grader, of any kind but "program" and "none".
      time_limit_s: wall-clock seconds for one sample, and a second more of CPU time.
      memory_mb: address space of the worker in MiB.
      jobs: samples after which the worker is replaced.
    """
    own = grader["kind"] == "function"
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
    return Launch(
        command=(sys.executable, "-P", "-m", "restem.verify.grading"),
        environment=environment,
        setup={"grader": dict(grader), "memory_mb": memory_mb, "parent": os.getpid()},
        time_limit_s=time_limit_s,
        cpu_s=time_limit_s + 1,
        recycle_mb=memory_mb // 2,
        recycle_jobs=jobs,
        window=1 if own else WINDOW,
    )


@contextlib.contextmanager
def _prepare(
    setup: dict[str, Any], channel: Channel, limits: worker.Limits
) -> Iterator[tuple[dict[str, Any], worker.Answer]]:
    worker.die_with(setup["parent"])
    limits.bound_memory(setup["memory_mb"])
    grade = graders.build(setup["grader"])

    def answer(jobs: list[Any]) -> list[dict[str, Any]]:
        return [
            worker.reply(functools.partial(grade, _problem(job["problem"]), job["text"]))
            for job in jobs
        ]

    yield {}, answer


def _problem(fields: dict[str, Any]) -> Problem:
    return Problem(**{**fields, "solutions": tuple(fields["solutions"])})


if __name__ == "__main__":
    worker.serve(_prepare)

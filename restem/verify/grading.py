"""The worker that grades answers and calls reward functions: `python -m restem.verify.grading`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from restem.records import Problem
from restem.verify import graders, rewards
from restem.verify.pool import worker
from restem.verify.pool.pool import usable_cores
from restem.verify.pool.process import Launch
from restem.verify.pool.transport import Channel

WINDOW = 8
"""Number of samples that one worker holds at a time."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def launch(grader: Mapping[str, Any], *, time_limit_s: float, memory_mb: int, jobs: int) -> Launch:
    """Returns how a worker for `grader` is started.

    Args:
      grader: a task's grader, of any kind but "program" and "none", without its resources.
      time_limit_s: wall-clock seconds for one sample, or one batch of a reward function; the
        limit of CPU time is a second more, on each core.
      memory_mb: address space of the worker in MiB.
      jobs: samples after which the worker is replaced.
    """
    own = grader["kind"] == "function"
    environment = dict(os.environ) if own else {}
    for name in _KEPT_ENVIRONMENT:
        if name in os.environ:
            environment[name] = os.environ[name]
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    devices = grader.get("devices", "")
    if not devices:  # the accelerator is the parent's
        environment["JAX_PLATFORMS"] = "cpu"
    environment["CUDA_VISIBLE_DEVICES"] = devices
    return Launch(
        command=(sys.executable, "-P", "-m", "restem.verify.grading"),
        environment=environment,
        setup={"grader": dict(grader), "memory_mb": memory_mb, "parent": os.getpid()},
        time_limit_s=time_limit_s,
        # A reward function may keep several cores busy; an answer is graded by one.
        cpu_s=(time_limit_s + 1) * (usable_cores() if own else 1),
        start_limit_s=grader.get("start_limit_s", rewards.START_LIMIT_S) if own else 60.0,
        # However large it is, the model of a reward function is not a reason to load it again.
        recycle_mb=memory_mb if own else memory_mb // 2,
        recycle_jobs=jobs,
        window=1 if own else WINDOW,
        batch=grader.get("batch", 1),
    )


@contextlib.contextmanager
def _prepare(
    setup: dict[str, Any], channel: Channel, limits: worker.Limits
) -> Iterator[tuple[dict[str, Any], worker.Answer]]:
    worker.die_with(setup["parent"])
    limits.bound_memory(setup["memory_mb"])
    grader = setup["grader"]
    if grader["kind"] == "function":
        reward = rewards.Reward(**{name: v for name, v in grader.items() if name != "kind"})
        reward.warm_up()
        yield (
            {},
            lambda jobs: reward.replies(
                [_problem(job["problem"]) for job in jobs], [job["text"] for job in jobs]
            ),
        )
        return
    grade = graders.build(grader)
    yield (
        {},
        lambda jobs: [
            worker.reply(functools.partial(grade, _problem(job["problem"]), job["text"]))
            for job in jobs
        ],
    )


def _problem(fields: dict[str, Any]) -> Problem:
    return Problem(**{**fields, "solutions": tuple(fields["solutions"])})


if __name__ == "__main__":
    worker.serve(_prepare)

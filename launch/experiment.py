"""XManager experiments, which have a title and one work unit per point of a sweep."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
from collections.abc import Callable, Sequence

from launch.jobs import Job

INSTALL = "pip install --no-deps -r launch/requirements.txt"
"""Command that installs XManager and its dependencies."""


def run(title: str, jobs: Sequence[Job], start: Callable[[Job], int]) -> list[int]:
    """Runs jobs concurrently as the work units of an experiment.

    Without XManager, the jobs still run, but the experiment is not recorded.

    Args:
      title: title of the experiment.
      jobs: jobs, one per work unit.
      start: runs a job to its end and returns its exit code; called in a separate thread.

    Returns:
      The exit codes.
    """
    if importlib.util.find_spec("xmanager") is None:
        print(f"XManager is not installed, so the experiment is not recorded: {INSTALL}")
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(start, jobs))
    from xmanager import xm_local

    codes: dict[str, int] = {}
    with xm_local.create_experiment(experiment_title=title) as experiment:
        for job in jobs:
            experiment.add(_unit(job, start, codes), args=dict(job.point))
    return [codes[job.name] for job in jobs]


def _unit(job: Job, start: Callable[[Job], int], codes: dict[str, int]):
    async def unit(work_unit, **point) -> None:
        del work_unit, point  # XManager records them; the job has them in its arguments
        codes[job.name] = await asyncio.to_thread(start, job)

    return unit

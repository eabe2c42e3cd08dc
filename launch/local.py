"""Jobs on this machine, with XManager's local executor; each host is a process."""

from __future__ import annotations

import os
import pathlib
import shlex
import socket
import sys
import tempfile
from collections.abc import Sequence

from launch import jobs as jobs_lib
from launch.experiment import INSTALL
from launch.image import ROOT
from launch.jobs import Job
from restem.errors import UserError

WORKER = ROOT / "launch" / "worker.py"


def require() -> None:
    """Checks that XManager is installed.

    Raises:
      UserError: if it is not.
    """
    try:
        import xmanager.xm_local  # noqa: F401
    except ImportError as e:
        raise UserError(f"XManager is not installed ({e}): {INSTALL}") from e


def environments(job: Job, port: int) -> list[dict[str, str]]:
    """Returns the variables of each host's process."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    common = {"PYTHONPATH": path, **job.environment}
    if job.resources.hosts == 1:
        return [common]
    return [
        {
            **common,
            "RESTEM_COORDINATOR": f"localhost:{port}",
            "RESTEM_NUM_PROCESSES": str(job.resources.hosts),
            "RESTEM_PROCESS_ID": str(host),
        }
        for host in range(job.resources.hosts)
    ]


def text(job: Job) -> str:
    """Returns the commands, ready to be pasted; replace PORT with a free port."""
    lines = []
    for environment in environments(job, 0):
        settings = [f"{name}={value}" for name, value in environment.items()]
        command = [*settings, sys.executable, str(WORKER), *job.arguments]
        lines.append(shlex.join(command).replace("localhost:0", "localhost:PORT"))
    return "\n".join(lines)


def run(title: str, jobs: Sequence[Job]) -> list[int]:
    """Runs the jobs as work units of an experiment and waits for them; returns their exit codes.

    Raises:
      UserError: XManager is not installed.
    """
    require()
    from xmanager import xm, xm_local

    with tempfile.TemporaryDirectory(prefix="restem-launch-") as folder:
        ends = {job.name: _exit_files(pathlib.Path(folder), job) for job in jobs}
        try:
            with xm_local.create_experiment(experiment_title=title) as experiment:
                (executable,) = experiment.package(
                    [
                        xm.binary(
                            xm_local.Local.Spec(),
                            sys.executable,
                            args=xm.SequentialArgs.from_collection([str(WORKER)]),
                        )
                    ]
                )
                for job in jobs:
                    group = {}
                    arguments = xm.SequentialArgs.from_collection(list(job.arguments))
                    made = environments(job, _free_port())
                    for host, (environment, end) in enumerate(
                        zip(made, ends[job.name], strict=True)
                    ):
                        group[f"{job.name}_{host}"] = xm.Job(
                            executable,
                            xm_local.Local(),
                            args=arguments,
                            env_vars={**environment, "RESTEM_EXIT_FILE": str(end)},
                        )
                    experiment.add(xm.JobGroup(**group))
        except RuntimeError as e:
            print(f"a worker was killed: {e}", file=sys.stderr)
        return [jobs_lib.worst([_code(end) for end in ends[job.name]]) for job in jobs]


def _exit_files(folder: pathlib.Path, job: Job) -> list[pathlib.Path]:
    return [folder / f"{job.name}.{host}" for host in range(job.resources.hosts)]


def _code(end: pathlib.Path) -> int:
    """Returns the exit code that a worker wrote; a killed worker wrote none."""
    return int(end.read_text()) if end.exists() else 137


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]

"""Starts restem with XManager: on this machine or on Vertex AI.

    python launch/xm_launch.py --gin_file=restem_math.gin --gin.MODEL=hf:/models/gemma-3-4b-pt \
        --executor=vertex --gpu_type=a100 --gpu_count=8 --workdir=gs://bucket/runs/math
    python launch/xm_launch.py --gin_file=restem_demo.gin --workdir=runs/demo --sweep=seed=0,1,2

`--dry_run` prints every job, its resources and its command, and needs neither XManager nor
credentials. Running the same command again resumes: the workdir says what is done.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence

from absl import app, flags

from restem.cli.main import split_gin_bindings
from restem.errors import UserError
from restem.plan.chips import CHIPS, Slice

ROOT = pathlib.Path(__file__).resolve().parent.parent

GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "gin files, passed on to restem")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; in a bucket for many hosts")
VERB = flags.DEFINE_string("verb", "run", "verb of restem")
EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "vertex"], "where the job runs")
TPU_TYPE = flags.DEFINE_enum("tpu_type", None, sorted(CHIPS), "chip of a TPU slice")
TOPOLOGY = flags.DEFINE_string("topology", None, "shape of the slice, such as 4x4x4")
GPU_TYPE = flags.DEFINE_string("gpu_type", None, "GPU of Vertex, such as a100")
GPU_COUNT = flags.DEFINE_integer("gpu_count", 1, "GPUs of each host", lower_bound=1)
HOSTS = flags.DEFINE_integer("hosts", None, "hosts of a job; follows from a TPU's topology")
SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "NAME=V1,V2,...: a job for every value; `seed` is the gin macro SEED"
)
IMAGE = flags.DEFINE_string("base_image", "python:3.11", "image that the job's is built on")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the jobs, start nothing")
NAME = flags.DEFINE_string("name", "restem", "title of the experiment")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of restem on one or several hosts."""

    name: str
    """Unique in the experiment."""
    arguments: tuple[str, ...]
    """Of the `restem` command."""
    executor: str
    """"local" or "vertex"."""
    resources: Mapping[str, str]
    """What each job asks for: "hosts" and a TPU slice or GPUs."""

    @property
    def hosts(self) -> int:
        return int(self.resources["hosts"])

    def text(self) -> str:
        """The job for a person, its command ready to be pasted."""
        resources = ", ".join(f"{k}={v}" for k, v in self.resources.items())
        command = shlex.join(["restem", *self.arguments])
        return f"job {self.name} ({self.executor}): {resources}\n  {command}"


def sweep_points(sweeps: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of the swept values: ["seed=0,1", "x.y=2"] -> two points.

    Raises:
      UserError: a sweep is not NAME=V1,V2 or a name comes twice.
    """
    axes = {}
    for sweep in sweeps:
        name, equals, values = sweep.partition("=")
        if not (name and equals and all(values.split(","))):
            raise UserError(f"--sweep={sweep}: write NAME=V1,V2, such as seed=0,1,2")
        name = name.upper() if name == "seed" else name
        if name in axes:
            raise UserError(f"--sweep: {name} is swept twice; write its values in one sweep")
        axes[name] = values.split(",")
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def resources(
    *,
    executor: str,
    tpu_type: str | None,
    topology: str | None,
    gpu_type: str | None,
    gpu_count: int,
    hosts: int | None,
) -> dict[str, str]:
    """What a job asks for; hosts follow from a TPU's topology.

    Raises:
      UserError: the flags contradict each other.
    """
    if (tpu_type is None) != (topology is None):
        raise UserError("--tpu_type and --topology go together, such as v5p and 4x4x4")
    if tpu_type and gpu_type:
        raise UserError("--tpu_type and --gpu_type: a job has one kind of accelerator")
    if tpu_type:
        where = Slice.parse(f"{tpu_type}:{topology}")
        if hosts not in (None, where.hosts):
            raise UserError(
                f"--hosts={hosts}: {where.name} has {where.hosts} hosts; leave --hosts out"
            )
        return {"hosts": str(where.hosts), "tpu": where.name, "chips": str(where.chips)}
    asked = {"hosts": str(hosts or 1)}
    if gpu_type:
        asked["gpu"] = f"{gpu_count} x {gpu_type}"
    elif executor == "vertex":
        raise UserError("--executor=vertex needs --tpu_type and --topology, or --gpu_type")
    return asked


def jobs(
    *,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    workdir: str | None,
    verb: str,
    executor: str,
    asked: Mapping[str, str],
    sweeps: Sequence[str] = (),
) -> list[Job]:
    """One job for each point of the sweep, each in a folder of its own.

    Args:
      bindings: "--gin.NAME=VALUE" as given.

    Raises:
      UserError: no workdir or gin file, or a workdir that other hosts do not see.
    """
    if not workdir:
        raise UserError("--workdir=DIR is missing: the folder where the run's files go")
    if not gin_files:
        raise UserError("--gin_file=FILE is missing, such as --gin_file=restem_math.gin")
    if executor == "vertex" and "://" not in workdir:
        raise UserError(
            f"--workdir={workdir}: on Vertex the workdir is in a bucket, such as gs://bucket/run"
        )
    made = []
    for point in sweep_points(sweeps):
        tag = "_".join(f"{name}_{value}" for name, value in point.items())
        folder = f"{workdir.rstrip('/')}/{tag}" if tag else workdir
        made.append(
            Job(
                name=tag or "run",
                arguments=(
                    verb,
                    *(f"--gin_file={file}" for file in gin_files),
                    *bindings,
                    *(f"--gin.{name}={value}" for name, value in point.items()),
                    f"--workdir={folder}",
                ),
                executor=executor,
                resources=dict(asked),
            )
        )
    return made


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launch(made: Sequence[Job], *, title: str, base_image: str) -> None:
    """Starts the jobs with XManager and waits for local ones.

    Raises:
      UserError: XManager is missing, or its backend does not know the accelerator.
    """
    try:
        from xmanager import xm, xm_local
    except ImportError as e:
        raise UserError(
            f"XManager is not installed ({e}): pip install --no-deps -r launch/requirements.txt; or"
            " start without it: launch/tpu_vm.sh for TPU VMs, launch/gke.yaml for Kubernetes,"
            " --dry_run to see the commands"
        ) from e

    executor = made[0].executor
    with xm_local.create_experiment(experiment_title=title) as experiment:
        if executor == "local":
            spec = xm_local.Local.Spec()
            (executable,) = experiment.package(
                [xm.binary(spec, sys.executable, args=xm.SequentialArgs.from_collection(
                    ["-m", "restem"]))]
            )  # fmt: skip
        else:
            requirements = _vertex_requirements(made[0], xm)
            spec = xm_local.Vertex.Spec()
            (executable,) = experiment.package(
                [
                    xm.python_container(
                        spec,
                        entrypoint=xm.CommandList(
                            [
                                "cd /restem",
                                f"pip install --no-cache-dir . '{_jax_for(made[0])}'",
                                'restem "$@"',
                            ]
                        ),
                        path=str(ROOT),
                        base_image=base_image,
                        docker_instructions=[f"COPY {ROOT.name}/ /restem", "WORKDIR /restem"],
                    )
                ]
            )
        for job in made:
            arguments = xm.SequentialArgs.from_collection(list(job.arguments))
            if executor == "vertex":
                experiment.add(
                    xm.Job(executable, xm_local.Vertex(requirements=requirements), args=arguments)
                )
                continue
            # Several hosts on this machine are several processes that find each other by port.
            port = _free_port()
            group = {}
            for host in range(job.hosts):
                env = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
                if job.hosts > 1:
                    env |= {
                        "RESTEM_COORDINATOR": f"localhost:{port}",
                        "RESTEM_NUM_PROCESSES": str(job.hosts),
                        "RESTEM_PROCESS_ID": str(host),
                    }
                group[f"{job.name}_{host}"] = xm.Job(
                    executable, xm_local.Local(), args=arguments, env_vars=env
                )
            experiment.add(xm.JobGroup(**group))


def _jax_for(job: Job) -> str:
    """The package that brings JAX the job's accelerator."""
    return "jax[tpu]" if "tpu" in job.resources else "jax[cuda12]"


def _vertex_requirements(job: Job, xm):
    if "tpu" in job.resources:
        from xmanager.cloud import vertex

        chip, _, shape = job.resources["tpu"].partition(":")
        kind = xm.ResourceType[f"TPU_{chip.upper()}"]
        if kind not in vertex._CLOUD_TPU_ACCELERATOR_TYPES:
            raise UserError(
                f"--tpu_type={chip}: this XManager cannot ask Vertex for it; use launch/tpu_vm.sh"
                " or launch/gke.yaml with the same gin files"
            )
        return xm.JobRequirements({kind: shape})
    count, _, kind = job.resources["gpu"].partition(" x ")
    return xm.JobRequirements({xm.ResourceType[kind.upper()]: int(count)}, replicas=job.hosts)


def main(argv: Sequence[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"unknown arguments {' '.join(argv[1:])}; see --help")
        asked = resources(
            executor=EXECUTOR.value,
            tpu_type=TPU_TYPE.value,
            topology=TOPOLOGY.value,
            gpu_type=GPU_TYPE.value,
            gpu_count=GPU_COUNT.value,
            hosts=HOSTS.value,
        )
        made = jobs(
            gin_files=GIN_FILE.value,
            bindings=_GIN_BINDINGS,
            workdir=WORKDIR.value,
            verb=VERB.value,
            executor=EXECUTOR.value,
            asked=asked,
            sweeps=SWEEP.value,
        )
        if DRY_RUN.value:
            for job in made:
                print(job.text())
            print("dry run: nothing was started")
            return 0
        launch(made, title=NAME.value, base_image=IMAGE.value)
    except UserError as e:
        print(f"xm_launch: {e}", file=sys.stderr)
        return 2
    return 0


_GIN_BINDINGS: list[str] = []


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser knows no flags whose name is made up: `--gin.NAME=VALUE` is taken out first."""
    others, _ = split_gin_bindings(argv)
    _GIN_BINDINGS[:] = [a for a in argv if a.startswith("--gin.")]
    return flags.FLAGS(others)


def console() -> None:
    try:
        app.run(main, flags_parser=_parse)
    except UserError as e:
        print(f"xm_launch: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    console()

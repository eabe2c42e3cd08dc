"""Jobs, which are one run of restem each, with their resources and names."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence

from launch.config import Config
from launch.worker import RESTARTABLE
from restem.errors import UserError
from restem.plan.chips import CHIPS, GPUS, Gpu, Slice

BAD_INPUT = 2
"""Exit code after which the user must correct something."""

PREEMPTED = 75
"""Exit code after a SIGTERM, one of `RESTARTABLE`."""

MOST_STARTS = 100
"""Number of times that a job is sent before a launcher gives up on it."""

_LONGEST_NAME = 50
"""Maximum characters of a job's name: Kubernetes adds its own suffix and allows 63."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """The hosts and accelerators of a job."""

    hosts: int = 1
    """Number of hosts, each with one process of restem."""
    slice: Slice | None = None
    """TPU slice."""
    gpu: Gpu | None = None
    """Kind of GPU."""
    gpu_count: int = 0
    """GPUs of each host."""

    def __str__(self) -> str:
        hosts = f"{self.hosts} host{'s' if self.hosts > 1 else ''}"
        if self.slice:
            return f"{self.slice.name}, {self.slice.chips} chips on {hosts}"
        return f"{self.gpu_count} x {self.gpu.name} on each of {hosts}" if self.gpu else hosts


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of restem on one or several hosts."""

    name: str
    """Name in Google Cloud and Kubernetes: at most 50 of a-z, 0-9 and "-"."""
    arguments: tuple[str, ...]
    """Arguments of the `restem` command."""
    workdir: str
    """Folder of the run."""
    resources: Resources
    """Hosts and accelerators of the job."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables of every host."""
    point: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Swept values by name."""
    again: str = ""
    """Command of the launcher that continues the run; "" where only the job's name is known."""

    @property
    def command(self) -> str:
        """Returns the command that every host runs, ready to be pasted."""
        return shlex.join(["restem", *self.arguments])


def how_to_continue(again: str) -> str:
    """Returns a sentence on how to continue a run whose `Job.again` is given."""
    if again:
        return f"to continue it: {again}"
    return (
        "to continue it, use the command that the launcher printed when it started the run"
        " (--resume or --workdir, and --sweep of a swept run)"
    )


def worst(codes: Sequence[int]) -> int:
    """Returns the exit code of a job from those of its hosts.

    A host that found bad input or failed in another way takes precedence: it explains why the
    others stopped, and restarting them would be useless.
    """
    final = [code for code in codes if code and code not in RESTARTABLE]
    if final:
        return BAD_INPUT if BAD_INPUT in final else final[0]
    return next((code for code in codes if code), 0)


def resources(config: Config, hosts: int | None) -> Resources:
    """Returns the resources of a job; the number of TPU hosts follows from the topology.

    Raises:
      UserError: if the settings contradict each other, or name an unknown chip, shape or GPU.
    """
    if (config.chip is None) != (config.topology is None):
        raise UserError("--chip and --topology go together, such as v5p and 4x4x4")
    if config.chip and config.gpu_type:
        raise UserError("--chip and --gpu_type: a job has one kind of accelerator")
    if config.chip:
        if config.chip not in CHIPS:
            raise UserError(f"--chip={config.chip}: choose one of {', '.join(CHIPS)}")
        where = Slice.parse(f"{config.chip}:{config.topology}")
        where.require_offered()
        if hosts not in (None, where.hosts):
            raise UserError(
                f"--hosts={hosts}: {where.name} has {where.hosts} hosts; leave --hosts out"
            )
        return Resources(where.hosts, slice=where)
    if config.gpu_type:
        if config.gpu_type not in GPUS:
            raise UserError(f"--gpu_type={config.gpu_type}: choose one of {', '.join(GPUS)}")
        gpu, count = GPUS[config.gpu_type], config.gpu_count or 1
        gpu.machine_type(count)
        return Resources(hosts or 1, gpu=gpu, gpu_count=count)
    if config.executor != "local":
        raise UserError(
            f"--executor={config.executor} needs --chip and --topology"
            + (", or --gpu_type" if config.executor == "vertex" else "")
        )
    return Resources(hosts or 1)


def points(sweeps: Sequence[str]) -> list[dict[str, str]]:
    """Returns every combination of the swept values: ["seed=0,1", "x.y=2"] gives two points.

    Raises:
      UserError: if a sweep is not NAME=V1,V2 or a name occurs twice.
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


def new_name(name: str, now: datetime.datetime) -> str:
    """Returns NAME-DATE, the name of a new run."""
    return resource_name(f"{name}-{now:%Y%m%d-%H%M%S}")


def resource_name(text: str) -> str:
    """Returns a name that Google Cloud and Kubernetes accept; long ones end in a hash."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or not name[0].isalpha():
        name = f"run-{name}".rstrip("-")
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{digest}"
    return name


def _point_name(run: str, point: Mapping[str, str]) -> str:
    """Returns the name of a job of a sweep.

    `resource_name` would make the same of -1 and 1, or of A and a; such values add a hash.
    """
    tag = _tag(point)
    plain = all(re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", value) for value in point.values())
    digest = "" if plain else f"-{hashlib.sha256(tag.encode()).hexdigest()[:6]}"
    return resource_name(f"{run}-{tag}{digest}")


def _tag(point: Mapping[str, str]) -> str:
    return "_".join(f"{swept}_{value}" for swept, value in point.items())


def jobs(
    *,
    name: str,
    workdir: str,
    verb: str,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    asked: Resources,
    environment: Mapping[str, str],
    sweeps: Sequence[str] = (),
    again: Sequence[str] = (),
    passed: Sequence[str] = (),
) -> list[Job]:
    """Returns one job per point of the sweep, each with its own name and folder.

    Args:
      name: name of the run, and of the job if nothing is swept.
      workdir: folder of the run; the folders of points are inside it.
      bindings: "--gin.NAME=VALUE" as given.
      again: command of the launcher that continues the run, without `--sweep` and what is passed.
      passed: arguments of the verb, as given after "--".

    Raises:
      UserError: as in `points`, or two points have the same name.
    """
    made: list[Job] = []
    for point in points(sweeps):
        tag = _tag(point)
        folder = f"{workdir.rstrip('/')}/{tag}" if tag else workdir
        made.append(
            Job(
                name=_point_name(name, point) if point else name,
                arguments=(
                    verb,
                    *(f"--gin_file={file}" for file in gin_files),
                    *bindings,
                    *(f"--gin.{swept}={value}" for swept, value in point.items()),
                    f"--workdir={folder}",
                    *passed,
                ),
                workdir=folder,
                resources=asked,
                environment=dict(environment),
                point=point,
                again=shlex.join(
                    [
                        *again,
                        *(f"--sweep={swept}={value}" for swept, value in point.items()),
                        *(("--", *passed) if passed else ()),
                    ]
                ),
            )
        )
        for other in made[:-1]:
            if other.name == made[-1].name:
                raise UserError(
                    f"--sweep: {_tag(other.point)} and {tag} would both be the job {other.name}:"
                    " give every value once, and sweep values so alike in separate runs"
                )
    return made

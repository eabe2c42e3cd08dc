#!/usr/bin/env python3
"""Starts restem: on this machine, Vertex AI, Cloud TPU VMs or GKE.

    launch/xm_launch.py --setup --executor=tpu_vm --project=mine --zone=us-west4-a \
        --bucket=gs://mine/runs --chip=v5e --topology=4x4 --data=gs://mine/data \
        --model=hf:gs://mine/models/gemma-3-4b-pt
    launch/xm_launch.py --gin_file=restem_math.gin
    launch/xm_launch.py --gin_file=restem_math.gin --resume=restem-math-20261128-031818
    launch/xm_launch.py --executor=local --gin_file=restem_demo.gin --workdir=runs/demo
    launch/xm_launch.py --gin_file=restem_math.gin --resume=restem-math-20261128-031818 \
        --verb=evaluate -- --iteration=2

The first command saves the settings of a machine. The second starts a run in a new folder of the
bucket and follows it, and the third continues that run. The fourth runs on this machine. The last
evaluates a policy of the run; what follows `--` is passed on to restem. `--dry_run` prints all that
would be sent. See docs/launching.md.
"""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import app, flags, logging

from launch import checks, commands, experiment, gke, hardware, local, tpu_vm, verbs, vertex
from launch import config as config_lib
from launch import jobs as jobs_lib
from launch.config import ACCELERATORS, CAPACITIES, EXECUTORS, Config, help_of
from launch.image import Image
from launch.jobs import Job
from restem.cli.main import split_gin_bindings
from restem.errors import UserError

ACTIONS = ("run", "follow", "stop", "delete", "status")

GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "gin files, passed on to restem")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default: BUCKET/NAME-DATE")
NAME = flags.DEFINE_string("name", None, "name of the run; default: that of its first gin file")
RESUME = flags.DEFINE_string("resume", None, "NAME-DATE of a run that is to continue")
VERB = flags.DEFINE_enum("verb", "run", verbs.VERBS, "verb of restem; its flags follow --")
SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "NAME=V1,V2,...: a job for every value; `seed` is the gin macro SEED"
)
HOSTS = flags.DEFINE_integer("hosts", None, "hosts of a job; follows from a TPU's topology")
MODEL_ON_HOSTS = flags.DEFINE_bool(
    "model_on_hosts", False, "the model is a folder that every host has at the same place"
)
DETACH = flags.DEFINE_bool("detach", False, "return once the jobs run")
KEEP = flags.DEFINE_bool("keep", False, "keep a slice of Cloud TPU VMs when the run has ended")
ACTION = flags.DEFINE_enum("action", "run", ACTIONS, "what to do with the jobs of --resume")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print what would be sent, start nothing")
SETUP = flags.DEFINE_bool(
    "setup", False, "save the settings given, ask for the most common ones on a terminal, stop"
)

_CHOICES = {"executor": EXECUTORS, "capacity": CAPACITIES}
SETTINGS = {
    field: flags.DEFINE_integer(field, None, help_of(field), lower_bound=1)
    if field == "gpu_count"
    else flags.DEFINE_enum(field, None, _CHOICES[field], help_of(field))
    if field in _CHOICES
    else flags.DEFINE_string(field, None, help_of(field))
    for field in Config.__dataclass_fields__
}

_GIN_BINDINGS: list[str] = []
_PASSED: list[str] = []
"""Arguments after "--"."""


def settings() -> Config:
    """Returns the flags' settings, with those of the user's file where flags are not set."""
    given = Config(**{name: flag.value for name, flag in SETTINGS.items()})
    kept = given.over(config_lib.read(config_lib.path()))
    if kept.executor is None and WORKDIR.value and "://" not in WORKDIR.value:
        return Config(executor="local").over(kept)
    return kept


def for_jobs(config: Config) -> Config:
    """Returns the settings that jobs have; a local run ignores the slice or GPUs of the set-up.

    Raises:
      UserError: the executor is local, and a flag names a slice or GPUs.
    """
    if config.executor != "local":
        return config
    named = [f"--{name}" for name in ACCELERATORS if SETTINGS[name].value is not None]
    if named:
        raise UserError(
            f"{', '.join(named)}: --executor=local runs on the devices of this machine; leave"
            f" {'it' if len(named) == 1 else 'them'} out"
        )
    return config.on_this_machine()


def set_up(config: Config) -> None:
    """Saves the settings; asks for the most common ones on a terminal."""
    if sys.stdin.isatty():
        config = config_lib.ask(config, input)
    config.require("executor")
    if config.executor != "local":
        config.require("project", "zone", "bucket")
        jobs_lib.resources(config, None)
    if DRY_RUN.value:
        print(f"dry run: {config_lib.path()} was not written")
        return
    config_lib.write(config_lib.path(), config)
    print(f"saved in {config_lib.path()}")
    print("to start a run: launch/xm_launch.py --gin_file=restem_math.gin")


def name_and_workdir(config: Config, now: datetime.datetime) -> tuple[str, str]:
    """Returns the run's name and folder: new ones, or those that --resume and --workdir name.

    Raises:
      UserError: if not all hosts can see the folder, or the machine is not set up.
    """
    if RESUME.value and WORKDIR.value:
        raise UserError("--resume names the folder of a run; leave --workdir out")
    stem = pathlib.PurePath(GIN_FILE.value[0]).stem if GIN_FILE.value else "restem"
    name = NAME.value or stem
    if WORKDIR.value:
        if config.executor != "local" and not WORKDIR.value.startswith("gs://"):
            raise UserError(
                f"--workdir={WORKDIR.value}: all hosts must see it: give a folder in a bucket, such"
                " as gs://bucket/runs/math"
            )
        last = pathlib.PurePath(WORKDIR.value).name
        return jobs_lib.resource_name(NAME.value or last), WORKDIR.value
    if RESUME.value and "://" in RESUME.value:
        folder = RESUME.value.rstrip("/")
        return jobs_lib.resource_name(folder.rpartition("/")[2]), folder
    if config.bucket is None:
        raise UserError(
            "this machine is not set up: run launch/xm_launch.py --setup, or give --bucket, or give"
            " --executor=local --workdir=DIR"
        )
    bucket = config.bucket.rstrip("/")
    if RESUME.value:
        last = RESUME.value.rstrip("/").rpartition("/")[2]
        return jobs_lib.resource_name(last), f"{bucket}/{last}"
    made = jobs_lib.new_name(name, now)
    return made, f"{bucket}/{made}"


def launch(config: Config, name: str, workdir: str) -> int:
    """Starts the jobs of a run, or prints what would be sent; returns an exit code."""
    asked = jobs_lib.resources(config, HOSTS.value)
    command = verbs.parse(VERB.value, _PASSED, remote=config.executor != "local")
    run = checks.read_run(
        config, asked, gin_files=GIN_FILE.value, bindings=_GIN_BINDINGS,
        model_flag=SETTINGS["model"].value, model_on_hosts=MODEL_ON_HOSTS.value,
        points=jobs_lib.points(SWEEP.value), command=command,
    )  # fmt: skip
    made = jobs_lib.jobs(
        name=name, workdir=workdir, verb=VERB.value, gin_files=run.gin_files,
        bindings=run.bindings, asked=asked, environment=run.environment, sweeps=SWEEP.value,
        again=_again(config, name), passed=_PASSED,
    )  # fmt: skip
    folders = [job.workdir for job in made] if RESUME.value else []
    print(f"workdir: {workdir}", flush=True)
    image = _image(config, run, asked)
    for job in made:
        _check(job, config)
    if DRY_RUN.value:
        hardware.check_policies(run.points, asked, ask=False)
        before = image.commands() if image else []
        if config.executor != "local":
            listings = checks.preflight(workdir, run, folders)
            before = [*listings, *hardware.reading(run.models, asked), *before]
        print("\n".join(commands.text(command) for command in before))
        for job in made:
            print(f"# {job.name}: {job.resources}\n# {job.command}")
            print(_text(job, config, image, run))
        print("dry run: nothing was sent")
        return 0
    if config.executor == "local":
        checks.require_run(folders, remote=False)
        return jobs_lib.worst(local.run(name, made))
    checks.check_buckets(checks.preflight(workdir, run))
    checks.require_run(folders, remote=True)
    hardware.check_policies(run.points, asked, ask=True)
    if image:
        image.provide()
    _say_what_next(config, made)
    return jobs_lib.worst(experiment.run(name, made, lambda job: _run(job, config, image, run)))


def _image(config: Config, run: checks.Run, asked: jobs_lib.Resources) -> Image | None:
    if config.executor == "local" or config.image is None:
        return None
    extra = "cuda12" if asked.gpu else "tpu"
    return Image(config.image, jax_extra=extra, models=run.has_packages)


def _check(job: Job, config: Config) -> None:
    if config.executor == "local":
        local.require()
        return
    commands.require("gcloud")
    {"vertex": vertex, "tpu_vm": tpu_vm, "gke": gke}[config.executor].check(job, config)


def _slice(job: Job, config: Config, image: Image | None, run: checks.Run | None) -> tpu_vm.TpuVm:
    models = run is not None and run.has_packages
    return tpu_vm.TpuVm(job, config, image_name=image and image.name, models=models)


def _text(job: Job, config: Config, image: Image | None, run: checks.Run) -> str:
    if config.executor == "local":
        return local.text(job)
    if config.executor == "tpu_vm":
        return tpu_vm.text(_slice(job, config, image, run))
    assert image is not None
    return (vertex if config.executor == "vertex" else gke).text(job, config, image.name)


def _run(job: Job, config: Config, image: Image | None, run: checks.Run) -> int:
    if config.executor == "tpu_vm":
        return _slice(job, config, image, run).run(detach=DETACH.value, keep=KEEP.value)
    assert image is not None
    executor = vertex if config.executor == "vertex" else gke
    return executor.run(job, config, image.name, detach=DETACH.value)


def _say_what_next(config: Config, made: Sequence[Job]) -> None:
    for job in made:
        again = f"launch/xm_launch.py --executor={config.executor} --resume={job.name}"
        print(f"follow, stop or delete it: {again} --action=follow|stop|delete", flush=True)
        print(f"continue it: {job.again}", flush=True)


def _again(config: Config, name: str) -> list[str]:
    """Returns the launcher's command that continues a run, without `--sweep`.

    The name of a job does not name its folder if it was swept, or if `--workdir` named the folder.
    """
    words = ["launch/xm_launch.py", f"--executor={config.executor}"]
    kept = [SETTINGS[name] for name in SETTINGS if name != "executor"]
    for flag in (GIN_FILE, VERB, HOSTS, MODEL_ON_HOSTS, KEEP, *kept):
        if flag.present:
            words += flags.FLAGS[flag.name].serialize().splitlines()
    words += _GIN_BINDINGS
    if WORKDIR.value:
        named = [f"--name={NAME.value}"] if NAME.value else []
        return [*words, *named, f"--workdir={WORKDIR.value}"]
    return [*words, f"--resume={RESUME.value or name}"]


def act(config: Config, name: str) -> int:
    """Performs --action on the job with a name; returns an exit code.

    Raises:
      UserError: the name, the project or the zone is missing, or the job runs on this machine.
    """
    if not (RESUME.value or WORKDIR.value):
        raise UserError(f"--action={ACTION.value} needs --resume=NAME-DATE, the name of the run")
    if config.executor == "vertex":
        return vertex.act(ACTION.value, name, config)
    if config.executor == "gke":
        return gke.act(ACTION.value, name, config)
    if config.executor == "tpu_vm":
        config.require("project", "zone")
        job = Job(name, (), "", jobs_lib.resources(config, None))
        return tpu_vm.act(ACTION.value, _slice(job, config, None, None), keep=KEEP.value)
    raise UserError("--action: a local run is followed and stopped where it was started")


def main(argv: Sequence[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # XManager, gin and matplotlib log too much
    try:
        if len(argv) > 1:
            raise UserError(f"unknown arguments {' '.join(argv[1:])}; see --help")
        config = settings()
        if SETUP.value:
            set_up(config)
            return 0
        config = for_jobs(config)
        name, workdir = name_and_workdir(config, datetime.datetime.now(datetime.UTC))
        config.require("executor")
        return launch(config, name, workdir) if ACTION.value == "run" else act(config, name)
    except UserError as e:
        print(f"xm_launch: {str(e).partition(chr(10))[0]}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags with absl, without `--gin.NAME=VALUE`, which it does not support, and without
    what is passed on."""
    end = argv.index("--") if "--" in argv else len(argv)
    argv, _PASSED[:] = argv[:end], argv[end + 1 :]
    others, _ = split_gin_bindings(argv)
    _GIN_BINDINGS[:] = [a for a in argv if a.startswith("--gin.")]
    return flags.FLAGS(others)


def console() -> None:
    try:
        app.run(main, flags_parser=_parse)
    except (UserError, flags.Error) as e:
        print(f"xm_launch: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    console()

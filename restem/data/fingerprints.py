"""Fingerprints: hashes of what tasks are read from, so that a run notices when it was edited."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

from etils import epath

from restem.data import data_files, file_tasks, registry
from restem.data.file_tasks import FileTask
from restem.data.task import Task
from restem.errors import UserError

MODULE = "module of task"
"""Role of the Python file that adds a task. It may hold more than the task, so a run with results
continues when it changes."""


def of_tasks(names: Sequence[str], listed: Sequence[Task]) -> dict[str, str | None]:
    """Returns a SHA-256 of the source of each task, by role; built-in tasks have none.

    The value is None if the source cannot be read here; on a pod, only one host needs it.

    Args:
      names: names of tasks.
      listed: tasks in memory, which take the place of others of their names.
    """
    in_memory = {task.name: task for task in listed}
    found: dict[str, str | None] = {}
    for name in names:
        if name in in_memory:
            found[f"task {name}"] = of_list(in_memory[name])
        elif name in registry.names():
            module = sys.modules.get(getattr(registry.get(name).source, "__module__", ""))
            path = getattr(module, "__file__", None)
            if path and module is not None and not module.__name__.startswith("restem."):
                found[f"{MODULE} {name}"] = _of_files([epath.Path(path)])
        elif (of_files := file_tasks.bound(name)) is not None:
            found[f"task {name}"] = _of_file_task(of_files, name)
    return found


def of_list(task: Task) -> str:
    """Returns a SHA-256 of the card and the problems of a task in memory."""
    digest = hashlib.sha256()
    for part in (task.card, *task.problems):
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def _of_file_task(task: FileTask, name: str) -> str | None:
    assert task.path is not None
    if task.path.startswith(data_files.HUB):
        return None  # looking for it may take a download; a revision names it
    try:
        found = data_files.find(task.path, task.files, setting=f"{name}/file_task")
    except (UserError, OSError):
        return None
    prompt = [] if task.prompt is None else [epath.Path(task.prompt).expanduser()]
    return _of_files([*(file for split in found for file in found[split]), *prompt])


def _of_files(paths: Sequence[epath.Path]) -> str | None:
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(f"{path.name} {path.stat().length}\n".encode())
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()

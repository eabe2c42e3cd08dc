"""The tasks that a run can name, and the function that adds a task.

A custom task is one short file, which a gin file imports with `import my_task`:

    from restem.data import registry

    def problems(split):
        for i in {"train": range(50), "test": range(50, 80)}[split]:
            yield {"inputs": f"Q: What is {i} + 1?\\nA:", "answer": str(i + 1)}

    registry.add("successor", source=problems, splits=("train", "test"),
                 prompt="Q: What is 0 + 1?\\nA: The answer is 1.\\n\\n", stop=("\\nQ:",),
                 grader={"kind": "math", "extraction": "answer_is"})

Adding a task only records it: its source is read when a run first needs the problems. The built-in
tasks are added by `import restem.tasks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from restem.data import file_tasks, task_spec
from restem.data.task_spec import SPLITS, Records, TaskSpec
from restem.errors import UserError
from restem.runtime import checks

__all__ = ("SPLITS", "Records", "TaskSpec", "add", "expand", "get", "group", "members", "names")

_TASKS: dict[str, TaskSpec] = {}
# SeqIO's own rule for names, and no "/" since a task names a file of the run.
_NAME = re.compile(r"^[\w\d.:-]+$")


def add(name: str, *, source: Any, **fields: Any) -> TaskSpec:
    """Adds a task; the keyword arguments are the fields of `TaskSpec`.

    Adding a name again replaces its task, so that a notebook can import a module anew.

    Raises:
      UserError: if the name is not allowed, a field has a string instead of a sequence of strings,
        or a stop string is empty.
    """
    if not _NAME.match(name):
        raise UserError(f"task name {name!r}: use letters, digits, '_', '.', ':' and '-' only")
    for field in ("stop", "stop_after"):
        fields[field] = checks.strings(fields.get(field, ()), f"task {name}: {field}")
    if "grader" in fields:
        fields["grader"] = task_spec.grader(fields["grader"], name)
    for field in ("splits", "preprocessors", "groups"):
        if isinstance(fields.get(field), str):
            raise UserError(f"task {name}: {field} must be a tuple of strings, not a string")
        if field in fields:
            fields[field] = tuple(fields[field])
    if not callable(source) and not hasattr(source, "get_dataset"):
        raise UserError(
            f"task {name}: source must be a seqio.DataSource or a function from a split to records"
        )
    spec = TaskSpec(name=name, source=source, **fields)
    _TASKS[name] = spec
    return spec


def get(name: str) -> TaskSpec:
    """Returns the task of a name: one that was added, or a `file_task` that gin binds.

    Raises:
      UserError: if there is none; the message lists the known names.
    """
    if name in _TASKS:
        return _TASKS[name]
    if (of_files := file_tasks.bound(name)) is not None:
        return of_files.spec(name)
    near = difflib.get_close_matches(name, _TASKS, n=3)
    hint = f" (is it {' or '.join(near)}?)" if near else ""
    # Members of a group are too many to print.
    known = sorted(task if not spec.groups else spec.groups[0] for task, spec in _TASKS.items())
    raise UserError(
        f"no task named {name!r}{hint}; known tasks: {', '.join(dict.fromkeys(known)) or 'none'}. "
        "Add one with restem.data.registry.add in a file that gin imports, or bind "
        f"{name}/file_task.path"
    )


def names() -> list[str]:
    """Returns the names of all tasks added so far, sorted."""
    return sorted(_TASKS)


def group(name: str) -> list[str]:
    """Returns the tasks of a group, e.g. "bbh_cot"; the name of a task is a group of one.

    Raises:
      UserError: if no task or group has this name.
    """
    return members(name) or [get(name).name]


def members(name: str) -> list[str]:
    """Returns the tasks of a group; an empty list if there is no such group."""
    return [task for task, spec in _TASKS.items() if name in spec.groups]


def expand(task_names: Iterable[str]) -> list[str]:
    """Returns the tasks among the names and in the groups, each once, in order."""
    return list(dict.fromkeys(task for name in task_names for task in group(name)))

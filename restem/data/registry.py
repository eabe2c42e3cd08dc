"""The tasks that a run can name, and one call to add another.

A task of one's own is one short file, named by `import my_task` in a gin file:

    from restem.data import registry

    def problems(split):
        for i in {"train": range(50), "test": range(50, 80)}[split]:
            yield {"inputs": f"Q: What is {i} + 1?\\nA:", "answer": str(i + 1)}

    registry.add("successor", source=problems, splits=("train", "test"),
                 prompt="Q: What is 0 + 1?\\nA: The answer is 1.\\n\\n", stop=("\\nQ:",),
                 grader={"kind": "math", "extraction": "answer_is"})

Adding costs nothing: SeqIO hears of a task when `restem.data.sources` first needs it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gin

from restem.data import prompts
from restem.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Records:
    """What a source gives for a split when it has something to say about it besides the records."""

    rows: Sequence[Mapping[str, Any]]
    """Records as `TaskSpec.source` describes them."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """For the task card and the log, e.g. how many problems a filter dropped and why."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task as it was added: everything needed to register it with SeqIO and to write its card."""

    name: str
    """What a run calls it; letters, digits, `_`, `.`, `:` and `-`."""
    source: Any
    """A `seqio.DataSource`, or a function of a split that gives an iterable of records (or
    `Records`). A record has `inputs` and, as far as they apply, `problem_id`, `answer`, `tests`,
    `solutions`, `metadata`, as in `restem.records.Problem`. A function that has parameters
    `data_dir` or `cache_dir` is given them."""
    splits: tuple[str, ...] = SPLITS
    """Splits the source has; a `seqio.DataSource` states its own."""
    preprocessors: tuple[Callable[..., Any], ...] = ()
    """SeqIO preprocessors that turn the source's features into `inputs` and `targets` (and the
    other fields of a record, as strings)."""
    prompt: str | prompts.Prompt | Callable[[str | None], prompts.Prompt] = prompts.ZERO_SHOT
    """The few-shot prefix, or a function of the data folder that reads it."""
    stop: tuple[str, ...] = ()
    """See `TaskCard.stop`."""
    stop_after: tuple[str, ...] = ()
    """See `TaskCard.stop_after`."""
    grader: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "math"})
    """See `TaskCard.grader`."""
    max_new_tokens: int = 512
    """See `TaskCard.max_new_tokens`."""
    metric_fns: tuple[Callable[..., Any], ...] | None = None
    """SeqIO metric functions; None is the accuracy that the grader gives."""
    groups: tuple[str, ...] = ()
    """Groups it belongs to, e.g. "bbh_cot"; the first is the one in whose average it counts."""
    part_of: str = ""
    """Tasks of a group that name the same here count once in its average, with their mean."""
    temperature: float = 0.0
    """See `TaskCard.temperature`."""

    def read_prompt(self, data_dir: str | None) -> prompts.Prompt:
        if callable(self.prompt):
            return self.prompt(data_dir)
        if isinstance(self.prompt, str):
            return prompts.Prompt(self.prompt, "user" if self.prompt else "")
        return self.prompt


_TASKS: dict[str, TaskSpec] = {}
# SeqIO's own rule for names, and no "/" since a task names a file of the run.
_NAME = re.compile(r"^[\w\d.:-]+$")
# What gin takes as a scope.
_SCOPE = re.compile(r"^[a-zA-Z_]\w*$")


def add(name: str, *, source: Any, **fields: Any) -> TaskSpec:
    """Adds a task; the keyword arguments are the fields of `TaskSpec`.

    Adding the same name again replaces it, so that a module can be imported anew in a notebook.

    Raises:
      UserError: the name cannot be used, or a string stands where a sequence of strings belongs.
    """
    if not _NAME.match(name):
        raise UserError(f"task name {name!r}: use letters, digits, '_', '.', ':' and '-' only")
    for field in ("splits", "stop", "stop_after", "preprocessors", "groups"):
        if isinstance(fields.get(field), str):
            raise UserError(f"task {name}: {field} must be a tuple of strings, not a string")
        if field in fields:
            fields[field] = tuple(fields[field])
    if not callable(source) and not hasattr(source, "get_dataset"):
        raise UserError(f"task {name}: source must be a seqio.DataSource or a function of a split")
    spec = TaskSpec(name=name, source=source, **fields)
    _TASKS[name] = spec
    return spec


def get(name: str) -> TaskSpec:
    """The task of a name: built in, added by the user, or a JSONL task that gin binds.

    Raises:
      UserError: there is none; names those there are.
    """
    _import_built_in()
    if name in _TASKS:
        return _TASKS[name]
    if _SCOPE.match(name):
        from restem.data import jsonl

        with gin.config_scope(None), gin.config_scope(name):
            spec = jsonl.jsonl_task(name=name)
        if spec is not None:
            return spec
    near = difflib.get_close_matches(name, _TASKS, n=3)
    hint = f" (is it {' or '.join(near)}?)" if near else ""
    # Members of a group are too many to print.
    known = sorted(task if not spec.groups else spec.groups[0] for task, spec in _TASKS.items())
    raise UserError(
        f"no task named {name!r}{hint}; there are {', '.join(dict.fromkeys(known))}. Add one with "
        f"restem.data.registry.add in a file that gin imports, or bind {name}/jsonl_task.path"
    )


def names() -> list[str]:
    """Names of all tasks added so far, built-in ones included."""
    _import_built_in()
    return sorted(_TASKS)


def group(name: str) -> list[str]:
    """Names of the tasks of a group, e.g. "bbh_cot"; a task's own name is a group of one.

    Raises:
      UserError: no task has this name or group.
    """
    return members(name) or [get(name).name]


def members(name: str) -> list[str]:
    """Names of the tasks of a group; none where there is no such group."""
    _import_built_in()
    return [task for task, spec in _TASKS.items() if name in spec.groups]


def expand(task_names: Iterable[str]) -> list[str]:
    """Tasks and groups as tasks, each once, in order."""
    return list(dict.fromkeys(task for name in task_names for task in group(name)))


def _import_built_in() -> None:
    # Late, because the built-in tasks are added by importing this module.
    import restem.tasks  # noqa: F401

"""Tasks whose problems are lists in memory, for Python programs and notebooks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from restem.data import prompts, sources, task_spec
from restem.data.chat import ChatSettings
from restem.data.task_spec import SPLITS, TaskSpec
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.runtime import checks

Listed = str | tuple[str, Any] | Mapping[str, Any]
"""A question; a question with its answer; or a record as in `TaskSpec.source`, whose `inputs` are
the whole query."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Problems, their prompt, and how solutions are checked.

    Raises:
      UserError: the task has no problem, a problem is not one of the forms of `Listed`, or a
        setting is invalid.
    """

    name: str
    """Name of the task in files and messages."""
    train: Sequence[Listed] = ()
    """Problems that are sampled and trained on."""
    validation: Sequence[Listed] = ()
    """Problems whose reward decides when an M-step stops."""
    test: Sequence[Listed] = ()
    """Problems on which policies are evaluated."""
    prefix: str = ""
    """Few-shot prompt, the same for every problem; empty for zero-shot. Queries follow it as it is:
    end it with an empty line."""
    template: str = "{problem}"
    """Query, with `{problem}` in place of a question."""
    stop: Sequence[str] = ()
    """Strings that end a solution and are not part of it."""
    stop_after: Sequence[str] = ()
    """Strings that end a solution and are part of it."""
    grader: Mapping[str, Any] | Callable[..., Any] = dataclasses.field(
        default_factory=lambda: {"kind": "math", "extraction": "any"}
    )
    """How a solution is checked: a grader of `restem.verify.graders`, or a function
    `f(problem, text) -> float` of a module that worker processes can import."""
    max_new_tokens: int = 512
    """Length limit of a solution in tokens."""
    chat: ChatSettings | None = None
    """How an instruct model is prompted, with its own chat template; None: as text."""

    def __post_init__(self):
        if "{problem}" not in self.template:
            raise UserError(f"task {self.name}: template has no {{problem}}: {self.template!r}")
        for field in ("stop", "stop_after"):
            checks.strings(getattr(self, field), f"task {self.name}: {field}")
        if self.max_new_tokens < 1:
            raise UserError(
                f"task {self.name}: max_new_tokens = {self.max_new_tokens}: must be at least 1"
            )
        _ = self._made  # checks the grader and every problem

    @property
    def spec(self) -> TaskSpec:
        """The task in the form in which a run reads tasks."""
        return TaskSpec(
            name=self.name,
            source=lambda split: [
                self._record(listed, f"task {self.name}, {split} problem {number}")
                for number, listed in enumerate(getattr(self, split), start=1)
            ],
            splits=tuple(split for split in SPLITS if getattr(self, split)),
            form=self.template,
            prompt=prompts.Prompt(self.prefix, "user" if self.prefix else ""),
            stop=tuple(self.stop),
            stop_after=tuple(self.stop_after),
            grader=task_spec.grader(self.grader, self.name),
            max_new_tokens=self.max_new_tokens,
        )

    @functools.cached_property
    def _made(self) -> tuple[TaskCard, list[Problem]]:
        return sources.of_spec(self.spec, chat=self.chat)

    @property
    def card(self) -> TaskCard:
        """The task without its problems."""
        return self._made[0]

    @property
    def problems(self) -> list[Problem]:
        """The problems of all splits, in order."""
        return self._made[1]

    def of_split(self, split: str) -> list[Problem]:
        """Returns the problems of a split; raises `UserError` if it has none."""
        found = [problem for problem in self.problems if problem.split == split]
        if not found:
            raise UserError(f"task {self.name} has no {split} problems: Task({split}=[...])")
        return found

    def _record(self, listed: Listed, where: str) -> Mapping[str, Any]:
        match listed:
            case str():
                question, answer = listed, None
            case (str(question), answer):
                pass
            case {"inputs": str()}:
                return listed
            case _:
                raise UserError(
                    f"{where} is {listed!r:.60}; write a question, (question, answer), or a record"
                    ' {"inputs": ..., "answer": ...}'
                )
        return {"inputs": self.template.replace("{problem}", question), "answer": answer}

"""How an instruct model is prompted with a task: the settings `chat`, which gin binds.

`Run.chat = True` writes each prompt with the model's own chat template. By default no shots are
shown: the user's turn is the problem, followed by an instruction of the task, and the grader reads
the answer where the instruction asks for it. Bindings may have the task's name as scope:

    Run.chat = True
    chat.system = "You are a careful mathematician."
    gsm8k/chat.query = "{problem}\\nEnd with a line #### ANSWER."
    gsm8k/chat.grader = {"kind": "numeric", "extraction": "hashes"}
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import gin

from restem.data import prompts
from restem.data.task_spec import TaskSpec, ZeroShot
from restem.errors import UserError
from restem.records import CHAT_DATE, Chat, TaskCard
from restem.runtime import checks
from restem.runtime.checks import NONE_EMPTY, Check, at_least
from restem.verify import graders


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


@gin.configurable("chat")
@dataclasses.dataclass(frozen=True)
class ChatSettings:
    """How an instruct model is prompted if `Run.chat` is set."""

    shots: Literal["none", "turns", "text"] = "none"
    """Few-shot prompt: left out, one turn of the user and one of the assistant per shot, or all
    shots before the problem in the user's one turn."""
    query: Annotated[
        str | None, Check("containing {problem}", lambda text: "{problem}" in text)
    ] = None
    """User's turn, with `{problem}` in place of the problem; None: the problem with the task's own
    instruction, or the problem alone if shots are shown."""
    system: str | None = None
    """Text of a system message; None: none, and the template may write its own."""
    grader: Mapping[str, Any] | None = None
    """See `TaskCard.grader`; None: the grader that fits the task's instruction, or the task's
    grader if shots are shown."""
    stop: Annotated[Sequence[str] | None, NONE_EMPTY] = None
    """Strings that end a solution, besides the end of the assistant's turn; None: those of the
    task if shots are shown, otherwise none."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """See `TaskCard.max_new_tokens`; None: the task's limit."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Variables for the template, such as {"enable_thinking": False}."""
    date: Annotated[str, Check("a date YYYY-MM-DD", _is_date)] = CHAT_DATE
    """Date for templates that write today's, fixed so that a resumed run has the same prompts."""

    def put(self, card: TaskCard, spec: TaskSpec) -> TaskCard:
        """Returns the card of a task with which an instruct model is prompted.

        Raises:
          UserError: the shots cannot be told apart, or a setting does not fit.
        """
        if self.stop is not None:
            checks.strings(self.stop, "chat.stop")
        if self.grader is not None:
            graders.check(self.grader)
        preamble, shots = prompts.split_shots(card.prefix, spec.form)
        is_zero_shot = self.shots == "none" or not card.prefix
        if self.shots == "turns" and card.prefix and not shots:
            raise UserError(
                f"task {card.task}: its few-shot prompt does not consist of shots of the form"
                f' {spec.form!r}, so it cannot be shown as turns; bind chat.shots = "text"'
            )
        prefix = card.prefix if not is_zero_shot else preamble if shots else ""
        defaults = spec.zero_shot if is_zero_shot else ZeroShot()
        stop = () if is_zero_shot else card.stop
        return dataclasses.replace(
            card,
            prefix=prefix,
            stop=stop if self.stop is None else tuple(self.stop),
            stop_after=card.stop_after if self.stop is None and not is_zero_shot else (),
            grader=dict(self.grader or defaults.grader or card.grader),
            max_new_tokens=self.max_new_tokens or defaults.max_new_tokens or card.max_new_tokens,
            chat=Chat(
                query=self.query or defaults.query,
                form=spec.form,
                shots="text" if self.shots == "text" else "turns",
                system=self.system,
                options=dict(self.options),
                date=self.date,
            ),
        )


def of_task(name: str) -> ChatSettings:
    """Returns the settings of a task: bindings with its name as scope come first."""
    with gin.config_scope(None):
        if not name.isidentifier():
            return ChatSettings()
        with gin.config_scope(name):
            return ChatSettings()

"""The specification of a task, before its problems are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from restem.data import prompts
from restem.errors import UserError
from restem.verify import graders

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a split, with notes of the source."""

    rows: Sequence[Mapping[str, Any]]
    """Records as `TaskSpec.source` describes them."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Notes for the task card and the log, e.g. how many problems a filter dropped and why."""


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """How an instruct model is asked to solve a problem if it is shown no solved ones."""

    query: str = "{problem}"
    """User's turn: `{problem}`, and an instruction that says how to write the answer."""
    grader: Mapping[str, Any] | None = None
    """Grader that reads the answer where the instruction asks for it; None: the task's grader."""
    max_new_tokens: int | None = None
    """Length limit of a solution in tokens; None: the task's limit."""


IN_A_BOX = ZeroShot(
    "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    {"kind": "math", "extraction": "minerva_or_boxed"},
)
"""The instruction of Qwen 2.5-Math and many evaluations of MATH and GSM8K."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task as it was added, with everything needed to read it, to register it with SeqIO and to
    write its card."""

    name: str
    """Name of the task in a run; letters, digits, `_`, `.`, `:` and `-`."""
    source: Any
    """A `seqio.DataSource`, or a function from a split to an iterable of records (or `Records`).
    A record has `inputs` and, where they apply, `problem_id`, `answer`, `tests`, `solutions` and
    `metadata`, as in `restem.records.Problem`. A function with parameters `data_dir` or
    `cache_dir` receives them."""
    splits: tuple[str, ...] = SPLITS
    """Splits of the source; a `seqio.DataSource` states its own."""
    preprocessors: tuple[Callable[..., Any], ...] = ()
    """SeqIO preprocessors that turn the source's features into `inputs` and `targets` (and the
    other fields of a record, as strings)."""
    through_seqio: bool = False
    """Read a function source through SeqIO too. A `seqio.DataSource`, or a source with
    preprocessors, always is."""
    form: str = "{problem}"
    """Form of the queries, such as "Q: {problem}\\nA:"; chats leave it out."""
    zero_shot: ZeroShot = ZeroShot()
    """How an instruct model is asked without shots."""
    prompt: str | prompts.Prompt | Callable[[str | None], prompts.Prompt] = prompts.ZERO_SHOT
    """Few-shot prefix, or a function from the data folder to it."""
    stop: tuple[str, ...] = ()
    """See `TaskCard.stop`."""
    stop_after: tuple[str, ...] = ()
    """See `TaskCard.stop_after`."""
    grader: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "math"})
    """See `TaskCard.grader`."""
    max_new_tokens: int = 512
    """See `TaskCard.max_new_tokens`."""
    metric_fns: tuple[Callable[..., Any], ...] | None = None
    """SeqIO metric functions; None is the accuracy under `grader`."""
    groups: tuple[str, ...] = ()
    """Groups that contain the task, e.g. "bbh_cot"; it counts in the average of the first."""
    part_of: str = ""
    """Common name of tasks that together count once in the average of their group, with their
    mean."""
    temperature: float = 0.0
    """See `TaskCard.temperature`."""

    @property
    def needs_seqio(self) -> bool:
        """Returns whether reading the task starts SeqIO, and with it TensorFlow."""
        return self.through_seqio or bool(self.preprocessors) or hasattr(self.source, "get_dataset")

    def read_prompt(self, data_dir: str | None) -> prompts.Prompt:
        if callable(self.prompt):
            return self.prompt(data_dir)
        if isinstance(self.prompt, str):
            return prompts.Prompt(self.prompt, "user" if self.prompt else "")
        return self.prompt


def grader(given: Mapping[str, Any] | Callable[..., Any], task: str) -> dict[str, Any]:
    """Returns a grader in the form of `TaskCard.grader`.

    Args:
      given: a grader of `restem.verify.graders`, or a function `f(problem, text) -> float`.
      task: name of the task, for messages.

    Raises:
      UserError: the grader is not known, or worker processes cannot import the function.
    """
    if isinstance(given, Mapping):
        graders.check(given)
        return dict(given)
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    if not callable(given) or module in (None, "__main__") or not name.isidentifier():
        raise UserError(
            f"task {task}: worker processes cannot import the grader {name or given!r} of"
            f" {module}; define it at the top of a module of its own and import it from there"
        )
    return {"kind": "function", "function": f"{module}:{name}"}

"""How long the questions and solutions of a task are: what shapes of a run follow from.

`LENGTHS` has quantiles of the published training sets, in tokens of SmolLM2's vocabulary; other
vocabularies differ by some tenths. A run of the task, for instance with a small policy, tells more:
its own questions and the solutions that the policy wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import checkpoints
from restem.data import chat as chat_settings
from restem.data import registry
from restem.errors import UserError
from restem.plan.settings import PlanSettings
from restem.records import Sample
from restem.run import layout, reader
from restem.steps.settings import Settings

_LEVELS = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)
"""Percentiles of the tables below."""
_EXAMPLES = 4096
"""Training examples whose lengths are drawn, and the most texts that are encoded."""


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths in tokens."""

    prefix: int
    """Few-shot prompt."""
    max_new_tokens: int
    """Limit of the task for a sampled solution."""
    questions: tuple[int, ...]
    """Every training question."""
    solutions: tuple[int, ...]
    """Solutions, of as many samples as are known."""
    source: str
    """Where the lengths are from."""

    @property
    def mean_solution(self) -> float:
        return float(np.mean(self.solutions))

    def cut(self, limit: int) -> Lengths:
        """Returns the lengths if no solution is longer than `limit`."""
        return dataclasses.replace(self, solutions=tuple(min(n, limit) for n in self.solutions))

    def batch(self, size: int) -> Lengths:
        """Returns the lengths with `size` questions, a typical mini-batch; all if there are fewer.

        They are the middles of `size` equal parts of the sorted questions, so their mean is close
        to that of all.
        """
        count = len(self.questions)
        if size >= count:
            return self
        middles = (np.arange(size) + 0.5) * count / size
        questions = np.sort(self.questions)[middles.astype(int)]
        return dataclasses.replace(self, questions=tuple(questions.tolist()))

    def examples(self) -> list[int]:
        """Returns the lengths of training examples: questions with solutions drawn beside them."""
        rng = np.random.default_rng(0)
        questions = rng.choice(self.questions, _EXAMPLES)
        solutions = rng.choice(self.solutions, _EXAMPLES)
        # The longest question decides about shapes, so it is always among them.
        questions[0] = max(self.questions)
        return (questions + solutions - 1).tolist()


@dataclasses.dataclass(frozen=True)
class _Table:
    """Lengths of a published training set."""

    prefix: int
    problems: int
    max_new_tokens: int
    questions: tuple[int, ...]
    """Quantiles at `_LEVELS`."""
    solutions: tuple[int, ...]
    """Quantiles at `_LEVELS`, of human solutions."""


LENGTHS = {
    "math": _Table(
        prefix=688, problems=7500, max_new_tokens=512,
        questions=(15, 24, 29, 36, 43, 50, 57, 66, 80, 103, 171, 276, 405, 547, 763, 1090, 2046),
        solutions=(
            20, 52, 66, 88, 112, 138, 170, 207, 264, 349, 514, 679, 914, 1094, 1329, 2020, 2772,
        ),
    ),
    "gsm8k": _Table(
        prefix=726, problems=7473, max_new_tokens=256,
        questions=(17, 38, 41, 47, 51, 56, 61, 66, 72, 80, 95, 106, 122, 135, 146, 175, 228),
        solutions=(31, 59, 66, 79, 91, 102, 114, 129, 145, 166, 200, 233, 268, 293, 324, 373, 455),
    ),
    "apps": _Table(
        prefix=480, problems=2397, max_new_tokens=512,
        questions=(
            19, 78, 107, 144, 179, 214, 254, 301, 356, 443, 603, 761, 978, 1167, 1397, 3621, 13613,
        ),
        solutions=(43, 66, 75, 91, 115, 145, 168, 206, 252, 344, 492, 570, 747, 800, 826, 847, 852),
    ),
}  # fmt: skip
"""By task. Questions count with the words around them in the prompt."""


def planned(settings: PlanSettings, run: Settings) -> Lengths:
    """Returns the lengths that a run is planned with.

    Args:
      settings: settings of `restem plan`.
      run: settings of the run, whose limits leave out questions and cut solutions.

    Raises:
      UserError: nothing is known about the task, or no question is left.
    """
    task, problems, generate = run.run.task, run.run.train_problems, run.generate
    if settings.like is not None:
        found = of_run(settings.like, task, problems)
    else:
        found = of_task(task, problems, is_chat=run.run.chat)
    limit = generate.max_question_tokens
    kept = tuple(n for n in found.questions if limit is None or n <= limit)
    if not kept:
        raise UserError(
            f"plan: no question of task {task!r} has at most generate.max_question_tokens ="
            f" {limit} tokens; the shortest has {min(found.questions, default=0)}"
        )
    found = dataclasses.replace(found, questions=kept)
    # Human solutions alone (SFT) are trained on whole.
    sampled = generate.num_samples > 0
    return found.cut(generate.max_new_tokens or found.max_new_tokens) if sampled else found


def of_task(task: str | None, problems: int | None = None, *, is_chat: bool = False) -> Lengths:
    """Returns the lengths of a published training set, whose solutions no limit cuts.

    Args:
      task: name of the task.
      problems: number of training problems; None, or more than there are: all.
      is_chat: whether an instruct model is prompted, as `data.chat` says. The tokens of
        its template are not counted.

    Raises:
      UserError: nothing is known about the task.
    """
    if task not in LENGTHS:
        raise UserError(
            f"plan: nothing is known about the lengths of task {task!r}; set plan.like to the"
            " folder of a run of it, for instance with a small policy and few problems"
        )
    table = LENGTHS[task]
    source = f"the published training set of {task}, with human solutions"
    if is_chat:
        table = _of_chat(task, table)
        source += ", without the chat template"
    return Lengths(
        prefix=table.prefix,
        max_new_tokens=table.max_new_tokens,
        questions=_spread(table.questions, min(problems or table.problems, table.problems)),
        solutions=_spread(table.solutions, _EXAMPLES),
        source=source,
    )


def _of_chat(task: str, table: _Table) -> _Table:
    """Returns the lengths of a task with which an instruct model is prompted."""
    chat, spec = chat_settings.of_task(task), registry.get(task)
    limit, prefix = table.max_new_tokens, table.prefix
    if chat.shots == "none":
        limit, prefix = spec.zero_shot.max_new_tokens or limit, 0
    return dataclasses.replace(table, prefix=prefix, max_new_tokens=chat.max_new_tokens or limit)


def of_run(folder: str, task: str | None, problems: int | None = None) -> Lengths:
    """Returns the lengths in a run: of its questions, and of the solutions sampled so far.

    Questions are counted by the characters per token of the samples. If all samples came as text,
    such as the outputs of another engine, some are encoded with the vocabulary of the run's policy.

    Args:
      folder: the run's folder.
      task: name of the task.
      problems: number of training problems; None: as many as the run has.

    Raises:
      UserError: the folder has no problems of the task, or no samples yet, or the vocabulary for
        its texts cannot be read.
    """
    files = layout.Workdir(folder)
    path = files.problems(task or "")
    samples = reader.read_samples(files.iteration(1)) if path.exists() else []
    if not samples:
        raise UserError(f"plan.like: {folder} has no samples of task {task!r} in iteration 1")
    card, found = reader.read_problems(path)
    samples = _with_ids(samples, folder)
    tokens = sum(len(s.token_ids) for s in samples)
    per_character = tokens / max(1, sum(len(s.text) for s in samples))
    count = lambda text: max(1, round(len(text) * per_character))
    questions = tuple(sorted(count(p.inputs) for p in found if p.split == "train"))
    if problems is not None:
        questions = _spread(questions, problems)
    return Lengths(
        prefix=count(card.prefix) if card.prefix else 0,
        max_new_tokens=card.max_new_tokens,
        questions=questions,
        solutions=tuple(len(s.token_ids) for s in samples),
        source=f"the run in {folder}",
    )


def _with_ids(samples: Sequence[Sample], folder: str) -> list[Sample]:
    """Returns the samples with token ids; if none has any, encodes texts of `_EXAMPLES` samples."""
    if sampled := [s for s in samples if s.token_ids]:
        return sampled
    try:
        vocabulary = checkpoints.load_header(reader.read_run(folder).model).vocabulary
    except UserError as e:
        raise UserError(
            f"plan.like: the samples of {folder} are texts without token ids, and the vocabulary of"
            f" its policy cannot be read: {e}"
        ) from e
    end = min(vocabulary.eos_ids)
    return [
        dataclasses.replace(s, token_ids=(*vocabulary.encode(s.text), end))
        for s in samples[:: -(-len(samples) // _EXAMPLES)]
    ]


def _spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns `count` lengths whose quantiles are `values`."""
    levels = _LEVELS if len(values) == len(_LEVELS) else np.linspace(0, 100, len(values))
    return tuple(np.interp(np.linspace(0, 100, count), levels, values).round().astype(int).tolist())

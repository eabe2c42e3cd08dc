"""The amount of work of an iteration, which follows from the settings of a run and from lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from restem.plan.lengths import Lengths
from restem.plan.settings import PlanSettings
from restem.steps.settings import ImproveSettings, Settings


@dataclasses.dataclass(frozen=True)
class Work:
    """The amount of work of an iteration."""

    problems: int
    """Training problems that an E-step asks: all of them, or a mini-batch."""
    num_samples: int
    """Samples per problem."""
    mean_question: float
    """Tokens of a question."""
    mean_solution: float
    """Tokens of a solution."""
    longest_solution: int
    """Tokens of the longest solution that is known, which decides when the last sample ends."""
    prefix: int
    """Tokens of the few-shot prompt."""
    max_new_tokens: int
    """Limit of a sampled solution in tokens."""
    slot_use: float
    """Share of slot-steps that produce a token."""
    decode_steps: int
    """Tokens per slot between two visits of the host."""
    prefilled: Mapping[int, int]
    """Prefill batches by width."""
    validation_problems: int
    """Problems that each validation answers."""
    validation_tokens: int
    """Limit of a solution in validation, in tokens."""
    validations: float
    """Validations per iteration if training takes all epochs; the base policy's, of which a run has
    one, is shared out among the iterations."""
    examples: int
    """Training examples."""
    epochs: int
    """Passes over the examples."""
    batch_examples: int
    """Examples per optimizer step."""
    iterations: int
    """Iterations of the run, each with an M-step."""
    e_steps: int
    """E-steps of the run; consecutive iterations may train on the samples of one (ReST)."""
    has_m_step: bool
    """Whether the M-step fine-tunes the policy; False where `em.improve` takes its place, which is
    not planned."""
    optimizer: str
    """Name of the optimizer."""
    is_adapter: bool
    """Whether an adapter is trained on frozen weights."""
    lengths: str
    """Where the lengths are from."""
    samplers: int = 1
    """Meshes that sample apart from each other: one, or each host's own."""

    @property
    def mean_example(self) -> float:
        """Tokens of a training example."""
        return self.mean_question + self.mean_solution

    @property
    def optimizer_steps(self) -> int:
        return self.epochs * -(-self.examples // self.batch_examples)

    def hours(self, e_step: float, m_step: float) -> float:
        """Returns the hours of the run from those of an E-step and of an M-step."""
        return self.e_steps * e_step + self.iterations * m_step


def planned(
    settings: PlanSettings,
    of_run: Settings,
    lengths: Lengths,
    *,
    asked: Lengths,
    outline: Mapping[str, Any],
    samplers: int,
) -> Work:
    """Returns the work of an iteration of a run.

    Args:
      settings: settings of `restem plan`.
      of_run: settings of the run.
      lengths: of all questions and of solutions.
      asked: of the questions of an E-step.
      outline: sizes that the engine chooses; see `worker.outline`.
      samplers: meshes that sample apart from each other.
    """
    loop, improve = of_run.loop, of_run.improve
    problems = len(asked.questions)
    examples = problems * kept_per_problem(of_run)
    if of_run.select.max_examples is not None:
        examples = min(examples, of_run.select.max_examples)
    validation = of_run.run.validation_problems
    return Work(
        problems=problems,
        num_samples=of_run.generate.num_samples,
        mean_question=sum(lengths.questions) / len(lengths.questions),
        mean_solution=lengths.mean_solution,
        longest_solution=max(lengths.solutions),
        prefix=lengths.prefix,
        max_new_tokens=max_new_tokens(of_run, lengths),
        slot_use=settings.slot_use,
        decode_steps=outline["decode_steps"],
        prefilled={
            int(width): count for width, count in _prefilled(asked, outline["prefill"]).items()
        },
        validation_problems=settings.validation_problems if validation is None else validation,
        validation_tokens=improve.max_new_tokens or lengths.max_new_tokens,
        validations=_validations(improve, examples) + 1 / loop.iterations,
        examples=examples,
        epochs=improve.epochs,
        batch_examples=improve.batch_examples,
        iterations=loop.iterations,
        e_steps=-(-loop.iterations // loop.generate_every),
        has_m_step=has_m_step(of_run),
        optimizer=improve.optimizer.__name__,
        is_adapter=improve.adapter is not None,
        lengths=lengths.source,
        samplers=samplers,
    )


def has_m_step(of_run: Settings) -> bool:
    """Returns whether the M-step fine-tunes the policy."""
    return of_run.loop.improve is None


def max_new_tokens(of_run: Settings, lengths: Lengths) -> int:
    """Returns the limit of a sampled solution in tokens."""
    return of_run.generate.max_new_tokens or lengths.max_new_tokens


def kept_per_problem(of_run: Settings) -> int:
    """Returns the most training examples per problem, so that the M-step is not underestimated."""
    sampled = max(1, of_run.generate.num_samples)  # 0: human solutions, one per problem
    cap = of_run.select.cap
    return sampled if cap is None else min(cap, sampled)


def _validations(settings: ImproveSettings, examples: int) -> int:
    """Returns the validations of an M-step that trains for all epochs."""
    per_epoch = -(-examples // settings.batch_examples)
    total = settings.epochs * per_epoch
    steps = range(1, total + 1)
    return sum(settings.is_validated(step, total, step % per_epoch == 0) for step in steps)


def _prefilled(lengths: Lengths, rows: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of prefill batches of each width."""
    counts = dict.fromkeys(rows, 0)
    for question in lengths.questions:
        width = next(w for w in rows if question - 1 <= int(w))
        counts[width] += 1
    return {width: -(-counts[width] // rows[width]) for width in rows}

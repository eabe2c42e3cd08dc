"""Settings of the loop and its steps; gin fills them under the names "em", "generate", ...

The annotation of a field holds its validity check (`restem.runtime.checks`), and `restem config`
prints the text below the field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import gin
import optax

from restem.errors import UserError
from restem.models.lora import Lora
from restem.rollout.verification import Verifier
from restem.run import bindings, ignored, settings
from restem.run.settings import RunSettings, register
from restem.runtime.checks import MAY_CHANGE, at_least
from restem.sampling import Sampling
from restem.steps.strategies import Keep, RewardAbove, RewardWeight, Weight, WeightOfAll
from restem.training import optimizers
from restem.training.losses import Normalisation

gin.external_configurable(Sampling, module="restem")
gin.external_configurable(Lora, module="restem")


@register("em")
@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The loop of Algorithm 1."""

    iterations: Annotated[int, at_least(1), MAY_CHANGE] = 3
    """Number of iterations (section 5: 3 for MATH, 2 for APPS)."""
    start_from: Literal["base", "last"] = "base"
    """Policy that the M-step fine-tunes: the base policy (ReST-EM) or the last policy (ReST)."""
    problems_per_iteration: Annotated[int | None, at_least(1)] = None
    """Problems per iteration: the size of a mini-batch (IML, RAFT); None: all problems."""
    generate_every: Annotated[int, at_least(1)] = 1
    """Consecutive iterations that train on the same samples: Improve steps per Generate step in
    ReST."""
    evaluate_every: Annotated[int, at_least(1), MAY_CHANGE] = 1
    """Iterations between evaluations; the last iteration is always evaluated."""
    improve: Callable[..., dict[str, Any]] | None = None
    """Replacement for fine-tuning in the M-step, such as `@many_shot()` (reinforced ICL), which
    trains nothing; None: fine-tuning."""


@register("generate")
@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """The E-step."""

    num_samples: Annotated[int, at_least(0)] = 32
    """Solutions per problem (section 5: 32 for MATH, 64 for APPS); 0: the policy samples nothing,
    for training on human solutions alone."""
    sampling: Sampling = Sampling(temperature=0.7, top_k=40)
    """Temperature and truncation (section 5: temperature 0.7, top-k 40)."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of a solution in tokens; None: the task's limit."""
    max_question_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of a question in tokens; problems with a longer question are counted and left
    out. None: a question too long for the policy ends the run with an error."""
    problems_per_shard: Annotated[int, at_least(1)] = 64
    """Problems per file of samples."""
    grading: Callable[[Verifier], Verifier] | None = None
    """Wrapper around the task's verifier, such as `@WithoutGold()`, which hides the gold
    answers."""
    extend: Callable[..., Any] | None = None
    """Source of additional samples, such as `@Rationalization()`; see `steps.generate.Extend`."""


@register("select")
@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """Which samples are kept, and with what weight."""

    keep: Keep = RewardAbove()
    """Which finished samples are candidates for training."""
    distinct: Literal["none", "text", "equations"] = "text"
    """When two candidates count as the same solution; the one with the lowest index is kept."""
    cap: Annotated[int | None, at_least(1)] = 10
    """Maximum number of examples per problem, chosen at random (section 5: 10 for MATH and APPS, so
    that easy problems do not dominate); None: no limit."""
    weight: Weight | WeightOfAll = RewardWeight()
    """Weight of a kept sample: f(r) of section 3."""
    max_examples: Annotated[int | None, at_least(1)] = None
    """Maximum number of examples in total, chosen at random; None: no limit."""


@register("improve")
@dataclasses.dataclass(frozen=True)
class ImproveSettings:
    """The M-step."""

    optimizer: Callable[..., optax.GradientTransformation] = optimizers.adamw
    """Optimizer factory, called with `total_steps`: `@adamw` or `@adafactor`."""
    epochs: Annotated[int, at_least(1)] = 8
    """Maximum number of passes over the examples."""
    batch_examples: Annotated[int, at_least(1)] = 64
    """Examples per optimizer step."""
    rows_per_batch: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Packed rows per forward and backward pass, over all devices; None: chosen together with the
    row length."""
    row_length: Annotated[int | None, at_least(1)] = None
    """Tokens per packed row; None: the length that needs the fewest multiplications."""
    micro_batch_tokens: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Maximum number of tokens per forward and backward pass on a device, used when
    `rows_per_batch` is None; None: as many as fit in its memory, 4,096 on a CPU."""
    normalisation: Normalisation = "token"
    """Normalisation of the loss, a weighted sum over examples; see
    `training.losses.Normalisation`."""
    param_dtype: Literal["float32", "bfloat16"] | None = "float32"
    """Data type of the trained parameters; None: that of the policy."""
    adapter: Lora | None = None
    """Low-rank adapter to train on the frozen policy, such as `@Lora()`; None: all parameters are
    trained."""
    remat: Annotated[Literal["none", "dots", "full"] | None, MAY_CHANGE] = None
    """Activations that the backward pass recomputes to save memory; see `ModelConfig.remat`. None:
    "dots" if that fits in the memory of a device, else "full". On a CPU what is kept may take a
    tenth of the machine's memory."""
    validate_every: Annotated[int | None, at_least(1)] = None
    """Optimizer steps between validations; None: one validation per epoch. The last step is always
    validated."""
    save_every: Annotated[int, at_least(0), MAY_CHANGE] = 1
    """Validations between saves of the training state, which is three times the size of the policy;
    0: save only when preempted, for training that takes minutes."""
    patience: Annotated[int, at_least(1)] = 1
    """Consecutive validations without improvement after which training stops."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of a solution in validation, in tokens; None: the task's limit."""
    skip_empty: bool = False
    """Whether to keep the policy unchanged if no sample was kept, instead of failing: the next
    mini-batch of problems may yield some (IML, RAFT)."""

    keep_optimizer: bool = False
    """Whether training that starts from the last policy continues with the moments of its
    optimizer, as in methods that take one or a few steps per iteration (IML, TRICE); False: every
    M-step has a fresh optimizer. Moments are kept where the policy of the last step is the result,
    as it is without validation."""

    def is_validated(self, step: int, total: int, is_epoch_end: bool) -> bool:
        """Returns whether the policy of a step is validated; that of the last step always is.

        A validation that is due less than half an interval before the end is skipped. With
        `validate_every` = 4:

            total       5     6      8      9
            validated   5     4 6    4 8    4 9
        """
        every, left = self.validate_every, total - step
        if every is None:
            return is_epoch_end
        return not left or (step % every == 0 and 2 * left >= every)

    def check_optimizer(self) -> None:
        """Raises `UserError` if the optimizer's own arguments are invalid."""
        try:
            self.optimizer(total_steps=1)
        except Exception as error:
            raise UserError(f"improve.optimizer: {bindings.explain(error)}") from error


@register("evaluate")
@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """How policies are evaluated."""

    num_samples: Annotated[int, at_least(0)] = 0
    """Solutions per problem for pass@k and maj@k; 0: neither is measured."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95)
    """Temperature and truncation of these solutions (section 5.2: temperature 1.0, top-p 0.95)."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of a solution in tokens; None: the task's limit."""
    problems_per_shard: Annotated[int, at_least(1)] = 64
    """Problems per file of answers while an evaluation is under way."""

    def of_split(self, split: str) -> EvaluateSettings:
        """Returns the settings of a split: training problems get greedy answers only."""
        return dataclasses.replace(self, num_samples=0) if split == "train" else self


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, shared by the loop, the single-step verbs, `plan` and the identity."""

    run: RunSettings = RunSettings()
    loop: LoopSettings = LoopSettings()
    generate: GenerateSettings = GenerateSettings()
    select: SelectSettings = SelectSettings()
    improve: ImproveSettings = ImproveSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def with_run(self, **changes: Any) -> Settings:
        """Returns a copy with other settings of `Run`."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **changes))

    @classmethod
    def from_gin(cls) -> Settings:
        """Returns the settings bound by gin files and flags, after checking them.

        Raises:
          UserError: a value is invalid; the message names the setting, its value and what is
            allowed.
        """
        bindings.check()
        ignored.check()
        made = cls(
            run=settings.from_gin(RunSettings),
            loop=settings.from_gin(LoopSettings),
            generate=settings.from_gin(GenerateSettings),
            select=settings.from_gin(SelectSettings),
            improve=settings.from_gin(ImproveSettings),
            evaluate=settings.from_gin(EvaluateSettings),
        )
        made.improve.check_optimizer()
        return made

    def check(self) -> None:
        """Checks the type and range of every setting, however it was made.

        Raises:
          UserError: a value is invalid; the message names the setting, its value and what is
            allowed.
        """
        for group in dataclasses.fields(self):
            settings.check(getattr(self, group.name))
        self.improve.check_optimizer()

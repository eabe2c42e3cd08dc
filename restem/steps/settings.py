"""Settings of the loop and its steps; gin fills them under the names "em", "generate", ...

The annotation of a field is its check (`restem.runtime.checks`), and the text below it is what
`restem config` prints.
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
from restem.run import bindings, settings
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
    """Iterations (section 5: 3 for MATH, 2 for APPS)."""
    start_from: Literal["base", "last"] = "base"
    """Policy that the M-step fine-tunes: the base one (ReST-EM) or the last one (ReST)."""
    problems_per_iteration: Annotated[int | None, at_least(1)] = None
    """Problems per iteration, a mini-batch (IML, RAFT); None: all."""
    generate_every: Annotated[int, at_least(1)] = 1
    """Iterations that share the samples of the first of them: Improve steps per Generate step in
    ReST."""
    evaluate_every: Annotated[int, at_least(1), MAY_CHANGE] = 1
    """Iterations between evaluations; the last one is always evaluated."""
    improve: Callable[..., dict[str, Any]] | None = None
    """M-step in place of fine-tuning, such as `@many_shot()` (reinforced ICL), which trains
    nothing; None: fine-tuning."""


@register("generate")
@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """The E-step."""

    num_samples: Annotated[int, at_least(0)] = 32
    """Solutions per problem (section 5: 32 for MATH, 64 for APPS); 0 leaves the policy out, for
    human solutions alone."""
    sampling: Sampling = Sampling(temperature=0.7, top_k=40)
    """Temperature and truncation (section 5: temperature 0.7, top-k 40)."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Longest solution in tokens; None: the task's."""
    max_question_tokens: Annotated[int | None, at_least(1)] = None
    """Longest question in tokens; problems with a longer one are counted and left out. None: a
    problem that the policy cannot take refuses the run."""
    problems_per_shard: Annotated[int, at_least(1)] = 64
    """Problems per file of samples; a kill loses at most what is unfinished of the files under way.
    """
    grading: Callable[[Verifier], Verifier] | None = None
    """Makes another verifier of the task's, such as `@WithoutGold()`, which hides the answers."""
    extend: Callable[..., Any] | None = None
    """Adds samples to the policy's, such as `@Rationalization()`; see `steps.generate.Extend`."""


@register("select")
@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """What is kept of the samples, and with what weight."""

    keep: Keep = RewardAbove()
    """Which finished samples are candidates."""
    distinct: Literal["none", "text", "equations"] = "text"
    """Which candidates count as the same solution; of equals the one of the lowest index stays."""
    cap: Annotated[int | None, at_least(1)] = 10
    """Most examples per problem, chosen at random (section 5: 10 for MATH and APPS, against the
    dominance of easy problems); None: all."""
    weight: Weight | WeightOfAll = RewardWeight()
    """Weight of a kept sample: f(r) of section 3."""
    max_examples: Annotated[int | None, at_least(1)] = None
    """Most examples in all, chosen at random; None: all."""


@register("improve")
@dataclasses.dataclass(frozen=True)
class ImproveSettings:
    """The M-step."""

    optimizer: Callable[..., optax.GradientTransformation] = optimizers.adamw
    """Optimizer, called with `total_steps`: `@adamw` or `@adafactor`."""
    epochs: Annotated[int, at_least(1)] = 8
    """Most passes over the examples."""
    batch_examples: Annotated[int, at_least(1)] = 64
    """Examples per optimizer step."""
    rows_per_batch: Annotated[int | None, at_least(1)] = None
    """Packed rows computed at once; None: chosen with the row length."""
    row_length: Annotated[int | None, at_least(1)] = None
    """Tokens per packed row; None: the length that costs the fewest products."""
    micro_batch_tokens: Annotated[int, at_least(1)] = 4096
    """Most tokens of rows computed at once, where their number is chosen: what fits in memory."""
    normalisation: Normalisation = "token"
    """How the sum over examples becomes the loss; see `training.losses.Normalisation`."""
    param_dtype: Literal["float32", "bfloat16"] | None = "float32"
    """Type of the trained parameters; None keeps the policy's."""
    adapter: Lora | None = None
    """Low-rank adapter that is trained on the frozen policy, such as `@Lora()`; None: all
    parameters are trained."""
    remat: Literal["none", "dots", "full"] = "full"
    """What the backward pass computes again to save memory; see `ModelConfig.remat`."""
    validate_every: Annotated[int | None, at_least(1)] = None
    """Steps between validations; None: at the end of each epoch. The end is always validated."""
    save_every: Annotated[int, at_least(0), MAY_CHANGE] = 1
    """Validations between saves of the training state, which is three times as large as the policy;
    0: only when preempted, for trainings of minutes."""
    patience: Annotated[int, at_least(1)] = 1
    """Validations in a row without a better one that end training."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Longest solution in validation, in tokens; None: the task's."""
    skip_empty: bool = False
    """Leave the policy as it is where no sample was kept, instead of failing: the next mini-batch
    of problems may be luckier (IML, RAFT)."""


@register("evaluate")
@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """How policies are evaluated."""

    num_samples: Annotated[int, at_least(0)] = 0
    """Solutions per problem for pass@k and maj@k; 0 leaves both out."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95)
    """Temperature and truncation of these solutions (section 5.2: temperature 1.0, top-p 0.95)."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Longest solution in tokens; None: the task's."""
    problems_per_shard: Annotated[int, at_least(1)] = 64
    """Problems whose answers are kept at a time while an evaluation is under way."""

    def of_split(self, split: str) -> EvaluateSettings:
        """Of training problems the greedy answers are measured alone, for the gap to test ones."""
        return dataclasses.replace(self, num_samples=0) if split == "train" else self


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run: what the loop, the single steps, `plan` and the identity read."""

    run: RunSettings = RunSettings()
    loop: LoopSettings = LoopSettings()
    generate: GenerateSettings = GenerateSettings()
    select: SelectSettings = SelectSettings()
    improve: ImproveSettings = ImproveSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def with_run(self, **changes: Any) -> Settings:
        """The same with other settings of `Run`."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **changes))

    @classmethod
    def from_gin(cls) -> Settings:
        """The settings that gin's files and flags bind, checked.

        Raises:
          UserError: names the setting, its value and what is allowed.
        """
        bindings.check()
        made = cls(
            run=settings.from_gin(RunSettings),
            loop=settings.from_gin(LoopSettings),
            generate=settings.from_gin(GenerateSettings),
            select=settings.from_gin(SelectSettings),
            improve=settings.from_gin(ImproveSettings),
            evaluate=settings.from_gin(EvaluateSettings),
        )
        try:
            made.improve.optimizer(total_steps=1)
        except Exception as error:
            raise UserError(f"improve.optimizer: {bindings.explain(error)}") from error
        return made

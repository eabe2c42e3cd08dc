"""Settings of `restem plan`, named "plan" in gin; all else is read from the run's own settings."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import gin

from restem.models import ModelConfig, RopeScaling
from restem.run.settings import register
from restem.runtime.checks import NOT_EMPTY, at_least, between

gin.external_configurable(ModelConfig, module="restem.models")
gin.external_configurable(RopeScaling, module="restem.models")


@gin.configurable(module="restem.plan")
def local_layers(*, num_layers: int, global_every: int) -> tuple[bool, ...]:
    """Returns flags of sliding-window layers where every `global_every`-th is global (Gemma).

    Args:
      num_layers: Layers of the decoder.
      global_every: Distance between layers that attend to everything.
    """
    return tuple((i + 1) % global_every != 0 for i in range(num_layers))


@register("plan")
@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Settings of `restem plan`: what is compiled, and for which slice."""

    model: ModelConfig | None = None
    """The policy's decoder; the gin files of models/ bind it."""
    topology: Annotated[str | None, NOT_EMPTY] = None
    """The slice, such as "v5e:16x16" or "v5p:4x4x4"; the gin files of hardware/ bind it."""
    problems: Annotated[int, at_least(1)] = 7500
    """Training problems per iteration (MATH has 7,500)."""
    prefix_tokens: Annotated[int, at_least(0)] = 768
    """Tokens of the few-shot prompt (MATH's four shots are about 700)."""
    question_tokens: Annotated[int, at_least(1)] = 256
    """Tokens of the longest question."""
    mean_question_tokens: Annotated[int, at_least(1)] = 100
    """Tokens of the mean question."""
    new_tokens: Annotated[int, at_least(1)] = 512
    """Tokens of the longest solution."""
    mean_new_tokens: Annotated[int, at_least(1)] = 200
    """Tokens of the mean solution."""
    slots_per_part: Annotated[int, at_least(1)] = 64
    """Samples decoded at a time per part of the mesh; `Run.e_step_slots` overrides it."""
    slot_use: Annotated[float, between(0, 1)] = 0.8
    """Share of slot-steps that produce a token."""
    prefill_tokens: Annotated[int, at_least(1)] = 8192
    """Question tokens prefilled at a time."""
    decode_steps: Annotated[int, at_least(1)] = 8
    """Tokens per slot between two synchronisations with the host."""
    row_length: Annotated[int, at_least(1)] = 1024
    """Tokens per packed row; `improve.row_length` overrides it."""
    steps: tuple[Literal["prefill", "decode", "train"], ...] = ("prefill", "decode", "train")
    """Programs to compile."""
    search: Literal["misfit", "always", "never"] = "misfit"
    """Whether to search for the largest slots and rows that fit: only if the given ones do not fit,
    always, or never."""

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
    """The policy's decoder; the gin files of models/ bind it. None: that of `Run.base`."""
    topology: Annotated[str | None, NOT_EMPTY] = None
    """The slice, such as "v5e:16x16" or "v5p:4x4x4"; the gin files of hardware/ bind it."""
    like: Annotated[str | None, NOT_EMPTY] = None
    """Folder of a run of the task, for instance with a small policy, whose questions and samples
    give the lengths; None: those of the published training set (MATH, GSM8K, APPS)."""
    slot_use: Annotated[float, between(0, 1)] = 0.8
    """Share of slot-steps that produce a token."""
    validation_problems: Annotated[int, at_least(0)] = 500
    """Validation problems, if `Run.validation_problems` does not limit them."""
    steps: tuple[Literal["prefix", "prefill", "insert", "decode", "train"], ...] = (
        "prefix", "prefill", "insert", "decode", "train",
    )  # fmt: skip
    """Programs to compile."""
    search: Literal["misfit", "always", "never"] = "misfit"
    """Whether to search for the largest slots and micro-batches that fit: only if the chosen ones
    do not fit, always, or never."""

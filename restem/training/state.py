"""What steps of training change and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct


class DivergenceError(RuntimeError):
    """The loss or the gradient is not finite, so the new state is unusable."""


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes: a pytree that a checkpoint can hold."""

    params: Any
    """What is trained: parameters of the decoder, layers stacked, or a `lora.Adapter`."""
    opt_state: Any
    """State of the optimizer."""
    step: Any
    """[] int32, optimizer steps taken."""


@flax.struct.dataclass
class Update:
    """Result of one optimizer step of `Trainer.fit`."""

    state: TrainState
    """State after the step. The next step consumes it: save it or copy from it before that."""
    metrics: Mapping[str, float] = flax.struct.field(pytree_node=False)
    """Metrics of the step; see `Trainer.train_step`."""
    step: int = flax.struct.field(pytree_node=False)
    """Number of steps taken, including this one."""
    total_steps: int = flax.struct.field(pytree_node=False)
    """Number of steps of all epochs."""
    is_epoch_end: bool = flax.struct.field(pytree_node=False)
    """Whether this is the last step of an epoch."""
    seconds: float = flax.struct.field(pytree_node=False)
    """Seconds that the step took, including compilation."""

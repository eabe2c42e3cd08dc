"""Options of an engine, with every default filled in."""

from __future__ import annotations

import dataclasses

import jax

from restem import models
from restem.sampling.filters import Sampling
from restem.sampling.stopping import Stops, TokenBytes


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What changes the speed and memory of an engine, and nothing but rounding of its samples."""

    decode_steps: int | None = None
    """Tokens sampled between visits of the host, which is when finished slots get new samples; None
    is 1 on a CPU and 8 elsewhere."""
    prefill_tokens: int | None = None
    """Question tokens prefilled at a time, including padding; None is 512 on a CPU and 8,192
    elsewhere."""
    ring: int = 128
    """Columns for sampled tokens at the start, so that attention does not look at columns that no
    sample has reached. When a sample needs more they become as many as `max_new_tokens`, which they
    are at once where most slots are refilled several times."""
    unstacked: bool | None = None
    """Whether the layers run as a Python loop over separate arrays instead of a scan over stacked
    ones; None does so on a CPU, where it is faster but compiles more slowly."""
    start_small: bool | None = None
    """Whether the first call of its shape begins with an eighth of the slots, so that the first
    samples do not wait for all slots to be filled; None does so on one CPU with unstacked layers,
    where a batch grows without a program."""
    reserved: int = 0
    """Bytes of each device that training holds, beside the parameters that are sampled from."""


@dataclasses.dataclass
class Options:
    """What the sessions of one engine have in common; see `Engine` for the arguments."""

    config: models.ModelConfig
    """Decoder of the policy."""
    vocabulary: TokenBytes
    """Vocabulary of the policy."""
    sampling: Sampling
    """Temperature and filters."""
    max_new_tokens: int
    """Cut-off of samples, in tokens."""
    stops: Stops
    """Strings that end a sample."""
    slots: int | None
    """Samples decoded at a time; None is as many as fit in memory."""
    decode_steps: int
    """Tokens sampled per visit of the host."""
    prefill_tokens: int
    """Question tokens prefilled at a time, including padding."""
    ring: int
    """Columns for sampled tokens at the start."""
    bucket: int
    """Divisor of all numbers of columns."""
    unstacked: bool
    """Whether the layers are run as a Python loop over separate arrays."""
    start_small: bool
    """Whether the first call of its shape begins with an eighth of the slots."""
    reserved: int
    """Bytes of each device that training holds, beside the parameters that are sampled from."""
    mesh: jax.sharding.Mesh | None
    """Devices; None is one device."""

    @property
    def pipelined(self) -> bool:
        """Whether the next decode steps start before the host has read the last ones.

        The device then does not wait for the host, but a sample that a stop string ends holds its
        slot for one more visit: with one step per visit, as on a CPU, that costs more than it
        saves.
        """
        return self.decode_steps > 1

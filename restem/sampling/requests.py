"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples wanted for one problem."""

    tokens: tuple[int, ...]
    """Ids of the question, which follow the prefix."""
    num_samples: int
    """How many samples."""
    problem_key: int
    """An integer of the problem's own, the same in every run (a hash of its id): the sample's key
    is folded from it, modulo 2**32."""
    first_sample: int = 0
    """The samples are numbers first_sample, first_sample + 1, ... of the problem."""
    max_new_tokens: int | None = None
    """Cut-off of this problem, at most the engine's; None is the engine's."""

    def __post_init__(self):
        if self.num_samples < 0 or self.first_sample < 0:
            raise ValueError(
                f"num_samples={self.num_samples}, first_sample={self.first_sample}: neither can be "
                "negative"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} is not positive")


FinishReason = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One finished sample."""

    request_index: int
    """Which of the requests of the call."""
    sample_index: int
    """Number of the sample within its problem."""
    token_ids: tuple[int, ...]
    """All ids sampled: the EOS id if there was one, and the tokens of a stop string up to and
    including the one in which it completed. `stopping.training_ids` makes of them what training
    uses."""
    text: str
    """What the tokens say, without EOS, cut before a `stop` string and right after a `stop_after`
    string; where a character was cut in half, U+FFFD."""
    text_tokens: int
    """How many leading `token_ids` lie wholly within `text`."""
    logprob: float
    """Sum over all `token_ids` of log p(token | before) under the policy's own distribution,
    neither tempered nor truncated, in nats."""
    finish_reason: FinishReason
    """EOS was sampled, a stop string completed, or the cut-off was reached."""

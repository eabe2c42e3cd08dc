"""Requests to the engine and the completions that it returns."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples wanted for one problem."""

    tokens: tuple[int, ...]
    """Token ids of the question, which follow the prefix."""
    num_samples: int
    """Number of samples."""
    problem_key: int
    """Integer that identifies the problem in every run (a hash of its id); the keys of its samples
    are folded from it, modulo 2**32."""
    first_sample: int = 0
    """Index of the first sample; the samples have indices first_sample, first_sample + 1, ..."""
    max_new_tokens: int | None = None
    """Cut-off of this problem's samples, at most the engine's; None is the engine's."""

    def __post_init__(self):
        if self.num_samples < 0 or self.first_sample < 0:
            raise ValueError(
                f"num_samples={self.num_samples}, first_sample={self.first_sample}: neither may be "
                "negative"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} is not positive")


FinishReason = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One finished sample."""

    request_index: int
    """Index of the request in the call."""
    sample_index: int
    """Index of the sample within its problem."""
    token_ids: tuple[int, ...]
    """All sampled ids, including the EOS id if there was one and the tokens of a stop string up to
    the one in which it completed. `stopping.training_ids` turns them into the ids for training."""
    text: str
    """Text of the tokens without EOS, cut before a `stop` string and right after a `stop_after`
    string; a character that is cut in half becomes U+FFFD."""
    logprob: float
    """Sum over all `token_ids` of log p(token | before) under the policy's own distribution,
    neither tempered nor truncated, in nats."""
    finish_reason: FinishReason
    """Why the sample ended: EOS was sampled, a stop string completed or the cut-off was reached."""

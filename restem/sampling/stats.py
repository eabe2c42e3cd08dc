"""Counts and times of sampling."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Stats:
    """Counts and times, summed over all calls of an engine."""

    tokens: int = 0
    """Sampled tokens, without those after the end of a sample."""
    samples: int = 0
    """Finished samples."""
    prefill_tokens: int = 0
    """Tokens of prefixes and questions, without padding."""
    prefill_seconds: float = 0.0
    """Seconds spent on prefixes, questions and putting samples into slots."""
    decode_seconds: float = 0.0
    """Seconds spent on decode steps and the host's work between them."""
    compile_seconds: float = 0.0
    """Seconds spent compiling, part of none of the others."""
    programs: int = 0
    """Programs that had to be compiled or read from the persistent cache."""
    slot_steps: int = 0
    """Number of slots times decode steps."""

    @property
    def slot_utilisation(self) -> float:
        """Share of slot-steps that yielded a token of a sample."""
        return self.tokens / self.slot_steps if self.slot_steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second of prefill and decode, compilation excluded."""
        seconds = self.prefill_seconds + self.decode_seconds
        return self.tokens / seconds if seconds else 0.0

    def to_dict(self) -> dict[str, float]:
        """Returns all fields and the rates."""
        return {
            **dataclasses.asdict(self),
            "slot_utilisation": self.slot_utilisation,
            "tokens_per_second": self.tokens_per_second,
        }

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time of a block to the field `name`, less what was spent compiling in it."""
        start, compiled = time.perf_counter(), self.compile_seconds
        try:
            yield
        finally:
            seconds = time.perf_counter() - start - (self.compile_seconds - compiled)
            setattr(self, name, getattr(self, name) + seconds)

"""The schedule of samples in slots, computed on the host from the data alone.

Every host of a multi-host run computes the same schedule, because it depends only on the requests
and the sampled tokens, which all hosts have. Samples get their slots in the order of the requests,
so that a caller who writes shards finishes one after another. Questions are prefilled in batches,
when the first of a batch is wanted, and a question is dropped when its last sample has a slot.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from restem.sampling.requests import Completion, FinishReason, Request
from restem.sampling.stopping import Stops, StopScanner


@dataclasses.dataclass
class Row:
    """An unfinished sample in a slot."""

    request_index: int
    sample_index: int
    scanner: StopScanner
    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprob: float = 0.0


@dataclasses.dataclass(frozen=True)
class Placement:
    """A sample to be inserted into a slot."""

    slot: int
    request_index: int
    sample_index: int
    questions: Any
    """Prefilled batch that holds its question, as passed to `Scheduler.add_prefilled`."""
    source: int
    """Row of the question in that batch."""


class Scheduler:
    """The host's view of the slots."""

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        slots: int,
        vocabulary: Any,
        stops: Stops,
        limits: Sequence[int],
    ):
        """Schedules the samples of `requests`.

        Args:
          requests: samples to draw.
          slots: number of slots.
          vocabulary: vocabulary of the policy.
          stops: strings that end a sample.
          limits: cut-off of each request's samples, in tokens.
        """
        self._requests = requests
        self._vocabulary = vocabulary
        self._stops = stops
        self._limits = limits
        self.rows: list[Row | None] = [None] * slots
        # Samples without a slot yet, in order: (request, sample).
        self._waiting = collections.deque(
            (i, request.first_sample + k)
            for i, request in enumerate(requests)
            for k in range(request.num_samples)
        )
        self._unread = collections.deque(
            i for i, request in enumerate(requests) if request.num_samples
        )
        # Batch and row of every prefilled question, by request.
        self._prefilled: dict[int, tuple[Any, int]] = {}
        self.total = sum(request.num_samples for request in requests)
        self.finished = 0

    @property
    def done(self) -> bool:
        """Whether all samples are finished."""
        return self.finished == self.total

    @property
    def free(self) -> list[int]:
        """Slots without a sample, in ascending order."""
        return [i for i, row in enumerate(self.rows) if row is None]

    def wants_question(self) -> bool:
        """Returns whether a question must be prefilled before the free slots can be filled."""
        if not self._unread:
            return False
        wanted = itertools.islice(self._waiting, len(self.free))
        return any(index == self._unread[0] for index, _ in wanted)

    def unread(self) -> Iterator[int]:
        """Returns the requests whose questions are not yet prefilled, in order."""
        return iter(self._unread)

    def add_prefilled(self, request_indices: Sequence[int], questions: Any) -> None:
        """Registers a prefilled batch; row i is the question of the i-th of these requests."""
        for row, index in enumerate(request_indices):
            self._unread.remove(index)
            self._prefilled[index] = questions, row

    def place(self) -> list[Placement]:
        """Assigns free slots to the next samples, the lowest slot to the first sample."""
        placed = []
        for slot in self.free:
            if not self._waiting or self._waiting[0][0] not in self._prefilled:
                break
            request_index, sample_index = self._waiting.popleft()
            questions, source = self._prefilled[request_index]
            if not self._waiting or self._waiting[0][0] != request_index:
                del self._prefilled[request_index]
            self.rows[slot] = Row(request_index, sample_index, StopScanner(self._stops))
            placed.append(Placement(slot, request_index, sample_index, questions, source))
        return placed

    def record(self, tokens: Any, logprobs: Any) -> list[Completion]:
        """Records what the device sampled, and frees the slots of finished samples.

        Args:
          tokens: [steps, slots] int32, as `steps.decode` returns them.
          logprobs: [steps, slots] float32, likewise.

        Returns:
          The finished samples, ordered by step and then by slot.
        """
        finished = []
        columns = zip(self.rows, tokens.T.tolist(), logprobs.T.tolist(), strict=True)
        for slot, (row, row_tokens, row_logprobs) in enumerate(columns):
            if row is None:
                continue
            before = len(row.token_ids)
            completion = self._push(row, row_tokens, row_logprobs)
            if completion is not None:
                finished.append((len(completion.token_ids) - before, slot, completion))
                self.rows[slot] = None
        self.finished += len(finished)
        finished.sort(key=lambda f: f[:2])
        return [completion for _, _, completion in finished]

    def _push(self, row: Row, tokens: list[int], logprobs: list[float]) -> Completion | None:
        """Appends a row's next tokens, up to the one that ends the sample if one does.

        All tokens of a visit are examined together: with thousands of rows the host would otherwise
        take as long as the device.
        """
        eos_ids = self._vocabulary.eos_ids
        reason: FinishReason | None = None
        room = self._limits[row.request_index] - len(row.token_ids)
        if len(tokens) >= room:
            reason, tokens = "length", tokens[:room]
        if not eos_ids.isdisjoint(tokens):
            end = next(i for i, token in enumerate(tokens) if token in eos_ids)
            reason, tokens = "eos", tokens[: end + 1]
        # EOS is not part of the text, so it is not scanned.
        pieces = [self._vocabulary.token_bytes(t) for t in tokens if t not in eos_ids]
        taken = row.scanner.push(*pieces)
        if taken is not None:
            reason, tokens = "stop", tokens[:taken]
        row.token_ids += tokens
        for logprob in logprobs[: len(tokens)]:  # one by one, whatever the steps per visit
            row.logprob += logprob
        return None if reason is None else self._complete(row, reason)

    @staticmethod
    def _complete(row: Row, reason: FinishReason) -> Completion:
        return Completion(
            request_index=row.request_index,
            sample_index=row.sample_index,
            token_ids=tuple(row.token_ids),
            text=row.scanner.text,
            logprob=row.logprob,
            finish_reason=reason,
        )

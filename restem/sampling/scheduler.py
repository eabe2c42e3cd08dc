"""The schedule of samples in slots, computed on the host from the data alone.

Every host of a multi-host run computes the same schedule, because it depends only on the requests
and the sampled tokens, which all hosts have. Samples get their slots in the order of the requests,
so that a caller who writes shards finishes one after another; only where no slot is wide enough for
the next question do samples behind it go first. Questions are prefilled in batches, when the first
of a batch is wanted, and a question is dropped when its last sample has a slot.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from restem.sampling.requests import Completion, FinishReason, Request
from restem.sampling.stopping import Stops, StopScanner, TokenBytes
from restem.sampling.widths import WidthClasses


@dataclasses.dataclass(frozen=True)
class Placement:
    """A sample to be inserted into a slot."""

    slot: int
    request_index: int
    sample_index: int
    questions: Any
    """Prefilled batch that holds its question, as passed to `Scheduler.add_prefilled`."""
    source: int
    """First chunk of the question in that batch."""


@dataclasses.dataclass
class Row:
    """An unfinished sample in a slot."""

    request_index: int
    sample_index: int
    scanner: StopScanner
    scanned: int = 0
    """Tokens that the scanner has."""


class Scheduler:
    """The host's view of the slots."""

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        classes: WidthClasses,
        request_classes: Sequence[int],
        vocabulary: TokenBytes,
        vocab_size: int,
        stops: Stops,
        limits: Sequence[int],
    ):
        """Schedules the samples of `requests`.

        Args:
          requests: samples to draw.
          classes: slots by width.
          request_classes: narrowest class with room for each request's question.
          vocabulary: vocabulary of the policy.
          vocab_size: number of token ids.
          stops: strings that end a sample.
          limits: cut-off of each request's samples, in tokens.
        """
        self._vocabulary = vocabulary
        self._stops = stops
        self._limits = limits
        self._request_classes = request_classes
        self._is_eos = np.zeros(vocab_size, bool)
        self._is_eos[[e for e in vocabulary.eos_ids if e < vocab_size]] = True
        # Whether a stop string can complete in a token: 1, 0 or, before it is first sampled, -1.
        self._can_stop = np.full(vocab_size, -1 if stops.longest else 0, np.int8)
        # Samples without a slot yet, in order: (request, sample).
        self._waiting = collections.deque(
            (i, request.first_sample + k)
            for i, request in enumerate(requests)
            for k in range(request.num_samples)
        )
        self._unplaced = [request.num_samples for request in requests]
        # The same samples by the class of their question.
        self._waiting_by_class = np.zeros(len(classes.sizes), np.int64)
        for request, of_class in zip(requests, request_classes, strict=True):
            self._waiting_by_class[of_class] += request.num_samples
        # In order, as a dict is, and quick to remove from.
        self._unread = {i: None for i, request in enumerate(requests) if request.num_samples}
        # Batch and first chunk of every prefilled question, by request.
        self._prefilled: dict[int, tuple[Any, int]] = {}
        self.has_prefilled = False
        """Whether any question has been prefilled."""
        self.total = sum(request.num_samples for request in requests)
        self.finished = 0
        self._widest = max(limits, default=1)
        self._set_slots(classes, [None] * classes.slots)
        self._tokens = np.zeros((classes.slots, self._widest), np.int32)
        self._counts = np.zeros(classes.slots, np.int64)
        self._logprobs = np.zeros(classes.slots, np.float64)

    def _set_slots(self, classes: WidthClasses, rows: list[Row | None]) -> None:
        self.classes = classes
        self.rows = rows
        self._members = classes.members()
        self._class_of = np.zeros(classes.slots, np.int64)
        for i, members in enumerate(self._members):
            self._class_of[members] = i

    @property
    def done(self) -> bool:
        """Whether all samples are finished."""
        return self.finished == self.total

    @property
    def nothing_waits(self) -> bool:
        """Whether every sample has, or has had, a slot."""
        return not self._waiting

    def needs_more_than(self, classes: WidthClasses) -> bool:
        """Returns whether a waiting sample may get one of the slots that `classes` lacks.

        The samples of one long question wait for each other if only one slot is wide enough; the
        narrow slots are of no use to them.
        """
        now, then = (np.cumsum(c.sizes[::-1])[::-1] for c in (self.classes, classes))
        return bool((self._waiting_by_class[then < now] > 0).any())

    @property
    def oldest(self) -> int:
        """Largest number of tokens of an unfinished sample."""
        taken = [i for i, row in enumerate(self.rows) if row is not None]
        return int(self._counts[taken].max(initial=0))

    def in_use(self) -> np.ndarray:
        """Returns whether each slot has an unfinished sample, [slots] bool."""
        return np.fromiter((row is not None for row in self.rows), bool, len(self.rows))

    def outlasts(self, steps: int) -> bool:
        """Returns whether a sample may be unfinished after `steps` more steps."""
        return any(
            row is not None and self._counts[slot] + steps < self._limits[row.request_index]
            for slot, row in enumerate(self.rows)
        )

    def next_question(self) -> int | None:
        """Returns a request to prefill before the free slots can be filled, or None."""
        for _, (request_index, _) in self._next():
            if request_index not in self._prefilled:
                return request_index
        return None

    def unread(self) -> Iterator[int]:
        """Returns the requests whose questions are not yet prefilled, in order."""
        return iter(self._unread)

    def add_prefilled(self, sources: Mapping[int, int], questions: Any) -> None:
        """Registers a prefilled batch; `sources` are the first chunks of its requests."""
        self.has_prefilled = True
        for index, source in sources.items():
            del self._unread[index]
            self._prefilled[index] = questions, source

    def _next(self) -> list[tuple[int, tuple[int, int]]]:
        """Returns the samples that the free slots get, as (slot, (request, sample)).

        A sample gets the lowest free slot of the narrowest class with room for it. The lookahead is
        bounded, so that no sample waits for long behind many that were placed first.
        """
        if not self._waiting:
            return []
        free = [
            collections.deque(int(slot) for slot in members if self.rows[slot] is None)
            for members in self._members
        ]
        left = sum(map(len, free))
        found = []
        for request_index, sample_index in itertools.islice(self._waiting, 4 * len(self.rows)):
            if not left:
                break
            for slots in free[self._request_classes[request_index] :]:
                if slots:
                    found.append((slots.popleft(), (request_index, sample_index)))
                    left -= 1
                    break
        return found

    def place(self) -> list[Placement]:
        """Assigns free slots to those of the next samples whose questions are prefilled."""
        placed = []
        assigned = [entry for entry in self._next() if entry[1][0] in self._prefilled]
        for slot, (request_index, sample_index) in assigned:
            questions, source = self._prefilled[request_index]
            self._unplaced[request_index] -= 1
            self._waiting_by_class[self._request_classes[request_index]] -= 1
            if not self._unplaced[request_index]:
                del self._prefilled[request_index]
            self.rows[slot] = Row(request_index, sample_index, StopScanner(self._stops))
            self._counts[slot], self._logprobs[slot] = 0, 0.0
            placed.append(Placement(slot, request_index, sample_index, questions, source))
        taken = {sample for _, sample in assigned}
        passed = []
        while taken:
            sample = self._waiting.popleft()
            if sample in taken:
                taken.remove(sample)
            else:
                passed.append(sample)
        self._waiting.extendleft(reversed(passed))
        return placed

    def record(
        self, tokens: np.ndarray, logprobs: np.ndarray, rows: Sequence[Row | None]
    ) -> list[Completion]:
        """Records what the device sampled, and frees the slots of finished samples.

        All slots are examined together, with numpy: with thousands of slots the host would
        otherwise take as long as the device. Bytes are looked at only in rows whose new token can
        complete a stop string.

        Args:
          tokens: [steps, slots] int32, as `steps.decode` returns them.
          logprobs: [steps, slots] float32, likewise.
          rows: the samples that were in the slots when these steps began.

        Returns:
          The finished samples, ordered by step and then by slot.
        """
        live = np.fromiter(
            (row is not None and row is now for row, now in zip(rows, self.rows, strict=True)),
            bool, len(rows),
        )  # fmt: skip
        limits = np.fromiter(
            (self._limits[row.request_index] if row else 0 for row in self.rows), np.int64
        )
        finished: list[Completion] = []
        for step in range(len(tokens)):
            at = np.flatnonzero(live)
            if not len(at):
                break
            new = tokens[step, at]
            self._tokens[at, self._counts[at]] = new
            self._counts[at] += 1
            self._logprobs[at] += logprobs[step, at]  # one by one, whatever the steps per visit
            is_eos, is_last = self._is_eos[new], self._counts[at] >= limits[at]
            for i in np.flatnonzero(is_eos | is_last | self._may_stop(new)):
                slot = int(at[i])
                reason: FinishReason | None = None
                if self._has_stopped(slot, is_eos=bool(is_eos[i])):
                    reason = "stop"
                elif is_eos[i]:
                    reason = "eos"
                elif is_last[i]:
                    reason = "length"
                if reason is not None:
                    finished.append(self._complete(slot, reason))
                    live[slot] = False
        self.finished += len(finished)
        return finished

    def _may_stop(self, tokens: np.ndarray) -> np.ndarray:
        """Returns whether a stop string can complete in each of the tokens, [tokens] bool."""
        for token in np.unique(tokens[self._can_stop[tokens] < 0]):
            said = self._vocabulary.token_bytes(int(token))
            self._can_stop[token] = self._stops.can_complete_in(said)
        return self._can_stop[tokens] > 0

    def _has_stopped(self, slot: int, *, is_eos: bool) -> bool:
        """Scans the tokens that are new since the last scan; EOS is not part of the text."""
        row = self.rows[slot]
        assert row is not None
        new = self._tokens[slot, row.scanned : self._counts[slot] - is_eos].tolist()
        row.scanned += len(new)
        return row.scanner.push(*map(self._vocabulary.token_bytes, new)) is not None

    def _complete(self, slot: int, reason: FinishReason) -> Completion:
        row = self.rows[slot]
        assert row is not None
        self.rows[slot] = None
        return Completion(
            request_index=row.request_index,
            sample_index=row.sample_index,
            token_ids=tuple(self._tokens[slot, : self._counts[slot]].tolist()),
            text=row.scanner.text,
            logprob=float(self._logprobs[slot]),
            finish_reason=reason,
        )

    def move(self, classes: WidthClasses) -> tuple[np.ndarray, np.ndarray] | None:
        """Moves the unfinished samples to more or fewer slots, if they fit.

        A sample stays on its part of the mesh, in its class or a wider one.

        Args:
          classes: the new slots.

        Returns:
          The slot from which each new slot gets its sample, [new] int32, and whether it gets one,
          [new] bool; None if the samples do not fit.
        """
        found = self._places(classes)
        if found is None:
            return None
        sources, used, rows = found
        self._set_slots(classes, rows)
        self._tokens, self._counts = self._tokens[sources], self._counts[sources]
        self._logprobs = self._logprobs[sources]
        return sources, used

    def fits(self, classes: WidthClasses) -> bool:
        """Returns whether `move` would move the unfinished samples to these slots."""
        return self._places(classes) is not None

    def _places(
        self, classes: WidthClasses
    ) -> tuple[np.ndarray, np.ndarray, list[Row | None]] | None:
        """Returns what `move` returns, and the samples in the new slots; changes nothing."""
        parts = classes.parts
        old, new = self.classes.slots // parts, classes.slots // parts
        sources = np.repeat(np.arange(parts, dtype=np.int32) * old, new)
        used = np.zeros(classes.slots, bool)
        rows: list[Row | None] = [None] * classes.slots
        free = [
            [
                collections.deque(int(s) for s in members if s // new == part)
                for part in range(parts)
            ]
            for members in classes.members()
        ]
        # The widest samples first: they have the fewest slots to go to.
        taken = sorted(
            np.flatnonzero(self.in_use()), key=lambda slot: (-self._class_of[slot], slot)
        )
        for slot in taken:
            to = next(
                (f[slot // old] for f in free[self._class_of[slot] :] if f[slot // old]), None
            )
            if to is None:
                return None
            target = to.popleft()
            sources[target], used[target], rows[target] = slot, True, self.rows[slot]
        return sources, used, rows

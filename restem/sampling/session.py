"""One call of `Engine.sample`: the host's part of prefill, insert, decode and resize.

fill       prefills questions, inserts samples into free slots, resizes the batch
advance    starts the next decode steps, records the tokens of the last ones, and returns the
           finished samples
"""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restem import models, partitioning
from restem.errors import UserError
from restem.models import kv_cache, sharding
from restem.sampling import calls, memory, resize, widths
from restem.sampling import steps as device
from restem.sampling.batches import Batches
from restem.sampling.filters import Drawing
from restem.sampling.options import Options
from restem.sampling.programs import Programs
from restem.sampling.requests import Completion, Request
from restem.sampling.scheduler import Placement, Row, Scheduler
from restem.sampling.shapes import Shapes
from restem.sampling.stats import Stats
from restem.sampling.widths import WidthClasses, round_up

_LOOKAHEAD = 8192
"""Least number of question tokens among which questions of one width are sought."""

_VISITS_AFTER_FIRST = 8
"""Visits from the first finished sample until a batch that began small grows, in which the caller
can verify the sample and show it. A batch with no other sample grows after one."""
_MOST_SMALL_VISITS = 64
"""Visits after which it grows in any case."""

_KNOWN_CLASSES: dict[Any, dict[WidthClasses, None]] = collections.defaultdict(dict)
"""Width classes of the process so far, by what else the shapes depend on."""


@dataclasses.dataclass(frozen=True)
class _Visit:
    """Decode steps that the device has been told to do."""

    drawn: tuple[jax.Array, jax.Array]
    """Tokens and their log-probabilities, [steps, slots] each."""
    rows: list[Row | None]
    """Samples in the slots when the steps began."""


class Session:
    """State of one call; `advance` is called until the scheduler is done."""

    def __init__(
        self,
        options: Options,
        programs: Programs,
        stats: Stats,
        params: models.Params,
        prefix: list[int],
        requests: list[Request],
        key: jax.Array | int,
    ):
        """Prefills the first questions and starts to decode; see `Engine.sample`."""
        self.options = options
        self.programs = programs
        self.run = programs.run
        self.stats = stats
        self.requests = requests
        self.questions = [tuple(request.tokens) for request in requests]
        if any(not question for question in self.questions):
            # A slot starts by reading the last token of its question, so every question needs one.
            if not prefix:
                raise UserError("cannot sample: a request has no tokens and there is no prefix")
            self.questions = [(prefix[-1], *question) for question in self.questions]
            prefix = prefix[:-1]
        self.limits = [
            min(options.max_new_tokens, request.max_new_tokens or options.max_new_tokens)
            for request in requests
        ]
        self._check_length(len(prefix))
        # Bounded, because a question that is prefilled early stays in memory until its turn.
        self._lookahead = max(_LOOKAHEAD, 4 * options.prefill_tokens)
        self.classes = self._choose_classes(params)
        self.batches = Batches(
            [len(question) - 1 for question in self.questions], self.classes,
            budget=options.prefill_tokens, lookahead=self._lookahead, chunk=options.bucket,
        )  # fmt: skip
        samples = sum(request.num_samples for request in requests)
        self._most = self.classes.shrunk(self.classes.level_for(samples))
        self._visited = 0
        self._grows_after = _MOST_SMALL_VISITS
        self.scheduler = Scheduler(
            requests,
            classes=self._first_classes(),
            request_classes=[self.classes.class_of(len(q) - 1) for q in self.questions],
            vocabulary=options.vocabulary,
            vocab_size=options.config.vocab_size,
            stops=options.stops,
            limits=self.limits,
        )
        self._began_small = self.scheduler.classes.slots < self._most.slots
        self.visits: collections.deque[_Visit] = collections.deque()
        if self.scheduler.done:
            return
        self.prefix_length = np.asarray(len(prefix), np.int32)
        self.seed = jax.random.key(key) if isinstance(key, int) else _typed(key)
        self.ring = self._first_ring()
        self.column = 0
        self.drawing = Drawing.of(options.sampling)
        self.shapes = Shapes(options.config, options.unstacked, options.mesh)
        self._has_prepared_end = False
        with self.stats.timed("prefill_seconds"):
            self.params = device.prepare_params(params, options.config)
            if options.unstacked:
                one_cpu = sharding.on_one_cpu()
                form = models.layers_for_one_cpu if one_cpu else models.unstack_layers
                self.params = form(self.params)
            if self.shapes.flat_heads:
                self.params = models.flatten_heads(self.params)
            self._prepare_start(len(prefix), self.scheduler.classes)
            programs.on_wait("prefill")
            self.prefix = self.decode_prefix = self._prefill_prefix(prefix)
            if options.unstacked and self.prefix is not None:
                self.decode_prefix = kv_cache.unstack(self.prefix)
            self.slots = self.shapes.empty(self.scheduler.classes, self.ring)
            jax.block_until_ready((self.decode_prefix, self.params, self.slots))
        self._fill()
        self._decode()

    def advance(self) -> list[Completion]:
        """Records the decoded tokens, continues to decode, and returns the finished samples."""
        began = time.perf_counter()
        compiled = self.stats.compile_seconds + self.stats.prefill_seconds
        steps = self.options.decode_steps
        may_decode = self.options.pipelined and self.scheduler.outlasts(steps)
        if may_decode and not self._should_grow and self._smaller() is None:
            self._decode()  # before the last ones are read: the device does not wait for the host
        visit = self.visits.popleft()
        self._visited += 1
        tokens, logprobs = partitioning.to_all_hosts(visit.drawn)
        completions = self.scheduler.record(tokens, logprobs, visit.rows)
        if completions and self._is_small:
            more = _VISITS_AFTER_FIRST if self.scheduler.in_use().any() else 1
            self._grows_after = min(self._grows_after, self._visited + more)
        self.stats.slot_steps += tokens.size
        self.stats.samples += len(completions)
        self.stats.tokens += sum(len(c.token_ids) for c in completions)
        if not self.scheduler.done:
            if completions and self._next_smaller() is not None:
                self._prepare_end()
            self._fill()
            if not self.visits:
                self._decode()
        other = self.stats.compile_seconds + self.stats.prefill_seconds - compiled
        self.stats.decode_seconds += time.perf_counter() - began - other
        return completions

    def wait(self) -> None:
        """Ends the call: waits for the device to finish the steps that were started."""
        self.programs.close()
        jax.block_until_ready([visit.drawn for visit in self.visits])

    def _fill(self) -> None:
        """Inserts samples into the free slots, and resizes the batch."""
        with self.stats.timed("prefill_seconds"):
            has_grown = not self.visits and self._should_grow and self._move(self._most)
            self._began_small &= not has_grown
            while (question := self._next_question()) is not None:
                self._prefill_questions(question)
                if has_grown:  # compiled beside the prefill
                    self._prepare_start(int(self.prefix_length), self._most)
                    has_grown = False
            self._insert(self.scheduler.place())
            while not self.visits and (classes := self._smaller()) and self._move(classes):
                pass  # one size at a time, while the unfinished samples fit
            self._grow()

    def _next_question(self) -> int | None:
        """Returns a question to prefill before the free slots can be filled, or None.

        Until a batch that began small grows, it decodes the samples of its first prefill alone, so
        that the first sample does not wait for other questions.
        """
        if self._is_small and self.scheduler.has_prefilled:
            return None
        return self.scheduler.next_question()

    def _decode(self) -> None:
        """Starts the next decode steps."""
        options = self.options
        keep, column = self.scheduler.in_use(), np.asarray(self.column, np.int32)
        ring, rows, tokens, logprobs = calls.decode(
            self.run, options, self.params, self.decode_prefix, self.slots, column, keep,
            self.drawing,
        )  # fmt: skip
        self.slots = dataclasses.replace(self.slots, ring=ring, rows=rows)
        self.column = (self.column + options.decode_steps) % self.ring
        self.visits.append(_Visit((tokens, logprobs), list(self.scheduler.rows)))

    def _prepare_start(self, prefix: int, classes: WidthClasses) -> None:
        """Begins to compile what a batch of these slots needs at first, in the order of need."""
        prepare, options, batches = self.programs.prepare, self.options, self.batches
        of_prefix = None
        if prefix:
            tokens = np.zeros((round_up(prefix, options.bucket),), np.int32)
            of_prefix = self.shapes.prefix(len(tokens))
            calls.prefill_prefix(prepare, options, self.params, tokens, self.prefix_length)
        slots = self.shapes.slots(classes, self.ring)
        inserts = np.zeros((9, classes.slots), np.int32)
        numbers = np.zeros((len(classes.sizes),), np.int32)
        questions = range(len(self.questions) if classes == self._most else 1)
        for i, width in enumerate(dict.fromkeys(map(batches.width_of, questions))):
            rows = batches.rows(width)
            calls.prefill_questions(
                prepare, options, batches, self.params, of_prefix, self.prefix_length,
                np.zeros((rows, width), np.int32), np.zeros((rows,), np.int32),
            )  # fmt: skip
            chunks = self.shapes.chunks(batches.chunks(width), batches.chunk)
            calls.insert(
                prepare, slots, chunks, self.seed, self.prefix_length, inserts, numbers
            )  # fmt: skip
            if i == 0:
                self._prepare_decode(slots, of_prefix)

    def _prepare_decode(self, slots: device.Slots, prefix: models.KVCache | None) -> None:
        if prefix is not None and self.options.unstacked and not prefix.is_unstacked:
            prefix = self.shapes.unstack(prefix)
        keep = np.zeros(slots.rows.active.shape, bool)
        calls.decode(
            self.programs.prepare, self.options, self.params, prefix, slots,
            np.asarray(0, np.int32), keep, self.drawing,
        )  # fmt: skip

    def _prepare_end(self) -> None:
        """Begins to compile what the shrinking batch will need, while it is still at work."""
        if self._has_prepared_end:
            return
        self._has_prepared_end = True
        before = self.scheduler.classes
        for level in widths.LEVELS:
            classes = self.classes.shrunk(level)
            if classes.slots < before.slots:
                sources, used = np.zeros(classes.slots, np.int32), np.zeros(classes.slots, bool)
                slots = self.shapes.slots(before, self.ring)
                if not self._moves_on_host:
                    calls.move(self.programs.prepare, slots, sources, used, classes)
                self._prepare_decode(self.shapes.slots(classes, self.ring), self.decode_prefix)
                before = classes

    def _check_length(self, prefix: int) -> None:
        """Raises `UserError` if a prompt and its longest sample exceed the model's length."""
        limit = self.options.config.max_length
        for i, (question, new) in enumerate(zip(self.questions, self.limits, strict=True)):
            total = prefix + len(question) + new
            if total > limit:
                raise UserError(
                    f"request {i}: {prefix} tokens of prefix, {len(question)} of question and "
                    f"{new} new ones exceed the model's {limit}: lower max_new_tokens, or use "
                    "fewer few-shot examples"
                )

    def _choose_classes(self, params: models.Params) -> WidthClasses:
        """Returns the width classes of all slots that are used at a time."""
        options = self.options
        parts = 1 if options.mesh is None else partitioning.batch_parts(options.mesh)
        lengths = [len(question) - 1 for question in self.questions]
        counts = [request.num_samples for request in self.requests]
        ring = self._full_ring()

        def of(slots: int) -> WidthClasses:
            return widths.choose(
                lengths, counts, slots=slots, bucket=options.bucket, ring=ring, parts=parts
            )

        if options.slots is not None:
            slots = round_up(options.slots, parts)
        else:
            ahead = self._lookahead + options.prefill_tokens
            slots = memory.slots_that_fit(options, params, of, parts, sum(counts), ring, ahead)
        known = _KNOWN_CLASSES[options.config, options.mesh, slots, options.bucket, ring]
        self._is_first = not known
        classes = widths.reuse(of(slots), known, lengths, counts, ring=ring)
        known[classes] = None
        return classes

    def _full_ring(self) -> int:
        return round_up(self.options.max_new_tokens, self.options.bucket)

    def _first_ring(self) -> int:
        """Returns the columns of the ring to begin with."""
        if memory.starts_full(self.scheduler.total, self._most.slots):
            return self._full_ring()
        return min(self.options.ring, self._full_ring())

    def _first_classes(self) -> WidthClasses:
        """Returns the slots to begin with."""
        small = self.classes.shrunk(widths.LEVELS[-1])
        starts_small = self.options.start_small and self._is_first
        return small if starts_small and small.slots < self._most.slots else self._most

    @property
    def _is_small(self) -> bool:
        """Whether the batch began small and has not grown yet."""
        return self._began_small and not self.scheduler.nothing_waits

    @property
    def _should_grow(self) -> bool:
        """Whether the batch began small and has been so for long enough."""
        return self._is_small and self._visited >= self._grows_after

    def _next_smaller(self) -> WidthClasses | None:
        """Returns the next smaller batch, unless samples wait for the slots that it lacks."""
        # Where `memory` counts what is held, it counts no prefilled questions beside two batches.
        if not self.scheduler.nothing_waits and not sharding.on_one_cpu():
            return None
        smaller = (self.classes.shrunk(level) for level in widths.LEVELS)
        found = next((c for c in smaller if c.slots < self.scheduler.classes.slots), None)
        return None if found is None or self.scheduler.needs_more_than(found) else found

    def _smaller(self) -> WidthClasses | None:
        """Returns the next smaller batch, if it has a slot wide enough for every sample."""
        found = self._next_smaller()
        left = max(1, int(self.scheduler.in_use().sum()))
        if found is None or left > found.slots or not self.scheduler.fits(found):
            return None
        return found

    def _move(self, classes: WidthClasses) -> bool:
        """Moves the unfinished samples to other slots; returns whether they fit."""
        moves = self.scheduler.move(classes)
        if moves is None:
            return False
        if self._moves_on_host:
            self.slots = resize.move_on_host(self.slots, classes.sizes, *moves)
        else:
            self.slots = calls.move(self.run, self.slots, *moves, classes)
        return True

    @property
    def _moves_on_host(self) -> bool:
        """Whether samples are moved to other slots without a program."""
        return self.options.unstacked and sharding.on_one_cpu()

    def _grow(self) -> None:
        """Lengthens the ring before a sample runs out of columns in the steps to come."""
        options = self.options
        visits = 2 if options.pipelined else 1
        needed = min(self.scheduler.oldest + visits * options.decode_steps, options.max_new_tokens)
        if self.ring >= needed:
            return
        full = self._full_ring()
        column = np.asarray(self.column, np.int32)
        ring = calls.grow(self.run, self.slots, column, full - self.ring)
        self.slots = dataclasses.replace(self.slots, ring=ring)
        self.column, self.ring = self.ring, full

    def _prefill_prefix(self, prefix: list[int]) -> models.KVCache | None:
        if not prefix:
            return None
        self.stats.prefill_tokens += len(prefix)
        tokens = np.zeros((round_up(len(prefix), self.options.bucket),), np.int32)
        tokens[: len(prefix)] = prefix
        return calls.prefill_prefix(self.run, self.options, self.params, tokens, self.prefix_length)

    def _prefill_questions(self, first: int) -> None:
        """Prefills a question and others of its width, as many as the token budget allows."""
        batches = self.batches
        indices = batches.choose(first, self.scheduler.unread())
        width = batches.width_of(first)
        tokens = np.zeros((batches.rows(width), width), np.int32)
        lengths = np.zeros((batches.rows(width),), np.int32)
        for row, index in enumerate(indices):
            read = self.questions[index][:-1]
            tokens[row, : len(read)] = read
            lengths[row] = len(read)
        self.stats.prefill_tokens += int(lengths.sum())
        questions = calls.prefill_questions(
            self.run, self.options, batches, self.params, self.prefix, self.prefix_length, tokens,
            lengths,
        )  # fmt: skip
        sources = {index: batches.first_chunk(width, row) for row, index in enumerate(indices)}
        self.scheduler.add_prefilled(sources, questions)

    def _insert(self, placements: list[Placement]) -> None:
        """Inserts samples into their slots, those of one prefilled batch at a time."""
        classes = self.scheduler.classes
        class_of, row_of = np.zeros((2, classes.slots), np.int32)
        for i, members in enumerate(classes.members()):
            class_of[members], row_of[members] = i, np.arange(len(members))
        batches = collections.defaultdict(list)
        for placement in placements:
            batches[id(placement.questions)].append(placement)
        for batch in batches.values():
            batch.sort(key=lambda p: class_of[p.slot])
            inserts = np.zeros((9, classes.slots), np.int32)
            for i, p in enumerate(batch):
                request, question = self.requests[p.request_index], self.questions[p.request_index]
                chunks = -(-(len(question) - 1) // self.batches.chunk)
                inserts[:, i] = (
                    p.slot, row_of[p.slot], p.source, chunks, question[-1], len(question) - 1,
                    np.uint32(request.problem_key % 2**32).view(np.int32),
                    p.sample_index, self.limits[p.request_index],
                )  # fmt: skip
            numbers = np.bincount([class_of[p.slot] for p in batch], minlength=len(classes.sizes))
            questions, rows = calls.insert(
                self.run, self.slots, batch[0].questions, self.seed, self.prefix_length, inserts,
                numbers.astype(np.int32),
            )  # fmt: skip
            self.slots = dataclasses.replace(self.slots, questions=questions, rows=rows)


def _typed(key: jax.Array) -> jax.Array:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)

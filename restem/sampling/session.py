"""One call of `Engine.sample`: the host's part of prefill, insert, decode and resize.

fill       prefills questions, inserts samples into free slots, resizes the batch
advance    starts the next decode steps, records the tokens of the last ones, and returns the
           finished samples
"""

from __future__ import annotations

import collections
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from restem import models, partitioning
from restem.errors import UserError
from restem.models import kv_cache
from restem.sampling import memory, resize, widths
from restem.sampling import steps as device
from restem.sampling.filters import Drawing
from restem.sampling.options import Options
from restem.sampling.programs import Programs
from restem.sampling.requests import Completion, Request
from restem.sampling.scheduler import Placement, Row, Scheduler
from restem.sampling.stats import Stats
from restem.sampling.widths import WidthClasses, round_up

_LOOKAHEAD = 8192
"""Least number of question tokens among which questions of one width are sought."""
_REFILLS = 4
"""Samples per slot from which on the ring has its full length at once: the longest of several
generations of samples in a slot needs it soon, and growing it holds two rings."""


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
        level = self.classes.level_for(sum(request.num_samples for request in requests))
        self.scheduler = Scheduler(
            requests,
            classes=self.classes.shrunk(level),
            request_classes=[self.classes.class_of(len(q) - 1) for q in self.questions],
            vocabulary=options.vocabulary,
            vocab_size=options.config.vocab_size,
            stops=options.stops,
            limits=self.limits,
        )
        self.visits: collections.deque[_Visit] = collections.deque()
        if self.scheduler.done:
            return
        self.prefix_length = np.asarray(len(prefix), np.int32)
        self.seed = jax.random.key(key) if isinstance(key, int) else _typed(key)
        self.ring = self._first_ring()
        self.column = 0
        self.drawing = Drawing.of(options.sampling)
        with self.stats.timed("prefill_seconds"):
            self.params = device.prepare_params(params, options.config)
            self.prefix = self._prefill_prefix(prefix)
            self.decode_params, self.decode_prefix = self.params, self.prefix
            if options.unstacked:
                self.decode_params = models.unstack_layers(self.params)
                if options.mesh is None:
                    self.decode_params = models.fuse_gates(self.decode_params)
                self.decode_prefix = self.prefix and kv_cache.unstack(self.prefix)
            self.slots = self._empty_slots()
            jax.block_until_ready((self.decode_prefix, self.decode_params, self.slots))
        self._fill()
        self._decode()

    def advance(self) -> list[Completion]:
        """Records the decoded tokens, continues to decode, and returns the finished samples."""
        began = time.perf_counter()
        compiled = self.stats.compile_seconds + self.stats.prefill_seconds
        steps = self.options.decode_steps
        if self.options.pipelined and self.scheduler.outlasts(steps) and not self._shrunk():
            self._decode()  # before the last ones are read: the device does not wait for the host
        visit = self.visits.popleft()
        tokens, logprobs = partitioning.to_all_hosts(visit.drawn)
        completions = self.scheduler.record(tokens, logprobs, visit.rows)
        self.stats.slot_steps += tokens.size
        self.stats.samples += len(completions)
        self.stats.tokens += sum(len(c.token_ids) for c in completions)
        if not self.scheduler.done:
            self._fill()
            if not self.visits:
                self._decode()
        other = self.stats.compile_seconds + self.stats.prefill_seconds - compiled
        self.stats.decode_seconds += time.perf_counter() - began - other
        return completions

    def wait(self) -> None:
        """Waits for the device to finish the steps that were started."""
        jax.block_until_ready([visit.drawn for visit in self.visits])

    def _fill(self) -> None:
        """Inserts samples into the free slots, and resizes the batch."""
        with self.stats.timed("prefill_seconds"):
            while (question := self.scheduler.next_question()) is not None:
                self._prefill_questions(question)
            self._insert(self.scheduler.place())
            self._shrink()
            self._grow()

    def _decode(self) -> None:
        """Starts the next decode steps."""
        options = self.options
        keep, column = self.scheduler.in_use(), np.asarray(self.column, np.int32)
        ring, rows, tokens, logprobs = self.run(
            _decode, self.decode_params, self.decode_prefix, self.slots.questions, self.slots.ring,
            self.slots.rows, column, keep, self.drawing, donate=(3, 4), config=options.config,
            steps=options.decode_steps, eos_ids=tuple(sorted(options.vocabulary.eos_ids)),
        )  # fmt: skip
        self.slots = dataclasses.replace(self.slots, ring=ring, rows=rows)
        self.column = (self.column + options.decode_steps) % self.ring
        self.visits.append(_Visit((tokens, logprobs), list(self.scheduler.rows)))

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

        def of(slots: int) -> WidthClasses:
            return widths.choose(
                [len(question) - 1 for question in self.questions],
                [request.num_samples for request in self.requests],
                slots=slots, bucket=options.bucket, ring=self._full_ring(), parts=parts,
            )  # fmt: skip

        if options.slots is not None:
            return of(round_up(options.slots, parts))
        ahead = self._lookahead + options.prefill_tokens
        return of(memory.slots_that_fit(options, params, of, parts, self._full_ring(), ahead))

    def _full_ring(self) -> int:
        return round_up(self.options.max_new_tokens, self.options.bucket)

    def _first_ring(self) -> int:
        """Returns the columns of the ring to begin with."""
        if self.scheduler.total >= _REFILLS * self.scheduler.classes.slots:
            return self._full_ring()
        return min(self.options.ring, self._full_ring())

    def _empty_slots(self) -> device.Slots:
        classes = self.scheduler.classes
        return self.run(
            _empty_slots, config=self.options.config, widths=classes.widths, sizes=classes.sizes,
            ring=self.ring, parts=classes.parts, unstacked=self.options.unstacked,
        )  # fmt: skip

    def _shrink(self) -> None:
        """Shrinks the batch to the fewest slots that hold the unfinished samples."""
        for classes in self._shrunk() if not self.visits else ():
            moves = self.scheduler.shrink(classes)
            if moves is not None:
                self.slots = self.run(_shrink, self.slots, *moves, sizes=classes.sizes)
                return

    def _shrunk(self) -> list[WidthClasses]:
        """Returns the smaller batches, the smallest first, that have a slot for every sample."""
        if not self.scheduler.nothing_waits:
            return []
        left = max(1, int(self.scheduler.in_use().sum()))
        smaller = (self.classes.shrunk(level) for level in reversed(widths.LEVELS))
        return [c for c in smaller if left <= c.slots < self.scheduler.classes.slots]

    def _grow(self) -> None:
        """Lengthens the ring before a sample runs out of columns in the steps to come."""
        options = self.options
        visits = 2 if options.pipelined else 1
        needed = min(self.scheduler.oldest + visits * options.decode_steps, options.max_new_tokens)
        if self.ring >= needed:
            return
        full = self._full_ring()
        ring = self.run(
            _grow, self.slots.ring, np.asarray(self.column, np.int32), more=full - self.ring
        )
        self.slots = dataclasses.replace(self.slots, ring=ring)
        self.column, self.ring = self.ring, full

    def _prefill_prefix(self, prefix: list[int]) -> models.KVCache | None:
        if not prefix:
            return None
        self.stats.prefill_tokens += len(prefix)
        tokens = np.zeros((round_up(len(prefix), self.options.bucket),), np.int32)
        tokens[: len(prefix)] = prefix
        return self.run(
            _prefill_prefix, self.params, tokens, self.prefix_length, config=self.options.config
        )

    def _prefill_width(self, index: int) -> tuple[int, int]:
        """Returns the columns of a question's prefill, and those of its class.

        Most questions are much shorter than the first class is wide, so there half the columns are
        computed if they do.
        """
        tokens = len(self.questions[index]) - 1
        width = self.classes.widths[self.classes.class_of(tokens)]
        half = round_up(self.classes.widths[0] // 2, self.options.bucket)
        return min(half, width) if tokens <= half else width, width

    def _prefill_questions(self, first: int) -> None:
        """Prefills a question and others of its width, as many as the token budget allows.

        Questions of the same width leave little padding, and their class determines the number of
        rows, so that few shapes are compiled.
        """
        classes = self.classes
        width, of_class = self._prefill_width(first)
        rows = max(1, min(self.options.prefill_tokens // of_class, classes.slots))
        indices = [first]
        ahead = of_class
        for index in self.scheduler.unread():
            if len(indices) == rows or ahead >= self._lookahead:
                break
            of, of_its_class = self._prefill_width(index)
            ahead += of_its_class
            if of == width and index != first:
                indices.append(index)
        rows = round_up(rows, classes.parts)
        tokens = np.zeros((rows, width), np.int32)
        lengths = np.zeros((rows,), np.int32)
        for row, index in enumerate(indices):
            read = self.questions[index][:-1]
            tokens[row, : len(read)] = read
            lengths[row] = len(read)
        self.stats.prefill_tokens += int(lengths.sum())
        questions = self.run(
            _prefill_questions, self.params, self.prefix, self.prefix_length, tokens, lengths,
            config=self.options.config, columns=of_class,
        )  # fmt: skip
        self.scheduler.add_prefilled(indices, questions)

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
            inserts = np.zeros((8, classes.slots), np.int32)
            for i, p in enumerate(batch):
                request, question = self.requests[p.request_index], self.questions[p.request_index]
                inserts[:, i] = (
                    p.slot, row_of[p.slot], p.source, question[-1], len(question) - 1,
                    np.uint32(request.problem_key % 2**32).view(np.int32),
                    p.sample_index, self.limits[p.request_index],
                )  # fmt: skip
            numbers = np.bincount([class_of[p.slot] for p in batch], minlength=len(classes.sizes))
            questions, rows = self.run(
                device.insert, self.slots.questions, self.slots.rows, batch[0].questions,
                self.seed, self.prefix_length, inserts, numbers.astype(np.int32), donate=(0, 1),
            )  # fmt: skip
            self.slots = dataclasses.replace(self.slots, questions=questions, rows=rows)


def _empty_slots(config, widths, sizes, ring, parts, unstacked):
    return device.empty_slots(config, widths, sizes, ring, parts=parts, unstacked=unstacked)


def _prefill_prefix(params, tokens, length, *, config):
    return device.prefill_prefix(params, config, tokens, length)


def _prefill_questions(params, prefix, prefix_length, tokens, lengths, *, config, columns):
    return device.prefill_questions(
        params, config, prefix, prefix_length, tokens, lengths, columns=columns
    )


def _grow(ring, column, *, more):
    return resize.grow(ring, more, column)


def _shrink(slots, sources, used, *, sizes):
    return resize.shrink(slots, sizes, sources, used)


def _decode(
    params, prefix, questions, ring, rows, column, keep, drawing, *, config, steps, eos_ids
):
    slots = device.Slots(questions=questions, ring=ring, rows=rows)
    return device.decode(params, config, drawing, eos_ids, steps, prefix, slots, column, keep)


def _typed(key: jax.Array) -> jax.Array:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)

"""One call of `Engine.sample`: the host's part of prefill, insert and decode.

fill       prefills questions, inserts samples into free slots and starts the next decode steps
advance    records the tokens of the last decode steps, fills, and returns the finished samples
"""

from __future__ import annotations

import collections
import time

import jax
import jax.numpy as jnp
import numpy as np

from restem import models, partitioning
from restem.errors import UserError
from restem.sampling import steps as device
from restem.sampling.options import Options, round_up
from restem.sampling.programs import Programs
from restem.sampling.requests import Completion, Request
from restem.sampling.scheduler import Placement, Scheduler
from restem.sampling.stats import Stats

_LOOKAHEAD = 8192
"""Least number of question tokens among which questions of one width are sought."""


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
        self.params = params
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
        longest = max(map(len, self.questions), default=1)
        self.question_columns = round_up(longest - 1, options.bucket)
        # Bounded, because a question that is prefilled early stays in memory until its turn.
        self._lookahead = max(_LOOKAHEAD, 4 * options.prefill_tokens)
        self.parts = 1 if options.mesh is None else partitioning.batch_parts(options.mesh)
        slots = options.slots or self._slots_that_fit()
        wanted = round_up(sum(request.num_samples for request in requests), 8)
        self.scheduler = Scheduler(
            requests,
            slots=round_up(min(slots, wanted), self.parts),
            vocabulary=options.vocabulary,
            stops=options.stops,
            limits=self.limits,
        )
        self.drawn: tuple[jax.Array, ...] = ()
        if self.scheduler.done:
            return
        self.prefix_length = jnp.asarray(len(prefix), jnp.int32)
        self.seed = jax.random.key(key) if isinstance(key, int) else _typed(key)
        self.ring = options.ring
        self.column = 0
        with self.stats.timed("prefill_seconds"):
            self.params = device.prepare_params(params, options.config)
            self.prefix = self._prefill_prefix(prefix)
            self.decode_params = self.params
            if options.unstacked:
                self.decode_params = models.unstack_layers(self.params)
            self.slots = self.run(
                _empty_slots, config=options.config, slots=len(self.scheduler.rows),
                question=self.question_columns, ring=self.ring, unstacked=options.unstacked,
            )  # fmt: skip
            jax.block_until_ready((self.prefix, self.decode_params, self.slots))

        self._fill()

    def _fill(self) -> None:
        """Inserts samples into the free slots and starts the next decode steps."""
        with self.stats.timed("prefill_seconds"):
            while self.scheduler.wants_question():
                self._prefill_questions()
            self._insert(self.scheduler.place())
            self._grow()
            jax.block_until_ready(self.slots)
        with self.stats.timed("decode_seconds"):
            self.drawn = self._decode()
            self.column = (self.column + self.options.decode_steps) % self.ring
        self._began = time.perf_counter()

    def advance(self) -> list[Completion]:
        """Records the decoded tokens, continues to decode, and returns the finished samples."""
        stats = self.stats
        tokens, logprobs = partitioning.to_all_hosts(self.drawn)
        completions = self.scheduler.record(tokens, logprobs)
        stats.decode_seconds += time.perf_counter() - self._began
        stats.slot_steps += tokens.size
        stats.samples += len(completions)
        stats.tokens += sum(len(c.token_ids) for c in completions)
        if not self.scheduler.done:
            self._fill()
        return completions

    def _decode(self) -> tuple[jax.Array, jax.Array]:
        """Starts decode steps; returns tokens and log-probabilities, [decode_steps, slots] each."""
        options = self.options
        keep = np.array([row is not None for row in self.scheduler.rows])
        column = np.asarray(self.column, np.int32)
        drawn = dict(sampling=options.sampling, eos_ids=tuple(sorted(options.vocabulary.eos_ids)))
        if options.unstacked and options.decode_steps == 1:
            # Two programs, because the larger one, whose unrolled layers compile slowly, is the
            # same for all filters.
            block, logits = self.run(
                _read, self.decode_params, self.prefix, self.slots, config=options.config
            )
            self.slots, tokens, logprobs = self.run(
                _write, self.slots, block, logits, column, keep, donate=(0,), ring=self.ring,
                **drawn,
            )  # fmt: skip
        else:
            self.slots, tokens, logprobs = self.run(
                _decode, self.decode_params, self.prefix, self.slots, column, keep, donate=(2,),
                config=options.config, steps=options.decode_steps, ring=self.ring, **drawn,
            )  # fmt: skip
        return tokens, logprobs

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

    def _slots_that_fit(self) -> int:
        """Returns a power of two of slots whose caches and logits fit beside the parameters.

        It depends on what is the same on every host, not on the memory that is free at the moment.
        """
        config, mesh = self.options.config, self.options.mesh
        device_ = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
        memory = (device_.memory_stats() or {}).get("bytes_limit")
        if not memory:
            return 256 * self.parts
        tensor = 1 if mesh is None else mesh.shape["tensor"]
        item = jnp.dtype(config.dtype).itemsize
        # The caller's parameters, and what `prepare_params` adds to them.
        params = sum(
            leaf.nbytes + leaf.size * item * (leaf.dtype != config.dtype)
            for leaf in jax.tree.leaves(self.params)
        )
        if mesh is not None:
            params /= mesh.shape["fsdp"] * tensor
        heads = config.num_kv_heads
        heads = heads // tensor if heads % tensor == 0 else heads
        columns = self.question_columns + round_up(self.options.max_new_tokens, self.options.bucket)
        width = 2 * config.num_layers * heads * config.head_dim * item
        # While the ring grows there are two caches; drawing takes several copies of the logits.
        row = 2 * columns * width + 6 * 4 * config.vocab_size
        ahead = (self._lookahead + self.options.prefill_tokens) * width
        fit = max(8, int(0.8 * (memory - params - ahead) / row))
        return self.parts * min(1024, 2 ** (fit.bit_length() - 1))

    def _grow(self) -> None:
        """Doubles the ring until no sample runs out of columns in the next steps."""
        options = self.options
        oldest = max(len(row.token_ids) for row in self.scheduler.rows if row is not None)
        needed = min(oldest + options.decode_steps, options.max_new_tokens)
        ring = self.ring
        while ring < needed:
            ring = min(2 * ring, round_up(options.max_new_tokens, options.bucket))
        if ring > self.ring:
            self.slots = self.run(
                _grow, self.slots, np.asarray(self.column, np.int32),
                ring=self.ring, more=ring - self.ring,
            )  # fmt: skip
            self.column, self.ring = self.ring, ring

    def _prefill_prefix(self, prefix: list[int]):
        if not prefix:
            return None
        self.stats.prefill_tokens += len(prefix)
        tokens = np.zeros((round_up(len(prefix), self.options.bucket),), np.int32)
        tokens[: len(prefix)] = prefix
        return self.run(
            _prefill_prefix, self.params, tokens, self.prefix_length, config=self.options.config
        )

    def _prefill_questions(self) -> None:
        """Prefills the next question and others of its width, as many as the token budget allows.

        Questions of the same width leave little padding, and the width determines the number of
        rows, so that few shapes are compiled.
        """
        budget, bucket = self.options.prefill_tokens, self.options.bucket
        widths: dict[int, int] = {}
        ahead = 0
        for index in self.scheduler.unread():
            widths[index] = round_up(len(self.questions[index]) - 1, bucket)
            ahead += widths[index]
            if ahead >= self._lookahead:
                break
        width = next(iter(widths.values()))
        rows = max(1, min(budget // width, len(self.scheduler.rows)))
        indices = [i for i, of in widths.items() if of == width][:rows]
        rows = round_up(rows, self.parts)
        tokens = np.zeros((rows, width), np.int32)
        lengths = np.zeros((rows,), np.int32)
        for row, index in enumerate(indices):
            read = self.questions[index][:-1]
            tokens[row, : len(read)] = read
            lengths[row] = len(read)
        self.stats.prefill_tokens += int(lengths.sum())
        questions = self.run(
            _prefill_questions, self.params, self.prefix, self.prefix_length, tokens, lengths,
            config=self.options.config,
        )  # fmt: skip
        self.scheduler.add_prefilled(indices, questions)

    def _insert(self, placements: list[Placement]) -> None:
        """Inserts samples into their slots, those of one prefilled batch at a time."""
        batches = collections.defaultdict(list)
        for placement in placements:
            batches[id(placement.questions)].append(placement)
        for batch in batches.values():
            rows = np.zeros((7, len(self.scheduler.rows)), np.int32)
            for i, p in enumerate(batch):
                request, question = self.requests[p.request_index], self.questions[p.request_index]
                rows[:, i] = (
                    p.slot, p.source, question[-1], len(question) - 1,
                    np.uint32(request.problem_key % 2**32).view(np.int32),
                    p.sample_index, self.limits[p.request_index],
                )  # fmt: skip
            self.slots = self.run(
                device.insert, self.slots, batch[0].questions, self.seed, self.prefix_length, rows,
                np.asarray(len(batch), np.int32), donate=(0,),
            )  # fmt: skip


def _empty_slots(config, slots, question, ring, unstacked):
    return device.empty_slots(config, slots, question, ring, unstacked=unstacked)


def _prefill_prefix(params, tokens, length, *, config):
    return device.prefill_prefix(params, config, tokens, length)


def _prefill_questions(params, prefix, prefix_length, tokens, lengths, *, config):
    return device.prefill_questions(params, config, prefix, prefix_length, tokens, lengths)


def _grow(slots, column, *, ring, more):
    return device.grow(slots, ring, more, column)


def _read(params, prefix, slots, *, config):
    return device.read(params, config, prefix, slots)


def _write(slots, block, logits, column, keep, *, sampling, eos_ids, ring):
    slots = slots.replace(active=slots.active & keep)
    column = slots.cache.length - ring + column
    slots, *drawn = device.write(sampling, eos_ids, slots, block, logits, column)
    return slots, *(x[None] for x in drawn)


def _decode(params, prefix, slots, column, keep, *, config, sampling, eos_ids, steps, ring):
    return device.decode(
        params, config, sampling, eos_ids, steps, ring, prefix, slots, column, keep
    )


def _typed(key: jax.Array) -> jax.Array:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)

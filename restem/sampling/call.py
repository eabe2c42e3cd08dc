"""One call of `Engine.sample`: the host's part of prefill, fork and decode, between two visits.

fill       prefill questions, put samples into free slots, have the device begin to decode
advance    take in the tokens it decoded, fill, and give away what finished meanwhile
"""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from restem import models, partitioning
from restem.errors import UserError
from restem.sampling import steps as device
from restem.sampling.requests import Completion, Request
from restem.sampling.scheduler import Placement, Scheduler

if TYPE_CHECKING:
    from restem.sampling.engine import Engine, Stats

_LOOKAHEAD = 8192
"""Question tokens, at least, among which those of one width are looked for."""


class Call:
    """The state of one call; `advance` until its scheduler is done."""

    def __init__(self, engine: Engine, params, prefix: list[int], requests: list[Request], key):
        self.engine = engine
        self.params = params
        self.requests = requests
        self.questions = [tuple(request.tokens) for request in requests]
        if any(not question for question in self.questions):
            # A slot starts by reading the last token of its question: give every question one.
            if not prefix:
                raise UserError("cannot sample: a request has no tokens and there is no prefix")
            self.questions = [(prefix[-1], *question) for question in self.questions]
            prefix = prefix[:-1]
        self.limits = [
            min(engine.max_new_tokens, request.max_new_tokens or engine.max_new_tokens)
            for request in requests
        ]
        self._check_length(len(prefix))
        longest = max(map(len, self.questions), default=1)
        self.question_columns = round_up(longest - 1, engine.bucket)
        # Bounded: a question that is prefilled ahead of its turn stays in memory until then.
        self._lookahead = max(_LOOKAHEAD, 4 * engine.prefill_tokens)
        self.parts = 1 if engine.mesh is None else partitioning.batch_parts(engine.mesh)
        slots = engine.slots or self._slots_that_fit()
        wanted = round_up(sum(request.num_samples for request in requests), 8)
        self.scheduler = Scheduler(
            requests,
            slots=round_up(min(slots, wanted), self.parts),
            vocabulary=engine.vocabulary,
            stops=engine.stops,
            limits=self.limits,
        )
        self.drawn: tuple[jax.Array, ...] = ()
        if self.scheduler.done:
            return
        self.prefix_length = jnp.asarray(len(prefix), jnp.int32)
        self.seed = jax.random.key(key) if isinstance(key, int) else _typed(key)
        self.ring = engine.ring
        self.column = 0
        with self._timed("prefill_seconds"):
            self.params = device.prepare_params(params, engine.config)
            self.prefix = self._prefill_prefix(prefix)
            self.decode_params = self.params
            if engine.unstacked:
                self.decode_params = models.unstack_layers(self.params)
            self.slots = engine.run(
                _empty_slots, config=engine.config, slots=len(self.scheduler.rows),
                question=self.question_columns, ring=self.ring, unstacked=engine.unstacked,
            )  # fmt: skip
            jax.block_until_ready((self.prefix, self.decode_params, self.slots))

        self._fill()

    def _fill(self) -> None:
        """Puts samples into the free slots and has the device begin to decode."""
        with self._timed("prefill_seconds"):
            while self.scheduler.wants_question():
                self._prefill_questions()
            self._fork(self.scheduler.place())
            self._grow()
            jax.block_until_ready(self.slots)
        with self._timed("decode_seconds"):
            self.drawn = self._decode()
            self.column = (self.column + self.engine.decode_steps) % self.ring
        self._began = time.perf_counter()

    def advance(self) -> list[Completion]:
        """Takes in the tokens that the device decoded, has it go on, and returns what finished."""
        stats = self.engine.stats
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
        """Tokens and their log-probabilities [decode_steps, slots] of all slots."""
        engine = self.engine
        keep = np.array([row is not None for row in self.scheduler.rows])
        column = np.asarray(self.column, np.int32)
        drawn = dict(sampling=engine.sampling, eos_ids=tuple(sorted(engine.vocabulary.eos_ids)))
        if engine.unstacked and engine.decode_steps == 1:
            # Two programs: the larger one, slow to compile with its layers unrolled, is the same
            # for every way of drawing.
            block, logits = engine.run(
                _read, self.decode_params, self.prefix, self.slots, config=engine.config
            )
            self.slots, tokens, logprobs = engine.run(
                _write, self.slots, block, logits, column, keep, donate=(0,), ring=self.ring,
                **drawn,
            )  # fmt: skip
        else:
            self.slots, tokens, logprobs = engine.run(
                _decode, self.decode_params, self.prefix, self.slots, column, keep, donate=(2,),
                config=engine.config, steps=engine.decode_steps, ring=self.ring, **drawn,
            )  # fmt: skip
        return tokens, logprobs

    def _check_length(self, prefix: int) -> None:
        limit = self.engine.config.max_length
        for i, (question, new) in enumerate(zip(self.questions, self.limits, strict=True)):
            total = prefix + len(question) + new
            if total > limit:
                raise UserError(
                    f"request {i}: {prefix} tokens of prefix, {len(question)} of question and "
                    f"{new} new ones exceed the model's {limit}: lower max_new_tokens, or use "
                    "fewer few-shot examples"
                )

    def _slots_that_fit(self) -> int:
        """A power of two of slots whose caches and logits fit beside the parameters.

        Computed from what is the same on every host, and not from what is free at the moment.
        """
        config, mesh = self.engine.config, self.engine.mesh
        device_ = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
        memory = (device_.memory_stats() or {}).get("bytes_limit")
        if not memory:
            return 256 * self.parts
        tensor = 1 if mesh is None else mesh.shape["tensor"]
        item = jnp.dtype(config.dtype).itemsize
        # What the caller holds, and what `prepare_params` adds to it.
        params = sum(
            leaf.nbytes + leaf.size * item * (leaf.dtype != config.dtype)
            for leaf in jax.tree.leaves(self.params)
        )
        if mesh is not None:
            params /= mesh.shape["fsdp"] * tensor
        heads = config.num_kv_heads
        heads = heads // tensor if heads % tensor == 0 else heads
        columns = self.question_columns + round_up(self.engine.max_new_tokens, self.engine.bucket)
        width = 2 * config.num_layers * heads * config.head_dim * item
        # Growing the ring holds two caches for a moment; sampling holds some copies of the logits.
        row = 2 * columns * width + 6 * 4 * config.vocab_size
        ahead = (self._lookahead + self.engine.prefill_tokens) * width
        fit = max(8, int(0.8 * (memory - params - ahead) / row))
        return self.parts * min(1024, 2 ** (fit.bit_length() - 1))

    def _grow(self) -> None:
        """Doubles the ring until no sample runs out of columns in the coming steps."""
        engine = self.engine
        oldest = max(len(row.token_ids) for row in self.scheduler.rows if row is not None)
        needed = min(oldest + engine.decode_steps, engine.max_new_tokens)
        ring = self.ring
        while ring < needed:
            ring = min(2 * ring, round_up(engine.max_new_tokens, engine.bucket))
        if ring > self.ring:
            self.slots = engine.run(
                _grow, self.slots, np.asarray(self.column, np.int32),
                ring=self.ring, more=ring - self.ring,
            )  # fmt: skip
            self.column, self.ring = self.ring, ring

    def _timed(self, name: str):
        return _Timer(self.engine.stats, name)

    def _prefill_prefix(self, prefix: list[int]):
        if not prefix:
            return None
        self.engine.stats.prefill_tokens += len(prefix)
        tokens = np.zeros((round_up(len(prefix), self.engine.bucket),), np.int32)
        tokens[: len(prefix)] = prefix
        return self.engine.run(
            _prefill_prefix, self.params, tokens, self.prefix_length, config=self.engine.config
        )

    def _prefill_questions(self) -> None:
        """Prefills the next question and others of its width, as many as the token budget allows.

        Questions of one width leave little padding, and the number of rows is fixed by the width,
        so that few shapes are compiled.
        """
        budget, bucket = self.engine.prefill_tokens, self.engine.bucket
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
        self.engine.stats.prefill_tokens += int(lengths.sum())
        questions = self.engine.run(
            _prefill_questions, self.params, self.prefix, self.prefix_length, tokens, lengths,
            config=self.engine.config,
        )  # fmt: skip
        self.scheduler.add_prefilled(indices, questions)

    def _fork(self, placements: list[Placement]) -> None:
        """Puts samples into their slots, those of one prefilled batch at a time."""
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
            self.slots = self.engine.run(
                device.fork, self.slots, batch[0].questions, self.seed, self.prefix_length, rows,
                np.asarray(len(batch), np.int32), donate=(0,),
            )  # fmt: skip


class _Timer:
    """Adds the time of a block to a field of `Stats`, less what was spent compiling in it."""

    def __init__(self, stats: Stats, name: str):
        self._stats = stats
        self._name = name

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._compiled = self._stats.compile_seconds

    def __exit__(self, *exc: object) -> None:
        seconds = time.perf_counter() - self._start
        seconds -= self._stats.compile_seconds - self._compiled
        setattr(self._stats, self._name, getattr(self._stats, self._name) + seconds)


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


def round_up(number: int, multiple: int) -> int:
    return max(multiple, -(-number // multiple) * multiple)

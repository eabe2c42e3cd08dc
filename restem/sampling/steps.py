"""The device's part of sampling: prefill, insert and decode, as pure functions.

A *slot* is a row of the decode batch. Its cache has two parts: columns for the question, written
once when a sample is inserted, and a ring of columns for sampled tokens. At every step all slots
write into the same ring column, whenever their samples started, so a step updates the cache with
one contiguous write. With a ring of 4 columns and a sample that is inserted into slot 1 at step 2
(positions in the row; - holds nothing):

                  question   ring                 next column
    step 2  slot 0   5 6 7    8 9 - -      2
            slot 1   5 6 -    - - - -             (just inserted: every ring column is hidden)
    step 4  slot 0   5 6 7    8 9 10 11    0
            slot 1   5 6 -    - - 7 8
    step 5  slot 0   5 6 7    12 9 10 11   1      (position 8 is gone: at most 4 tokens per sample)
            slot 1   5 6 -    9 - 7 8

The last token of the question is not prefilled: it is the first token that a slot reads, so that
the same program yields the first sampled token and all others.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from restem import models
from restem.models import int8, kv_cache, sharding
from restem.models.kv_cache import INVALID_POSITION, KVCache
from restem.sampling import filters

NO_TOKEN = -1
"""Marks a slot that sampled nothing."""


@flax.struct.dataclass
class Slots:
    """The rows of the decode batch.

    In trees that describe slots, such as `plan` makes, fields are what describes an array.
    """

    cache: KVCache
    """Keys and values: columns of the question, then the ring."""
    token: Any
    """[slots] int32, token to read next."""
    position: Any
    """[slots] int32, position of that token."""
    key: Any
    """[slots] PRNG keys of the samples; step t uses fold_in(key, t)."""
    count: Any
    """[slots] int32, tokens sampled so far."""
    limit: Any
    """[slots] int32, number of tokens at which the sample is cut off."""
    active: Any
    """[slots] bool, whether the slot has an unfinished sample."""


ROW_AXES = ("batch",)
"""Logical axes of the arrays with one entry per slot; `kv_cache.axes` names those of the cache."""


def _constrain(slots: Slots) -> Slots:
    rows = {
        name: sharding.constrain(getattr(slots, name), ROW_AXES)
        for name in ("token", "position", "key", "count", "limit", "active")
    }
    return Slots(cache=kv_cache.constrain(slots.cache), **rows)


def empty_slots(
    config: models.ModelConfig, slots: int, question: int, ring: int, *, unstacked: bool
) -> Slots:
    """Returns empty slots whose caches have `question` + `ring` columns."""
    cache = kv_cache.empty(config, slots, question + ring)
    if unstacked:
        cache = kv_cache.unstack(cache)
    zeros = lambda: jnp.zeros((slots,), jnp.int32)
    return _constrain(
        Slots(
            cache=cache,
            token=zeros(),
            position=zeros(),
            key=jax.random.split(jax.random.key(0), slots),
            count=zeros(),
            limit=zeros(),
            active=jnp.zeros((slots,), bool),
        )
    )


def prefill_prefix(
    params: models.Params,
    config: models.ModelConfig,
    tokens: Int[Array, " columns"],
    length: Int[Array, ""],
) -> KVCache:
    """Returns the keys and values of the prefix, which every row shares.

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      tokens: token ids, padded at the end.
      length: number of tokens that are not padding.
    """
    at = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    block = models.forward(params, config, tokens[None], at[None]).block
    positions = jnp.where(at < length, at, INVALID_POSITION)
    return kv_cache.constrain(
        kv_cache.as_prefix(dataclasses.replace(block, positions=positions[None]))
    )


def prefill_questions(
    params: models.Params,
    config: models.ModelConfig,
    prefix: KVCache | None,
    prefix_length: Int[Array, ""],
    tokens: Int[Array, "questions columns"],
    lengths: Int[Array, " questions"],
) -> KVCache:
    """Returns the keys and values of several questions, each behind the prefix.

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      prefix: cache of the prefix; None if it is empty.
      prefix_length: tokens of the prefix.
      tokens: token ids, padded at the end.
      lengths: tokens of each question.
    """
    at = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(prefix_length + at, tokens.shape)
    caches = () if prefix is None else (prefix,)
    block = models.forward(params, config, tokens, positions, caches=caches).block
    positions = jnp.where(at < lengths[:, None], positions, INVALID_POSITION)
    return kv_cache.constrain(dataclasses.replace(block, positions=positions))


def insert(
    slots: Slots,
    questions: KVCache,
    seed: Key[Array, ""],
    prefix_length: Int[Array, ""],
    rows: Int[Array, "7 capacity"],
    number: Int[Array, ""],
) -> Slots:
    """Inserts samples into slots.

    Args:
      slots: state of the slots.
      questions: prefilled questions, as `prefill_questions` returns them (stacked layers).
      seed: PRNG key of the call.
      prefix_length: tokens of the prefix.
      rows: one column per sample: its slot, its row in `questions`, its first token to read, that
        token's place in the question, its problem key (the bits of a uint32), its sample index and
        its cut-off.
      number: columns of `rows` that are used.
    """
    width = questions.length
    columns = slots.cache.length

    def one(i, slots):
        slot, source, token, place, problem, sample, limit = rows[:, i]
        key = jax.random.fold_in(jax.random.fold_in(seed, problem.astype(jnp.uint32)), sample)

        def copy(layer):
            """Returns the copy of row `source` of a layer's array to the slot's first columns."""

            def put(into, of):
                if layer is None:  # stacked: [layers, rows, ...]
                    row = jax.lax.dynamic_slice_in_dim(of, source, 1, axis=1)
                    return jax.lax.dynamic_update_slice(
                        into, row.astype(into.dtype), (0, slot, 0, 0, 0)
                    )
                row = jax.lax.dynamic_slice(of, (layer, source, 0, 0, 0), (1, 1, *of.shape[2:]))[0]
                return jax.lax.dynamic_update_slice(into, row.astype(into.dtype), (slot, 0, 0, 0))

            return put

        cache = slots.cache
        if isinstance(cache.keys, tuple):
            keys = tuple(copy(i)(k, questions.keys) for i, k in enumerate(cache.keys))
            values = tuple(copy(i)(v, questions.values) for i, v in enumerate(cache.values))
        else:
            keys = copy(None)(cache.keys, questions.keys)
            values = copy(None)(cache.values, questions.values)
        # The rest of the row, ring included, still holds the sample before: hide it.
        positions = jnp.full((columns,), INVALID_POSITION, jnp.int32)
        positions = positions.at[:width].set(questions.positions[source])
        return Slots(
            cache=KVCache(
                keys=keys, values=values, positions=cache.positions.at[slot].set(positions)
            ),
            token=slots.token.at[slot].set(token),
            position=slots.position.at[slot].set(prefix_length + place),
            key=slots.key.at[slot].set(key),
            count=slots.count.at[slot].set(0),
            limit=slots.limit.at[slot].set(limit),
            active=slots.active.at[slot].set(True),
        )

    return _constrain(jax.lax.fori_loop(0, number, one, slots))


def grow(slots: Slots, ring: int, more: int, column: Int[Array, ""]) -> Slots:
    """Appends `more` empty columns to the ring of `ring` columns.

    The ring is cut at its oldest column, `column`, so that its columns are in the order in which
    they were written and the next step writes into the first of the new columns:

        7 8 | 5 6        column 2  ->  5 6 7 8 | - -        next column 4
    """
    first = slots.cache.length - ring

    def widen(x, axis, fill):
        question, old = jnp.split(x, [first], axis=axis)
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, more)
        old = jnp.pad(jnp.roll(old, -column, axis=axis), pad, constant_values=fill)
        return jnp.concatenate([question, old], axis=axis)

    cache = slots.cache
    cache = KVCache(
        keys=jax.tree.map(lambda k: widen(k, k.ndim - 1, 0), cache.keys),
        values=jax.tree.map(lambda v: widen(v, v.ndim - 2, 0), cache.values),
        positions=widen(cache.positions, 1, INVALID_POSITION),
    )
    return _constrain(dataclasses.replace(slots, cache=cache))


def read(
    params: models.Params, config: models.ModelConfig, prefix: KVCache | None, slots: Slots
) -> tuple[KVCache, Float[Array, "slots vocab"]]:
    """Reads the next token of every slot: the model's part of a step.

    Returns:
      Keys and values of the tokens, one column per slot; and the logits that follow them.
    """
    caches = (slots.cache,) if prefix is None else (prefix, slots.cache)
    out = models.forward(
        params, config, slots.token[:, None], slots.position[:, None], caches=caches
    )
    return out.block, models.logits(params, config, out.hidden[:, 0])


def write(
    sampling: filters.Sampling,
    eos_ids: tuple[int, ...],
    slots: Slots,
    block: KVCache,
    logits: Float[Array, "slots vocab"],
    column: Int[Array, ""],
) -> tuple[Slots, Int[Array, " slots"], Float[Array, " slots"]]:
    """Draws the next token of every active slot, and stores the keys and values that were read.

    Args:
      sampling: temperature and filters.
      eos_ids: tokens that end a sample.
      slots: state of the slots.
      block: keys and values that `read` returns.
      logits: logits that `read` returns.
      column: column of the cache to which `block` is written.

    Returns:
      The new state; tokens, `NO_TOKEN` where a slot was not active; and log p(token).
    """
    keys = jax.vmap(jax.random.fold_in)(slots.key, slots.count)
    tokens, logprobs = filters.draw(sampling, logits, keys, slots.active)
    if isinstance(slots.cache.keys, tuple):
        # Every read of the cache must precede the write, or the compiler copies the cache. No token
        # is negative, but the compiler does not know this and waits for the last of them.
        column = column + jnp.minimum(tokens.min(), 0)
    emitted = jnp.where(slots.active, tokens, NO_TOKEN)
    count = slots.count + slots.active
    is_eos = functools.reduce(
        jnp.logical_or, [tokens == e for e in eos_ids], jnp.zeros_like(slots.active)
    )
    slots = dataclasses.replace(
        slots,
        cache=kv_cache.write(slots.cache, block, column),
        token=tokens,
        position=slots.position + 1,
        count=count,
        active=slots.active & ~is_eos & (count < slots.limit),
    )
    return _constrain(slots), emitted, logprobs


def decode(
    params: models.Params,
    config: models.ModelConfig,
    sampling: filters.Sampling,
    eos_ids: tuple[int, ...],
    steps: int,
    ring: int,
    prefix: KVCache | None,
    slots: Slots,
    column: Int[Array, ""],
    keep: Bool[Array, " slots"],
) -> tuple[Slots, Int[Array, "steps slots"], Float[Array, "steps slots"]]:
    """Samples up to `steps` tokens in every active slot: `read` and `write` in turn.

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      sampling: temperature and filters.
      eos_ids: tokens that end a sample.
      steps: number of tokens.
      ring: columns of the ring, the last ones of the cache.
      prefix: cache that all slots share; None if the prefix is empty.
      slots: state of the slots.
      column: ring column of the first step.
      keep: False for slots that become inactive before the first step.

    Returns:
      The new state; tokens, `NO_TOKEN` where a slot was not active; and log p(token).
    """
    slots = dataclasses.replace(slots, active=slots.active & keep)
    first = slots.cache.length - ring

    def step(slots, t):
        block, logits = read(params, config, prefix, slots)
        at = first + (column + t) % ring
        slots, tokens, logprobs = write(sampling, eos_ids, slots, block, logits, at)
        return slots, (tokens, logprobs)

    slots, (tokens, logprobs) = jax.lax.scan(step, slots, jnp.arange(steps))
    return slots, tokens, logprobs


def prepare_params(params: models.Params, config: models.ModelConfig) -> models.Params:
    """Returns the parameters in the dtypes in which the sampler reads them.

    Products round their weights to the activations' dtype, or the config asks for int8. Rounding
    the weights once, in advance, saves reading them in full at every step. Norms are computed in
    float32 and keep their scales.
    """
    if config.int8_weights:
        return jax.jit(int8.quantize)(params)

    def rounded(path, leaf):
        is_scale = path[-1].key.endswith("norm")
        return leaf if is_scale or leaf.dtype == config.dtype else leaf.astype(config.dtype)

    return jax.tree_util.tree_map_with_path(rounded, params)

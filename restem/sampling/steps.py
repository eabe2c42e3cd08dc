"""What the sampler computes on the device: prefill, fork, decode. Pure functions.

A *slot* is a row of the decode batch. Its cache has two parts: columns for the question, written
once when a sample takes the slot, and a ring of columns for sampled tokens. At every step all slots
write into the same ring column, whatever they hold and whenever they started, so a step updates the
cache with one contiguous write. With a ring of 4 columns and a sample B that takes slot 1 at step 2
(positions in the row; - holds nothing):

                  question   ring                 next column
    step 2  slot 0   5 6 7    8 9 - -      2
            slot 1   5 6 -    - - - -             (just taken: every ring column is hidden)
    step 4  slot 0   5 6 7    8 9 10 11    0
            slot 1   5 6 -    - - 7 8
    step 5  slot 0   5 6 7    12 9 10 11   1      (position 8 is gone: at most 4 tokens a sample)
            slot 1   5 6 -    9 - 7 8

The last token of the question is not prefilled: it is the first one a slot reads, so that the first
sampled token comes out of the same program as all others.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from restem import models
from restem.models import int8, kv_cache, sharding
from restem.models.kv_cache import INVALID_POSITION, KVCache
from restem.sampling import filters

NO_TOKEN = -1
"""Stands where a slot sampled nothing."""


@flax.struct.dataclass
class Slots:
    """The rows of the decode batch. `AXES` names the axes of the arrays."""

    cache: KVCache
    """Question columns, then the ring."""
    token: jax.Array
    """[slots] int32, the token that is read next."""
    position: jax.Array
    """[slots] int32, its position."""
    key: jax.Array
    """[slots] PRNG keys of the samples; step t uses fold_in(key, t)."""
    count: jax.Array
    """[slots] int32, tokens sampled so far."""
    limit: jax.Array
    """[slots] int32, tokens at which the sample is cut off."""
    active: jax.Array
    """[slots] bool, whether the slot holds an unfinished sample."""


AXES = {
    "keys": ("layers", "batch", "kv_heads", "head", "cache_length"),
    "values": ("layers", "batch", "kv_heads", "cache_length", "head"),
    "positions": ("batch", "cache_length"),
    "rows": ("batch",),
}
"""Logical axes, which the rules of `restem.partitioning` lay on a mesh. A prefix has no "batch"; a
cache in a tuple of layers no "layers"."""


def _constrain_cache(cache: KVCache) -> KVCache:
    is_tuple = isinstance(cache.keys, tuple)
    keep = lambda axes: tuple(
        a
        for a in axes
        if not (a == "layers" and is_tuple) and not (a == "batch" and cache.is_prefix)
    )
    put = lambda name, tree: jax.tree.map(lambda a: sharding.constrain(a, keep(AXES[name])), tree)
    return KVCache(
        keys=put("keys", cache.keys),
        values=put("values", cache.values),
        positions=put("positions", cache.positions),
    )


def _constrain(slots: Slots) -> Slots:
    rows = {
        name: sharding.constrain(getattr(slots, name), AXES["rows"])
        for name in ("token", "position", "key", "count", "limit", "active")
    }
    return Slots(cache=_constrain_cache(slots.cache), **rows)


def empty_slots(
    config: models.ModelConfig, slots: int, question: int, ring: int, *, unstacked: bool
) -> Slots:
    """Slots that hold nothing, with `question` and `ring` columns."""
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
    params: models.Params, config: models.ModelConfig, tokens: jax.Array, length: jax.Array
) -> KVCache:
    """Keys and values of the prefix, which every row shares.

    Args:
      tokens: [columns] int32, padded at the end.
      length: scalar int32, how many of them are tokens.
    """
    at = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    block = models.forward(params, config, tokens[None], at[None]).block
    positions = jnp.where(at < length, at, INVALID_POSITION)
    return _constrain_cache(
        kv_cache.as_prefix(dataclasses.replace(block, positions=positions[None]))
    )


def prefill_questions(
    params: models.Params,
    config: models.ModelConfig,
    prefix: KVCache | None,
    prefix_length: jax.Array,
    tokens: jax.Array,
    lengths: jax.Array,
) -> KVCache:
    """Keys and values of several questions, each behind the prefix.

    Args:
      tokens: [questions, columns] int32, padded at the end.
      lengths: [questions] int32.
    """
    at = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(prefix_length + at, tokens.shape)
    caches = () if prefix is None else (prefix,)
    block = models.forward(params, config, tokens, positions, caches=caches).block
    positions = jnp.where(at < lengths[:, None], positions, INVALID_POSITION)
    return _constrain_cache(dataclasses.replace(block, positions=positions))


def fork(
    slots: Slots,
    questions: KVCache,
    seed: jax.Array,
    prefix_length: jax.Array,
    rows: jax.Array,
    number: jax.Array,
) -> Slots:
    """Puts samples into slots.

    Args:
      slots: the state.
      questions: prefilled, [questions] rows, as `prefill_questions` gives them (stacked layers).
      seed: PRNG key of the call.
      rows: [7, capacity] int32; a column a sample: its slot, its row in `questions`, its first
        token to read, that token's place in the question, its problem key (the bits of a uint32),
        its sample index, its cut-off.
      number: scalar int32, how many columns of `rows` count.
    """
    width = questions.length
    columns = slots.cache.length

    def one(i, slots):
        slot, source, token, place, problem, sample, limit = rows[:, i]
        key = jax.random.fold_in(jax.random.fold_in(seed, problem.astype(jnp.uint32)), sample)

        def copy(layer):
            """How the question goes from row `source` into the slot's first columns."""

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


def grow(slots: Slots, ring: int, more: int, column: jax.Array) -> Slots:
    """Appends `more` empty columns to the ring of `ring` columns.

    The ring is opened where it is oldest, at `column`, so that what it holds lies in the order in
    which it was written and the next step writes into the first of the new columns:

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
) -> tuple[KVCache, jax.Array]:
    """Reads the next token of every slot: the model's part of a step.

    Returns:
      Its keys and values, one column a slot; and logits [slots, vocab] float32.
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
    logits: jax.Array,
    column: jax.Array,
) -> tuple[Slots, jax.Array, jax.Array]:
    """Draws the token that follows in every active slot, and keeps what was read.

    Args:
      slots: the state.
      block: as `read` gives it.
      logits: likewise.
      column: scalar int32, the column of the cache that `block` goes to.

    Returns:
      The state; tokens [slots] int32 with `NO_TOKEN` where a slot was not active; and
      log p(token) [slots] float32.
    """
    keys = jax.vmap(jax.random.fold_in)(slots.key, slots.count)
    tokens, logprobs = filters.draw(sampling, logits, keys, slots.active)
    if isinstance(slots.cache.keys, tuple):
        # Every read of the cache has to come before the write, or the compiler copies it. No
        # token is negative, but the compiler cannot know and waits for the last of them.
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
    column: jax.Array,
    keep: jax.Array,
) -> tuple[Slots, jax.Array, jax.Array]:
    """Samples up to `steps` tokens in every active slot: `read` and `write` in turn.

    Args:
      ring: columns of the ring, the last ones of the cache.
      prefix: shared by all slots.
      slots: the state.
      column: scalar int32, the ring column of the first step.
      keep: [slots] bool; slots where it is False are given up first.

    Returns:
      The state; tokens [steps, slots] int32 with `NO_TOKEN` where a slot was not active; and
      log p(token) [steps, slots] float32.
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
    """Parameters as the sampler reads them, in int8 where the config says so.

    Every product rounds its weights to the activations' dtype: they are rounded once, and not read
    in full at every step. Norms, which are computed in float32, keep their scales.
    """
    if config.int8_weights:
        return jax.jit(int8.quantize)(params)

    def rounded(path, leaf):
        is_scale = path[-1].key.endswith("norm")
        return leaf if is_scale or leaf.dtype == config.dtype else leaf.astype(config.dtype)

    return jax.tree_util.tree_map_with_path(rounded, params)

"""The device's part of sampling: prefill and decode, as pure functions; see also `insertion`.

A *slot* is a row of the decode batch. Its keys and values are in two places: in the cache of its
width class, which holds the question and is written once when a sample is inserted; and in a *ring*
of columns for sampled tokens, which all slots have. At every step all slots write into the same
ring column, whenever their samples started, so a step updates the ring with one contiguous write.
With a ring of 4 columns and a sample that is inserted into slot 1 at step 2 (positions in the row;
- holds nothing that the sample may see):

                  question   ring                 next column
    step 2  slot 0   5 6 7    8 9 - -      2
            slot 1   5 6 -    - - - -             (just inserted: every ring column is hidden)
    step 4  slot 0   5 6 7    8 9 10 11    0
            slot 1   5 6 -    - - 7 8
    step 5  slot 0   5 6 7    12 9 10 11   1      (position 8 is gone: at most 4 tokens per sample)
            slot 1   5 6 -    9 - 7 8

The ring needs no array of positions: they follow from the next column and from how many tokens a
sample has read (`ring_positions`).

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
from jaxtyping import Array, Bool, Float, Int

from restem import models
from restem.models import int8, kv_cache, lora, sharding
from restem.models.kv_cache import INVALID_POSITION, GroupedCache, KVCache
from restem.sampling import filters

NO_TOKEN = -1
"""Marks a slot that sampled nothing."""

CHUNK_ROWS = "chunks"
"""Logical name of the rows of prefilled questions. They are whole on every part that slots are
split over: gathered once, and not each time that some of them are inserted."""

ROW_AXES = ("batch",)
"""Logical axes of the arrays with one entry per slot; `kv_cache.axes` names those of the caches."""


@flax.struct.dataclass
class Rows:
    """State of the samples in the slots.

    In trees that describe slots, such as `plan` makes, fields are what describes an array.
    """

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


@flax.struct.dataclass
class Slots:
    """The decode batch."""

    questions: GroupedCache
    """Keys and values of the questions, by width class."""
    ring: KVCache
    """Keys and values of sampled tokens; positions are left empty, [slots, 0]."""
    rows: Rows
    """State of the samples."""


def constrain_rows(rows: Rows) -> Rows:
    """Holds the state of the samples to its layout on the mesh in force; returns it."""
    return jax.tree.map(lambda x: sharding.constrain(x, ROW_AXES), rows)


def constrain_questions(questions: GroupedCache) -> GroupedCache:
    """Holds the caches of the width classes to their layout on the mesh in force."""
    return dataclasses.replace(questions, groups=tuple(map(kv_cache.constrain, questions.groups)))


def _without_positions(ring: KVCache) -> KVCache:
    """Returns a ring in the form in which `Slots` holds it."""
    return kv_cache.constrain(dataclasses.replace(ring, positions=ring.positions[:, :0]))


def empty_slots(
    config: models.ModelConfig,
    widths: tuple[int, ...],
    sizes: tuple[int, ...],
    ring: int,
    *,
    parts: int = 1,
    unstacked: bool,
    dtype: Any = None,
    time_minor: bool = True,
) -> Slots:
    """Returns slots without samples.

    Args:
      config: decoder of the policy.
      widths: columns for the question, by width class.
      sizes: slots of each class.
      ring: columns for sampled tokens.
      parts: parts of the mesh over which slots are split.
      unstacked: whether caches are tuples of layers.
      dtype: of keys and values; None is that of the activations.
      time_minor: whether time is the minor dimension of the ring's keys.
    """
    stack = kv_cache.unstack if unstacked else lambda cache: cache
    empty = functools.partial(kv_cache.empty, config, dtype=dtype)
    slots = sum(sizes)
    zeros = lambda: jnp.zeros((slots,), jnp.int32)
    groups = (stack(empty(size, width)) for size, width in zip(sizes, widths, strict=True))
    return Slots(
        questions=constrain_questions(GroupedCache(tuple(groups), parts)),
        ring=_without_positions(stack(empty(slots, ring, time_minor=time_minor))),
        rows=constrain_rows(
            Rows(
                token=zeros(),
                position=zeros(),
                key=jax.random.split(jax.random.key(0), slots),
                count=zeros(),
                limit=zeros(),
                active=jnp.zeros((slots,), bool),
            )
        ),
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
    tokens: Int[Array, "questions length"],
    lengths: Int[Array, " questions"],
    *,
    chunk: int | None = None,
    chunks: int | None = None,
) -> KVCache:
    """Returns the keys and values of several questions, each behind the prefix.

    The rows of the result are chunks of questions, so that questions of every width make arrays of
    one shape and one program inserts all of them. Two questions of up to 4 tokens with chunk=2 and
    chunks=5:

        question   a b c -   d e - -         chunk   a b   c -   d e   - -   - -

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      prefix: cache of the prefix; None if it is empty.
      prefix_length: tokens of the prefix.
      tokens: token ids, padded at the end.
      lengths: tokens of each question.
      chunk: columns of a chunk, a divisor of `length`; None is `length`.
      chunks: number of chunks of the result; None is as many as there are.

    Returns:
      A cache of [chunks] rows and [chunk] columns.
    """
    chunk = chunk or tokens.shape[1]
    at = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(prefix_length + at, tokens.shape)
    caches = () if prefix is None else (prefix,)
    block = models.forward(params, config, tokens, positions, caches=caches).block
    positions = jnp.where(at < lengths[:, None], positions, INVALID_POSITION)
    block = kv_cache.chunked(dataclasses.replace(block, positions=positions), chunk)
    block = kv_cache.lengthen(block, chunks or block.positions.shape[0])
    return kv_cache.constrain(block, CHUNK_ROWS)


def ring_positions(rows: Rows, column: Int[Array, ""], length: int) -> Int[Array, "slots length"]:
    """Returns the position of every ring column in its row, for a step that will write `column`.

    A column was written `age` steps ago, by the sample that is in the slot now if that has read as
    many tokens. With a ring of 4, next column 1, a sample that has read 3 tokens and now reads
    position 9:

        column    0 1 2 3
        age       1 4 3 2
        position  8 - 6 7
    """
    age = (column - 1 - jnp.arange(length, dtype=jnp.int32)) % length + 1
    positions = rows.position[:, None] - age
    return jnp.where(age <= rows.count[:, None], positions, INVALID_POSITION)


def read(
    params: models.Params,
    config: models.ModelConfig,
    prefix: KVCache | None,
    slots: Slots,
    column: Int[Array, ""],
) -> tuple[KVCache, Float[Array, "slots vocab"]]:
    """Reads the next token of every slot: the model's part of a step.

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      prefix: cache that all slots share; None if the prefix is empty.
      slots: the decode batch.
      column: ring column that this step will write.

    Returns:
      Keys and values of the tokens, one column per slot; and the logits that follow them.
    """
    rows = slots.rows
    length = jax.tree.leaves(slots.ring.values)[0].shape[-2]
    ring = dataclasses.replace(slots.ring, positions=ring_positions(rows, column, length))
    questions = slots.questions
    own = questions.groups[0] if len(questions.groups) == 1 else questions
    caches = (own, ring) if prefix is None else (prefix, own, ring)
    out = models.forward(params, config, rows.token[:, None], rows.position[:, None], caches=caches)
    return out.block, models.logits(params, config, out.hidden[:, 0])


def write(
    drawing: filters.Drawing,
    eos_ids: tuple[int, ...],
    ring: KVCache,
    rows: Rows,
    block: KVCache,
    logits: Float[Array, "slots vocab"],
    column: Int[Array, ""],
) -> tuple[KVCache, Rows, Int[Array, " slots"], Float[Array, " slots"]]:
    """Draws the next token of every active slot, and stores the keys and values that were read.

    Args:
      drawing: temperature and filters.
      eos_ids: tokens that end a sample.
      ring: keys and values of sampled tokens.
      rows: state of the samples.
      block: keys and values that `read` returns.
      logits: logits that `read` returns.
      column: ring column to which `block` is written.

    Returns:
      The new ring and rows; tokens, `NO_TOKEN` where a slot was not active; and log p(token).
    """
    keys = jax.vmap(jax.random.fold_in)(rows.key, rows.count)
    tokens, logprobs = filters.draw(drawing, logits, keys, rows.active)
    if ring.is_unstacked:
        # Every read of the ring must precede the write, or the compiler copies the ring. No token
        # is negative, but the compiler does not know this and waits for the last of them.
        column = column + jnp.minimum(tokens.min(), 0)
    emitted = jnp.where(rows.active, tokens, NO_TOKEN)
    count = rows.count + rows.active
    is_eos = functools.reduce(
        jnp.logical_or, [tokens == e for e in eos_ids], jnp.zeros_like(rows.active)
    )
    block = dataclasses.replace(block, positions=block.positions[:, :0])
    rows = dataclasses.replace(
        rows,
        token=tokens,
        position=rows.position + 1,
        count=count,
        active=rows.active & ~is_eos & (count < rows.limit),
    )
    return kv_cache.write(ring, block, column), constrain_rows(rows), emitted, logprobs


def decode(
    params: models.Params,
    config: models.ModelConfig,
    drawing: filters.Drawing,
    eos_ids: tuple[int, ...],
    steps: int,
    prefix: KVCache | None,
    slots: Slots,
    column: Int[Array, ""],
    keep: Bool[Array, " slots"],
) -> tuple[KVCache, Rows, Int[Array, "steps slots"], Float[Array, "steps slots"]]:
    """Samples up to `steps` tokens in every active slot: `read` and `write` in turn.

    Args:
      params: parameters of the policy.
      config: decoder of the policy.
      drawing: temperature and filters.
      eos_ids: tokens that end a sample.
      steps: number of tokens.
      prefix: cache that all slots share; None if the prefix is empty.
      slots: the decode batch.
      column: ring column of the first step.
      keep: False for slots that become inactive before the first step.

    Returns:
      The new ring and rows; tokens, `NO_TOKEN` where a slot was not active; and log p(token).
    """
    rows = dataclasses.replace(slots.rows, active=slots.rows.active & keep)
    length = jax.tree.leaves(slots.ring.values)[0].shape[-2]

    def step(carry, t):
        ring, rows = carry
        at = (column + t) % length
        now = dataclasses.replace(slots, ring=ring, rows=rows)
        block, logits = read(params, config, prefix, now, at)
        ring, rows, *drawn = write(drawing, eos_ids, ring, rows, block, logits, at)
        return (ring, rows), drawn

    if steps == 1:
        (ring, rows), drawn = step((slots.ring, rows), 0)
        return ring, rows, drawn[0][None], drawn[1][None]
    (ring, rows), (tokens, logprobs) = jax.lax.scan(step, (slots.ring, rows), jnp.arange(steps))
    return ring, rows, tokens, logprobs


def prepare_params(params: models.Params, config: models.ModelConfig) -> models.Params:
    """Returns the parameters merged with their adapters, in the dtypes the sampler reads.

    Products round their weights to the activations' dtype, or the config asks for int8. Rounding
    the weights once, in advance, saves reading them in full at every step. Norms are computed in
    float32 and keep their scales. Matrices that are in int8 already are read as they are, with
    their adapters beside them. Leaves that stay as they are are not copied.
    """
    is_adapted = lambda leaf: isinstance(leaf, lora.Adapted)
    leaves, tree = jax.tree.flatten(params, is_leaf=is_adapted)
    # Only what changes: a program that returned the other leaves as well would copy them.
    changing = {
        str(i): leaf
        for i, leaf in enumerate(leaves)
        if is_adapted(leaf) and not isinstance(leaf.base, int8.Int8)
    }
    if changing:
        merged = jax.jit(lora.merge)(changing)
        params = jax.tree.unflatten(
            tree, [merged.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        )
    if any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(params)):
        return params
    if config.int8_weights:
        return jax.jit(int8.quantize)(params)

    def rounded(path, leaf):
        is_scale = path[-1].key.endswith("norm")
        return leaf if is_scale or leaf.dtype == config.dtype else leaf.astype(config.dtype)

    return jax.tree_util.tree_map_with_path(rounded, params)

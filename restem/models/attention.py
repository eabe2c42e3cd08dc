"""Attention over several sets of keys at once, with one softmax.

A row of the sampler sees three sets: the prefix shared by all rows, the row's own cache, and the
tokens of the current block. A packed training row sees two: the prefix and its own block.
Concatenating the sets would copy them at every step and would give the prefix a batch dimension.
Instead each set is scored separately and one softmax is taken over all scores:

    m = max_i s_i,    out = sum_i exp(s_i - m) v_i / sum_i exp(s_i - m)

The result is exact, because a softmax does not depend on how its logits are split into arrays.

Letters of the shapes in this file:

    b  row of the batch            d  dimension of a head
    t  query position              k  key-value head
    s  key position                g  query head within the group of its key-value head
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from restem.models import sharding
from restem.models.config import ModelConfig
from restem.models.dense import product_by_head
from restem.models.query_blocks import MOST_SCORES, MOST_SCORES_ON_CPU, query_block

# Finite, so that a query that sees no key returns a mean of values instead of NaN.
MASKED = -1e30
ATTENTION = "attention"
"""Name by which a backward pass that keeps products finds results of attention in blocks."""

IsLocal = Bool[Array, ""] | bool
"""Whether the layer has the sliding window: traced in a scan over layers, static in a loop."""


@flax.struct.dataclass
class Queries:
    """Queries of one layer."""

    vectors: Float[Array, "batch length heads head_dim"]
    positions: Int[Array, "batch length"]
    """Position of each query's token in its text."""
    segments: Int[Array, "batch length"] | None = None
    """A query sees only keys of its own segment; None if no set of keys has segments."""


@flax.struct.dataclass
class Keys:
    """One set of keys and values of one layer.

    `batch` is missing from a shared set, which every row of the batch attends to.
    """

    keys: Float[Array, "*batch kv_heads _ _"]
    """[..., head_dim, length] where time is the minor dimension, otherwise [..., length, head_dim].
    """
    values: Float[Array, "*batch kv_heads length head_dim"]
    positions: Int[Array, "*batch length"]
    segments: Int[Array, "batch length"] | None = None
    """A query sees only keys of its own segment; None means that no key is hidden by segment."""
    time_minor: bool = flax.struct.field(pytree_node=False, default=True)
    """Whether time is the minor dimension of the keys; see `kv_cache.KVCache`."""

    @property
    def is_shared(self) -> bool:
        """Whether the set has no batch dimension."""
        return self.keys.ndim == 3


@flax.struct.dataclass
class GroupedKeys:
    """Keys and values of groups of rows; the groups differ in length.

    Rows of different lengths then need not be padded to the longest. The batch consists of `parts`
    equal parts, each on its own devices, and the rows of a group are consecutive in every part:

        parts=2, groups of 2 and 4 rows      row    0 1 2 | 3 4 5
                                             group  0 1 1 | 0 1 1
    """

    groups: tuple[Keys, ...]
    """Keys of each group, with its rows as the batch."""
    parts: int = flax.struct.field(pytree_node=False, default=1)
    """Parts of the mesh over which rows are split."""


def visible(
    query_positions: Int[Array, "batch queries"],
    query_segments: Int[Array, "batch queries"] | None,
    keys: Keys,
    *,
    window: int | None,
    is_local: IsLocal,
) -> Bool[Array, "#batch queries keys"]:
    """Returns which keys each query sees: those at or before its position, in its segment.

    Example: a packed row has two segments behind a prefix of 2 tokens, and one column of padding
    (segment 0). Its queries see these of its own keys:

        token     a b c   d e f   .
        position  2 3 4   2 3 4   0
        segment   1 1 1   2 2 2   0

                  keys  a b c d e f .
        query a         x . . . . . .
              b         x x . . . . .
              c         x x x . . . .      with window=2:  . x x . . . .
              d         . . . x . . .
              e         . . . x x . .
              f         . . . x x x .                      . . . . x x .
              .         . . . . . . x

    Padding sees itself, so no softmax is empty. The prefix's keys have no segments: every query
    sees all of them, or all within its window.
    """
    key_positions = keys.positions if keys.positions.ndim == 2 else keys.positions[None]
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    mask = distance >= 0
    if keys.segments is not None:
        assert query_segments is not None
        mask &= query_segments[:, :, None] == keys.segments[:, None, :]
    if window is not None:
        mask &= (distance < window) | jnp.logical_not(is_local)
    return mask


def attend(
    config: ModelConfig,
    queries: Queries,
    sets: Sequence[Keys | GroupedKeys],
    is_local: IsLocal,
) -> Float[Array, "batch length heads head_dim"]:
    """Attends with `queries` to all `sets` of keys under one softmax.

    Args:
      config: the decoder; `query_block` says how many queries are scored at once.
      queries: queries, already multiplied by `query_scale`.
      sets: the keys and values to attend to; groups together have the rows of the batch.
      is_local: whether this layer has the sliding window.

    Returns:
      The weighted means of the values, in the dtype of the queries.
    """
    block = config.query_block or _block_that_fits(queries, sets)
    length = queries.positions.shape[1]
    parts = sharding.parts("length")
    is_even = length % block == 0 and block % parts == 0 if block else True
    if block is None or length <= block or (parts > 1 and not is_even):
        return _attend_at_once(config, queries, sets, is_local)[0]
    # A custom gradient takes arrays: those that have a gradient, and the others.
    arrays, structure = jax.tree.flatten((tuple(sets), is_local))
    is_real = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in arrays]
    real = [x if r else None for x, r in zip(arrays, is_real, strict=True)]
    other = [None if r else jnp.asarray(x) for x, r in zip(arrays, is_real, strict=True)]

    def of_part(start, end, block):
        vectors, *tokens = jax.tree.map(
            lambda x: x[:, start:end], (queries.vectors, queries.positions, queries.segments)
        )
        return _attend_in_blocks(config, block, structure, vectors, tokens, real, other)

    whole = length // block * block
    if whole == length:
        return of_part(0, length, block)
    return jnp.concatenate((of_part(0, whole, block), of_part(whole, length, length - whole)), 1)


def _block_that_fits(queries: Queries, sets: Sequence[Keys | GroupedKeys]) -> int | None:
    """Returns how many queries of all parts attend at a time; None for all at once."""
    rows, length, heads, _ = queries.vectors.shape
    groups = (x.groups if isinstance(x, GroupedKeys) else (x,) for x in sets)
    parts = sharding.parts("length")
    block = query_block(
        rows=-(-rows // sharding.parts("batch")),
        heads=-(-heads // sharding.parts("heads")),
        queries=length // parts,
        keys=sum(max(keys.positions.shape[-1] for keys in of_set) for of_set in groups),
        most=MOST_SCORES_ON_CPU if sharding.on_one_cpu() else MOST_SCORES,
    )
    return block and block * parts


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend_in_blocks(config, block, structure, vectors, tokens, real, other):
    """Does what `attend` does, `block` queries at a time, also in the backward pass.

    The forward pass keeps, for each query, its result and the logarithm of the sum of exponentials.
    With these the backward pass of a block computes the weights w once more, without a maximum and
    a sum (Dao et al. 2022, algorithm 4). With o = w v, and g the gradient of o, the gradient of the
    scores is w (g v - g o): that of g (w v) - (g o) sum(w) where g and o are constants.

    Args:
      config: the decoder.
      block: queries of a block; a divisor of the length.
      structure: structure of (sets, is_local).
      vectors: queries [batch, length, heads, head_dim].
      tokens: positions and segments of the queries [batch, length].
      real: leaves of (sets, is_local) that have a gradient, None in the place of others.
      other: the other leaves.

    Returns:
      The weighted means [batch, length, heads, head_dim].
    """
    return _blocks_forward(config, block, structure, vectors, tokens, real, other)[0]


def _blocks_forward(config, block, structure, vectors, tokens, real, other):
    parts = sharding.parts("length")
    sets, is_local = _whole(structure, real, other)

    def of_block(arrays):
        vectors, tokens = arrays
        return _attend_at_once(config, Queries(vectors, *tokens), sets, is_local)

    blocks = jax.tree.map(lambda x: _blocks(x, block, parts), (vectors, tokens))
    out, norm = (_join_blocks(x, parts) for x in jax.lax.map(of_block, blocks))
    out, norm = checkpoint_name(out, ATTENTION), checkpoint_name(norm, ATTENTION)
    return out, (vectors, tokens, real, other, out, norm)


def _blocks_backward(config, block, structure, kept, g):
    vectors, tokens, real, other, out, norm = kept
    parts = sharding.parts("length")
    g = g.astype(jnp.float32)
    g_out = jnp.sum(g * out.astype(jnp.float32), axis=-1)

    def of_block(sums, arrays):
        vectors, tokens, g, g_out, norm = arrays

        def weigh(vectors, real):
            sets, is_local = _whole(structure, real, other)
            scored = _score_sets(config, Queries(vectors, *tokens), sets, is_local)
            return _weigh(scored, _heads_first(norm, config))

        _, backward = jax.vjp(weigh, vectors, real)
        of_vectors, of_real = backward((-_heads_first(g_out, config), _heads_first(g, config)))
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, of_real), of_vectors

    blocks = jax.tree.map(lambda x: _blocks(x, block, parts), (vectors, tokens, g, g_out, norm))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), real)
    sums, of_vectors = jax.lax.scan(of_block, zeros, blocks)
    of_real = jax.tree.map(lambda a, x: a.astype(x.dtype), sums, real)
    return _join_blocks(of_vectors, parts), None, of_real, None


_attend_in_blocks.defvjp(_blocks_forward, _blocks_backward)


def _whole(structure, real, other):
    """Returns the sets of keys, and whether the layer has the sliding window, from their leaves."""
    leaves = [y if x is None else x for x, y in zip(real, other, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def _blocks(x: jax.Array, block: int, parts: int) -> jax.Array:
    """Cuts x [batch, length, ...] into blocks [length / block, batch, block, ...].

    Each block has queries of every part into which the length is split, so that all devices work on
    it. With blocks of 4:

        position     0 1 2 3 4 5 6 7      parts=1  0 1 2 3 | 4 5 6 7
                                          parts=2  0 1 4 5 | 2 3 6 7
    """
    batch, length, *rest = x.shape
    x = x.reshape(batch, parts, length // block, block // parts, *rest)
    return jnp.moveaxis(x, 2, 0).reshape(length // block, batch, block, *rest)


def _join_blocks(x: jax.Array, parts: int) -> jax.Array:
    """Inverts `_blocks`."""
    count, batch, block, *rest = x.shape
    x = x.reshape(count, batch, parts, block // parts, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(batch, count * block, *rest)


def _attend_at_once(
    config: ModelConfig, queries: Queries, sets: Sequence[Keys | GroupedKeys], is_local: IsLocal
) -> tuple[Float[Array, "batch length heads head_dim"], Float[Array, "batch length heads"]]:
    """Does what `attend` does, for all queries at once.

    Returns:
      The weighted means, and log(sum_i exp(s_i)) over all scores of each query.
    """
    scored = _score_sets(config, queries, sets, is_local)
    top = functools.reduce(jnp.maximum, (x.top for x in scored))
    top = jax.lax.stop_gradient(top)  # cancels out of the result, so its gradient is zero
    total, out = _weigh(scored, top)
    out = (out / total[..., None]).astype(queries.vectors.dtype)
    return _heads_last(out), _heads_last(top + jnp.log(total))


def _heads_last(x: Float[Array, "b k g t *d"]) -> Float[Array, "b t heads *d"]:
    """Returns x [b, k, g, t, ...] with the dimensions of queries: [b, t, k * g, ...]."""
    x = jnp.moveaxis(x, 3, 1)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _heads_first(x: Float[Array, "b t heads *d"], config: ModelConfig) -> jax.Array:
    """Inverts `_heads_last`."""
    groups = x.reshape(*x.shape[:2], config.num_kv_heads, -1, *x.shape[3:])
    return jnp.moveaxis(groups, 1, 3)


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Scores of a set of keys, before the softmax."""

    top: Float[Array, "b k g t"]
    """Largest score of each query."""
    weigh: Callable[[Any], tuple[Any, Any]]
    """top [b, k, g, t] -> sum of w = exp(score - top) [b, k, g, t], and sum of w times the value
    [b, k, g, t, d]."""


def _score_sets(
    config: ModelConfig, queries: Queries, sets: Sequence[Keys | GroupedKeys], is_local: IsLocal
) -> list[_Scored]:
    """Scores queries against each set of keys."""
    return [_score(config, queries, keys, is_local) for keys in sets]


def _weigh(
    scored: Sequence[_Scored], top: Float[Array, "b k g t"]
) -> tuple[Float[Array, "b k g t"], Float[Array, "b k g t d"]]:
    """Returns what `_Scored.weigh` does, summed over sets."""
    total = out = jnp.zeros((), jnp.float32)
    for x in scored:
        of_set = x.weigh(top)
        total, out = total + of_set[0], out + of_set[1]
    return total, out


def _score(
    config: ModelConfig, queries: Queries, keys: Keys | GroupedKeys, is_local: IsLocal
) -> _Scored:
    """Scores queries against one set of keys."""
    if isinstance(keys, GroupedKeys):
        return _score_groups(config, queries, keys, is_local)
    query = queries.vectors
    batch, length, heads, head_dim = query.shape
    kv_heads = config.num_kv_heads
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    # For keys without a batch dimension the heads come first, so that the rows of the batch become
    # the rows of one matrix product per head. With the batch first, XLA would transpose the scores,
    # which takes longer than the product.
    shared = keys.is_shared
    dtype = jnp.promote_types(query.dtype, keys.keys.dtype)  # a CPU keeps caches in float32
    query = query.astype(dtype)
    query = jnp.transpose(query, (2, 0, 3, 1, 4) if shared else (0, 2, 3, 1, 4))
    s = product_by_head(query, keys.keys.astype(dtype), transposed=not keys.time_minor)
    if config.attention_softcap is not None:
        s = config.attention_softcap * jnp.tanh(s / config.attention_softcap)
    window = config.window if config.has_local_layers else None
    mask = visible(queries.positions, queries.segments, keys, window=window, is_local=is_local)
    s = jnp.where(mask[None, :, None] if shared else mask[:, None, None], s, MASKED)

    def rows_first(x):
        return jnp.swapaxes(x, 0, 1) if shared else x

    def weigh(top):
        p = jnp.exp(s - rows_first(top)[..., None])
        o = product_by_head(p.astype(dtype), keys.values.astype(dtype))
        return rows_first(p.sum(axis=-1)), rows_first(o)

    return _Scored(rows_first(s.max(axis=-1)), weigh)


def _score_groups(
    config: ModelConfig, queries: Queries, keys: GroupedKeys, is_local: IsLocal
) -> _Scored:
    """Scores the rows of each group against the keys of that group."""
    sizes = [group.positions.shape[0] for group in keys.groups]

    def split(x):
        return split_rows(x, sizes, keys.parts)

    def join(xs):
        return join_rows(xs, keys.parts)

    fields, structure = jax.tree.flatten(queries)
    of_groups = zip(*map(split, fields), strict=True)
    scored = [
        _score(config, jax.tree.unflatten(structure, fields), group, is_local)
        for fields, group in zip(of_groups, keys.groups, strict=True)
    ]

    def weigh(top):
        weighed = [x.weigh(t) for x, t in zip(scored, split(top), strict=True)]
        totals, outs = zip(*weighed, strict=True)
        return join(totals), join(outs)

    return _Scored(join([x.top for x in scored]), weigh)


def split_rows(x: jax.Array, sizes: Sequence[int], parts: int) -> list[jax.Array]:
    """Splits the rows of x [rows, ...] into groups of `sizes` rows; see `GroupedKeys`."""
    if len(sizes) == 1:
        return [x]
    ends = itertools.accumulate(size // parts for size in sizes)
    by_part = x.reshape(parts, -1, *x.shape[1:])
    groups = jnp.split(by_part, list(ends)[:-1], axis=1)
    return [group.reshape(-1, *x.shape[1:]) for group in groups]


def join_rows(groups: Sequence[jax.Array], parts: int) -> jax.Array:
    """Joins groups of rows, the inverse of `split_rows`."""
    if len(groups) == 1:
        return groups[0]
    by_part = [group.reshape(parts, -1, *group.shape[1:]) for group in groups]
    return jnp.concatenate(by_part, axis=1).reshape(-1, *groups[0].shape[1:])

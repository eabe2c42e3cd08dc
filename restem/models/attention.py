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
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem.models import sharding
from restem.models.config import ModelConfig, RopeScaling
from restem.models.dense import product_by_head

# Finite, so that a query that sees no key returns a mean of values instead of NaN.
MASKED = -1e30

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


@flax.struct.dataclass
class Rotary:
    """The rotary embedding of a block's tokens."""

    angles: Float[Array, "batch length half_rotary_dim"]
    """Angles in radians; 0 rotates nothing."""
    factor: Float[Array, ""] | float = 1.0
    """Factor of rotated dimensions (YaRN, LongRoPE)."""


def rotary_factor(config: ModelConfig) -> float:
    """Returns the factor of rotated queries and keys that the config's scaling calls for."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    if scaling.kind == "yarn":
        return 0.1 * math.log(scaling.factor) + 1
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_length))


def inverse_frequencies(
    config: ModelConfig, *, local: bool = False
) -> Float[Array, " half_rotary_dim"]:
    """Returns rotary frequencies in radians per position; `local` for sliding-window layers."""
    theta = config.rope_theta
    scaling = config.rope_scaling
    if local and config.rope_local_theta is not None:
        # Gemma 3 scales the frequencies of its global layers only.
        theta, scaling = config.rope_local_theta, None
    dim = config.head_dim if config.rotary_dim is None else config.rotary_dim
    exponent = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    frequencies = 1.0 / theta**exponent
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "longrope":
        return frequencies / jnp.asarray(scaling.short_factors, jnp.float32)
    if scaling.kind == "yarn":
        kept = 1 - _yarn_ramp(scaling, theta, dim)
        return (1 - kept) * frequencies / scaling.factor + kept * frequencies
    wavelength = 2 * math.pi / frequencies
    ratio = scaling.original_length / wavelength
    smooth = (ratio - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


def _yarn_ramp(scaling: RopeScaling, theta: float, dim: int) -> Float[Array, " half_rotary_dim"]:
    """Returns how far each frequency is scaled, from 0 to 1 (Peng et al. 2023, section 3.2)."""

    def dimension(turns: float) -> float:
        """Returns the dimension whose frequency turns this often in the original length."""
        return (
            dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
        )

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    return jnp.clip((jnp.arange(dim // 2, dtype=jnp.float32) - low) / width, 0.0, 1.0)


def rotate(
    x: Float[Array, "batch length heads head_dim"], rotary: Rotary
) -> Float[Array, "batch length heads head_dim"]:
    """Applies the rotary embedding (Su et al. 2021) in float32.

    Dimension i is paired with i + rotary_dim / 2, as in the Hugging Face layout of the weights;
    dimensions from `rotary_dim` on are left as they are.
    """
    angles = rotary.angles
    width = 2 * angles.shape[-1]
    if width < x.shape[-1]:
        rotated = rotate(x[..., :width], rotary)
        return jnp.concatenate([rotated, x[..., width:]], axis=-1)
    rotate_half = functools.partial(
        jax.lax.platform_dependent, cpu=_rotate_half_by_product, default=_rotate_half
    )
    repeat = functools.partial(jax.lax.platform_dependent, cpu=_repeat_by_product, default=_repeat)
    sin = repeat(jnp.sin(angles))[:, :, None, :]
    cos = repeat(jnp.cos(angles))[:, :, None, :]
    y = x.astype(jnp.float32)
    return ((y * cos + rotate_half(y) * sin) * rotary.factor).astype(x.dtype)


def _rotate_half(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
    """(low, high) -> (-high, low)."""
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-high, low], axis=-1)


def _repeat(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes 2*dim"]:
    """x -> (x, x)."""
    return jnp.concatenate([x, x], axis=-1)


# XLA's CPU backend concatenates one number at a time, and recomputes a sine for every head and
# layer that uses it. Products with matrices of zeros and ones are exact and avoid both.
def _rotate_half_by_product(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
    return x @ _rotate_half(jnp.eye(x.shape[-1], dtype=x.dtype))


def _repeat_by_product(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes 2*dim"]:
    return x @ _repeat(jnp.eye(x.shape[-1], dtype=x.dtype))


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
      config: the decoder; `query_block` bounds how many queries are scored at once.
      queries: queries, already multiplied by `query_scale`.
      sets: the keys and values to attend to; groups together have the rows of the batch.
      is_local: whether this layer has the sliding window.

    Returns:
      The weighted means of the values, in the dtype of the queries.
    """
    block = config.query_block
    length = queries.positions.shape[1]

    # Checkpointed: the backward pass recomputes the scores of one block at a time instead of
    # keeping those of all blocks.
    @jax.checkpoint
    def of_block(arrays):
        return _attend_at_once(config, Queries(*arrays), sets, is_local)

    parts = sharding.parts("length")
    is_even = length % block == 0 and block % parts == 0 if block else True
    if block is None or length <= block or (parts > 1 and not is_even):
        return _attend_at_once(config, queries, sets, is_local)
    arrays = (queries.vectors, queries.positions, queries.segments)
    whole = length // block * block
    cut = lambda x: _blocks(x[:, :whole], block, parts)
    out = _join_blocks(jax.lax.map(of_block, jax.tree.map(cut, arrays)), parts)
    if whole < length:
        rest = of_block(jax.tree.map(lambda x: x[:, whole:], arrays))
        out = jnp.concatenate((out, rest), axis=1)
    return out


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
) -> Float[Array, "batch length heads head_dim"]:
    """Does what `attend` does, for all queries at once."""
    scored = [_score(config, queries, keys, is_local) for keys in sets]
    top = functools.reduce(jnp.maximum, (x.top for x in scored))
    top = jax.lax.stop_gradient(top)  # cancels out of the result, so its gradient is zero
    total = out = jnp.zeros((), jnp.float32)
    for x in scored:
        of_set = x.weigh(top)
        total, out = total + of_set[0], out + of_set[1]
    out = (out / total[..., None]).astype(queries.vectors.dtype)
    return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(queries.vectors.shape)


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Scores of a set of keys, before the softmax."""

    top: Float[Array, "b k g t"]
    """Largest score of each query."""
    weigh: Callable[[Any], tuple[Any, Any]]
    """top [b, k, g, t] -> sum of w = exp(score - top) [b, k, g, t], and sum of w times the value
    [b, k, g, t, d]."""


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

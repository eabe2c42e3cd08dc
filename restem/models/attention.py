"""Attention over several sets of keys at once, with one softmax.

A row of the sampler sees three sets: the prefix that all rows share, its own question and tokens
in the cache, and the tokens of the current block. A packed training row sees two: the prefix and
its own block. Joining the arrays would copy them at every step and would give the prefix a batch
dimension; instead each set is scored by itself and the softmax is taken over all of them:

    m = max_i s_i,    out = sum_i exp(s_i - m) v_i / sum_i exp(s_i - m)

which is exact, since a softmax does not care in how many arrays its logits lie.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from restem.models.config import ModelConfig

# Finite, so that a row that sees nothing gives a mean of values and not NaN.
MASKED = -1e30


@flax.struct.dataclass
class Keys:
    """One set of keys and values of one layer."""

    keys: jax.Array
    """[batch?, kv_heads, head_dim, length]."""
    values: jax.Array
    """[batch?, kv_heads, length, head_dim]."""
    positions: jax.Array
    """[batch?, length] int32."""
    segments: jax.Array | None = None
    """[batch, length] int32: a query sees only keys of its own segment; None: every query may."""


def inverse_frequencies(config: ModelConfig, *, local: bool = False) -> jax.Array:
    """Rotary frequencies in radians a position, [head_dim / 2] float32."""
    theta = config.rope_theta
    scaling = config.rope_scaling
    if local and config.rope_local_theta is not None:
        # Gemma 3 stretches its global layers only.
        theta, scaling = config.rope_local_theta, None
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = 1.0 / theta**exponent
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelength = 2 * math.pi / frequencies
    ratio = scaling.original_length / wavelength
    smooth = (ratio - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotary embedding (Su et al. 2021) of x [batch, length, heads, head_dim].

    angles [batch, length, head_dim / 2] in radians. Dimension i is paired with i + head_dim / 2,
    as in the Hugging Face layout of the weights.
    """
    turn = functools.partial(jax.lax.platform_dependent, cpu=_turn_by_product, default=_turn)
    double = functools.partial(jax.lax.platform_dependent, cpu=_double_by_product, default=_double)
    sin = double(jnp.sin(angles))[:, :, None, :]
    cos = double(jnp.cos(angles))[:, :, None, :]
    y = x.astype(jnp.float32)
    return (y * cos + turn(y) * sin).astype(x.dtype)


def _turn(x: jax.Array) -> jax.Array:
    """(low, high) -> (-high, low)."""
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-high, low], axis=-1)


def _double(x: jax.Array) -> jax.Array:
    """x -> (x, x)."""
    return jnp.concatenate([x, x], axis=-1)


# XLA's CPU backend joins arrays one number at a time, and computes a sine anew for every head and
# layer that it is used in. Products with matrices of zeros and ones are exact and do neither.
def _turn_by_product(x: jax.Array) -> jax.Array:
    return x @ _turn(jnp.eye(x.shape[-1], dtype=x.dtype))


def _double_by_product(x: jax.Array) -> jax.Array:
    return x @ _double(jnp.eye(x.shape[-1], dtype=x.dtype))


def visible(
    query_positions: jax.Array,
    query_segments: jax.Array | None,
    keys: Keys,
    *,
    window: int | None,
    is_local: jax.Array | bool,
) -> jax.Array:
    """Which keys each query sees: [batch, queries, keys] bool.

    A packed row with two segments behind a prefix of 2 tokens, and padding (segment 0):

        position  2 3 4 2 3 4 5        query ->  a b c d e f .
        segment   1 1 1 2 2 2 0        sees      a ab abc d de def .

    Padding sees itself, so that no softmax is empty.
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
    query: jax.Array,
    query_positions: jax.Array,
    query_segments: jax.Array | None,
    sets: Sequence[Keys],
    is_local: jax.Array | bool,
) -> jax.Array:
    """One softmax of `query` over all `sets` of keys.

    Args:
      query: [batch, length, heads, head_dim], scaled.
      query_positions: [batch, length] int32.
      query_segments: [batch, length] int32, or None where no set has segments.
      sets: the keys to attend to.
      is_local: scalar bool, whether this layer has the sliding window.

    Returns:
      [batch, length, heads, head_dim].
    """
    block = config.query_block
    length = query.shape[1]
    if block is None or length <= block or length % block:
        return _attend(config, query, query_positions, query_segments, sets, is_local)

    def blocks(x):
        return jnp.moveaxis(x.reshape(x.shape[0], length // block, block, *x.shape[2:]), 1, 0)

    # Checkpointed: the backward pass scores one block again at a time instead of keeping them all.
    @jax.checkpoint
    def one(args):
        q, positions, segments = args
        return _attend(config, q, positions, segments, sets, is_local)

    segments = None if query_segments is None else blocks(query_segments)
    out = jax.lax.map(one, (blocks(query), blocks(query_positions), segments))
    return jnp.moveaxis(out, 0, 1).reshape(query.shape)


def _attend(config, query, query_positions, query_segments, sets, is_local):
    batch, length, heads, head_dim = query.shape
    kv_heads = config.num_kv_heads
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    window = config.window if config.has_local_layers else None
    # Against keys without a batch dimension the heads go first and the rows of the batch become
    # rows of one matrix product a head. With the batch first, scores would be transposed, which
    # takes longer than the product.
    by_row = jnp.transpose(query, (0, 2, 3, 1, 4))
    by_head = jnp.transpose(query, (2, 0, 3, 1, 4))

    scores = []
    for keys in sets:
        shared = keys.keys.ndim == 3
        s = jnp.einsum(
            "kbgtd,kds->kbgts" if shared else "bkgtd,bkds->bkgts",
            by_head if shared else by_row,
            keys.keys.astype(query.dtype),
            preferred_element_type=jnp.float32,
        )
        if config.attention_softcap is not None:
            s = config.attention_softcap * jnp.tanh(s / config.attention_softcap)
        mask = visible(query_positions, query_segments, keys, window=window, is_local=is_local)
        mask = mask[None, :, None] if shared else mask[:, None, None]
        scores.append(jnp.where(mask, s, MASKED))

    def rows_first(x, keys):
        return jnp.swapaxes(x, 0, 1) if keys.keys.ndim == 3 else x

    top = rows_first(scores[0].max(axis=-1), sets[0])
    for s, keys in zip(scores[1:], sets[1:], strict=True):
        top = jnp.maximum(top, rows_first(s.max(axis=-1), keys))
    top = jax.lax.stop_gradient(top)  # it cancels, so its gradient is zero: do not compute it

    total = out = jnp.zeros((), jnp.float32)
    for s, keys in zip(scores, sets, strict=True):
        shared = keys.values.ndim == 3
        p = jnp.exp(s - (jnp.swapaxes(top, 0, 1) if shared else top)[..., None])
        total = total + rows_first(p.sum(axis=-1), keys)
        o = jnp.einsum(
            "kbgts,ksd->kbgtd" if shared else "bkgts,bksd->bkgtd",
            p.astype(query.dtype),
            keys.values.astype(query.dtype),
            preferred_element_type=jnp.float32,
        )
        out = out + rows_first(o, keys)
    out = (out / total[..., None]).astype(query.dtype)
    return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(batch, length, heads, head_dim)

"""Keys and values of tokens already read: always an argument and a result, never hidden state.

A cache knows at which position of its row every column stands, and a column that holds nothing has
`INVALID_POSITION`. Masks follow from positions alone, so where in the cache a token lies is free:
the sampler writes the new tokens of all rows into the *same* column, one contiguous update instead
of a scatter, although its rows started at different times.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from restem.models import sharding
from restem.models.config import ModelConfig

INVALID_POSITION = 2**30
"""Later than any query, so that causality alone hides a column that holds nothing."""


Arrays = Any
"""An array or a tuple with one a layer; in trees that describe a cache, its shape or sharding."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer, for a batch of rows or, without that dimension, for all.

    A cache without the batch dimension is a *prefix*: every row of a batch attends to it.

    For parameters in a tuple of layers (`unstack_layers`), keys and values may be tuples of layers
    too: a loop then reads and updates each layer's arrays in place, where a slice of a stack would
    be copied.
    """

    keys: Arrays
    """[layers, batch?, kv_heads, head_dim, length]; time is minor, as the product with queries
    wants it."""
    values: Arrays
    """[layers, batch?, kv_heads, length, head_dim]."""
    positions: Arrays
    """[batch?, length] int32, the position of each column in its row or INVALID_POSITION."""

    @property
    def is_prefix(self) -> bool:
        return self.positions.ndim == 1

    @property
    def length(self) -> int:
        return self.positions.shape[-1]


def empty(config: ModelConfig, batch: int, length: int, dtype=None) -> KVCache:
    """A cache of `batch` rows and `length` columns that holds nothing."""
    dtype = dtype or config.dtype
    heads = (config.num_layers, batch, config.num_kv_heads)
    return KVCache(
        keys=jnp.zeros((*heads, config.head_dim, length), dtype),
        values=jnp.zeros((*heads, length, config.head_dim), dtype),
        positions=jnp.full((batch, length), INVALID_POSITION, jnp.int32),
    )


def constrain(cache: KVCache) -> KVCache:
    """Holds a cache to its layout on the mesh in force.

    Where attention splits key heads further than the rules do, the compiler would carry that split
    back into the cache, and gather the whole of it where it is written.
    """
    layers = () if isinstance(cache.keys, tuple) else ("layers",)
    batch = () if cache.is_prefix else ("batch",)
    hold = lambda tree, *axes: jax.tree.map(lambda a: sharding.constrain(a, axes), tree)
    return KVCache(
        keys=hold(cache.keys, *layers, *batch, "kv_heads", "head", "cache_length"),
        values=hold(cache.values, *layers, *batch, "kv_heads", "cache_length", "head"),
        positions=hold(cache.positions, *batch, "cache_length"),
    )


def write(cache: KVCache, block: KVCache, column: jax.Array | int) -> KVCache:
    """Puts the columns of `block` into `cache`, for all rows from `column` on."""

    def put(into, what, axis):
        return jax.lax.dynamic_update_slice_in_dim(into, what.astype(into.dtype), column, axis=axis)

    cache, block = constrain(cache), constrain(block)
    return KVCache(
        keys=jax.tree.map(lambda a, b: put(a, b, -1), cache.keys, block.keys),
        values=jax.tree.map(lambda a, b: put(a, b, -2), cache.values, block.values),
        positions=put(cache.positions, block.positions, -1),
    )


def unstack(cache: KVCache) -> KVCache:
    """The same cache with a tuple of layers instead of a stack."""
    return dataclasses.replace(cache, keys=tuple(cache.keys), values=tuple(cache.values))


def as_prefix(cache: KVCache) -> KVCache:
    """The only row of `cache`, as a prefix that all rows of another batch share."""
    if cache.positions.shape[0] != 1:
        raise ValueError(f"a prefix is one row, not {cache.positions.shape[0]}")
    return KVCache(keys=cache.keys[:, 0], values=cache.values[:, 0], positions=cache.positions[0])

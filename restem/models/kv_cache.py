"""Keys and values of tokens already read: always an argument and a result, never hidden state.

A cache stores the position of every column in its row, and a column that holds nothing has
`INVALID_POSITION`. Masks follow from positions alone, so a token may be stored in any column: the
sampler writes the new tokens of all rows into the *same* column, one contiguous update instead of a
scatter, although the rows started at different times.

A cache of two rows, of which the second started later; the step under way writes column 3:

    column       0   1   2   3
    positions    5   6   7   8      row 0 has read positions 5 to 7 and now reads 8
                 -   -   5   6      row 1 started in column 2; - is INVALID_POSITION
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from restem.models import sharding
from restem.models.config import ModelConfig

INVALID_POSITION = 2**30
"""Later than any query, so that causality alone hides a column that holds nothing."""

Arrays = Any
"""An array, or a tuple with one array per layer; in trees that describe a cache, what describes the
array: its shape, its sharding or the names of its axes."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer, for a batch of rows.

    A cache without the batch dimension is a *prefix*: every row of a batch attends to it.

    For parameters in a tuple of layers (`unstack_layers`), keys and values may be tuples of layers
    too: a loop then reads and updates each layer's arrays in place, where it would copy a slice of
    a stack. The arrays of a tuple have no dimension "layers".
    """

    keys: Arrays
    """[layers, batch?, kv_heads, head_dim, length] where time is the minor dimension, otherwise
    [layers, batch?, kv_heads, length, head_dim]."""
    values: Arrays
    """[layers, batch?, kv_heads, length, head_dim]."""
    positions: Arrays
    """[batch?, length] int32, position of each column in its row, or INVALID_POSITION."""
    time_minor: bool = flax.struct.field(pytree_node=False, default=True)
    """Whether time is the minor dimension of the keys, as the product with queries wants it. A TPU
    writes 128 columns of such keys to write one, so caches that grow by a column at a time may have
    their keys in the order of the values."""

    @property
    def time_axis(self) -> int:
        """Dimension of the columns in the keys, from the end."""
        return -1 if self.time_minor else -2

    @property
    def is_prefix(self) -> bool:
        """Whether all rows of a batch share this cache."""
        return self.positions.ndim == 1

    @property
    def is_unstacked(self) -> bool:
        """Whether keys and values are tuples of layers."""
        return isinstance(self.keys, tuple)

    @property
    def length(self) -> int:
        """Number of columns."""
        return self.positions.shape[-1]


@flax.struct.dataclass
class GroupedCache:
    """Caches of groups of rows, each group with a number of columns of its own.

    See `attention.GroupedKeys` for the order of the rows.
    """

    groups: tuple[KVCache, ...]
    """Cache of each group, with its rows as the batch."""
    parts: int = flax.struct.field(pytree_node=False, default=1)
    """Parts of the mesh over which rows are split."""

    @property
    def is_unstacked(self) -> bool:
        """Whether keys and values are tuples of layers."""
        return self.groups[0].is_unstacked


def axes(
    *,
    prefix: bool = False,
    unstacked: bool = False,
    rows: str = "batch",
    time_minor: bool = True,
) -> KVCache:
    """Returns the logical axis names of a cache's arrays, which rules map to mesh axes.

    Args:
      prefix: of a cache without the batch dimension.
      unstacked: of each layer's arrays in a cache whose layers are a tuple.
      rows: name of the batch dimension.
      time_minor: whether time is the minor dimension of the keys.
    """
    batch = () if prefix else (rows,)
    layers = () if unstacked else ("layers",)
    by_time = (*layers, *batch, "kv_heads", "cache_length", "head")
    by_head = (*layers, *batch, "kv_heads", "head", "cache_length")
    return KVCache(
        keys=by_head if time_minor else by_time,
        values=by_time,
        positions=(*batch, "cache_length"),
        time_minor=time_minor,
    )


def axes_of(cache: KVCache, rows: str = "batch") -> KVCache:
    """Returns the logical axis names of the arrays of a cache, whose rows have this name."""
    return axes(
        prefix=cache.is_prefix,
        unstacked=cache.is_unstacked,
        rows=rows,
        time_minor=cache.time_minor,
    )


def shapes(
    config: ModelConfig,
    batch: int | None,
    length: int,
    dtype: Any = None,
    *,
    time_minor: bool = True,
) -> KVCache:
    """Returns the `jax.ShapeDtypeStruct`s of a cache; nothing is allocated.

    Args:
      config: the decoder.
      batch: rows; None for a prefix.
      length: columns.
      dtype: of keys and values; None is that of the activations.
      time_minor: whether time is the minor dimension of the keys.
    """
    sizes = {
        "layers": config.num_layers,
        "batch": batch,
        "kv_heads": config.num_kv_heads,
        "head": config.head_dim,
        "cache_length": length,
    }
    names = axes(prefix=batch is None, time_minor=time_minor)

    def struct(names, dtype):
        return jax.ShapeDtypeStruct(tuple(sizes[name] for name in names), jnp.dtype(dtype))

    return dataclasses.replace(
        names,
        keys=struct(names.keys, dtype or config.dtype),
        values=struct(names.values, dtype or config.dtype),
        positions=struct(names.positions, jnp.int32),
    )


def empty(
    config: ModelConfig, batch: int, length: int, dtype: Any = None, *, time_minor: bool = True
) -> KVCache:
    """Returns a cache of `batch` rows and `length` columns that holds nothing."""
    of = shapes(config, batch, length, dtype, time_minor=time_minor)
    return dataclasses.replace(
        of,
        keys=jnp.zeros(of.keys.shape, of.keys.dtype),
        values=jnp.zeros(of.values.shape, of.values.dtype),
        positions=jnp.full(of.positions.shape, INVALID_POSITION, jnp.int32),
    )


def constrain(cache: KVCache, rows: str = "batch") -> KVCache:
    """Holds a cache, whose rows have this logical name, to its layout on the mesh in force.

    Where attention splits the key heads further than the rules do, the compiler would carry that
    split back into the cache, and gather the whole of it wherever it is written.
    """
    names = axes_of(cache, rows)

    def hold(tree, names):
        return jax.tree.map(lambda array: sharding.constrain(array, names), tree)

    return dataclasses.replace(
        cache,
        keys=hold(cache.keys, names.keys),
        values=hold(cache.values, names.values),
        positions=hold(cache.positions, names.positions),
    )


def write(cache: KVCache, block: KVCache, column: Int[Array, ""] | int) -> KVCache:
    """Writes the columns of `block` into `cache`, for all rows from `column` on.

    Args:
      cache: [batch] rows of [length] columns.
      block: the same rows with as many columns as are written, keys in the same order.
      column: first column to write.
    """

    def put(into, what, axis):
        return jax.lax.dynamic_update_slice_in_dim(into, what.astype(into.dtype), column, axis=axis)

    cache, block = constrain(cache), constrain(block)
    return dataclasses.replace(
        cache,
        keys=jax.tree.map(lambda a, b: put(a, b, cache.time_axis), cache.keys, block.keys),
        values=jax.tree.map(lambda a, b: put(a, b, -2), cache.values, block.values),
        positions=put(cache.positions, block.positions, -1),
    )


def widen(cache: KVCache, length: int) -> KVCache:
    """Returns the cache with empty columns appended, up to `length` columns."""
    more = length - cache.length

    def pad(x, axis, fill):
        widths = [(0, more if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=fill)

    return dataclasses.replace(
        cache,
        keys=jax.tree.map(lambda k: pad(k, k.ndim + cache.time_axis, 0), cache.keys),
        values=jax.tree.map(lambda v: pad(v, v.ndim - 2, 0), cache.values),
        positions=pad(cache.positions, cache.positions.ndim - 1, INVALID_POSITION),
    )


def chunked(cache: KVCache, chunk: int) -> KVCache:
    """Returns the cache with its rows cut into rows of `chunk` columns, in order.

    Args:
      cache: [batch] rows, whose length is a multiple of `chunk`; time is minor in the keys.
      chunk: columns of the new rows.
    """

    names = axes_of(cache)

    def cut(x, names):
        """[layers, batch, ..., length, ...] -> [layers, batch * chunks, ..., chunk, ...]."""
        axis = names.index("cache_length")
        split = x.reshape(*x.shape[:axis], -1, chunk, *x.shape[axis + 1 :])
        moved = jnp.moveaxis(split, axis, 2)
        # Left alone, the compiler splits the chunks of a row over the parts that split its heads,
        # and pads them to as many parts.
        moved = sharding.constrain(moved, (*names[:2], None, *names[2:]))
        return moved.reshape(x.shape[0], -1, *moved.shape[3:])

    if cache.length == chunk:
        return cache
    return KVCache(
        keys=cut(cache.keys, names.keys),
        values=cut(cache.values, names.values),
        positions=cache.positions.reshape(-1, chunk),
    )


def lengthen(cache: KVCache, rows: int) -> KVCache:
    """Returns the cache with empty rows appended, up to `rows`; layers are stacked."""
    more = rows - cache.positions.shape[0]

    def pad(x, axis, fill):
        widths = [(0, more if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=fill)

    return dataclasses.replace(
        cache,
        keys=pad(cache.keys, 1, 0),
        values=pad(cache.values, 1, 0),
        positions=pad(cache.positions, 0, INVALID_POSITION),
    )


def unstack(cache: KVCache) -> KVCache:
    """Returns the same cache with a tuple of layers instead of a stack."""
    return dataclasses.replace(cache, keys=tuple(cache.keys), values=tuple(cache.values))


def prefix(
    keys: Float[Array, "layers kv_heads head_dim length"],
    values: Float[Array, "layers kv_heads length head_dim"],
) -> KVCache:
    """Returns the prefix whose column i is the token at position i."""
    return KVCache(keys=keys, values=values, positions=jnp.arange(keys.shape[-1], dtype=jnp.int32))


def as_prefix(cache: KVCache) -> KVCache:
    """Returns the only row of `cache` as a prefix, which all rows of another batch share.

    Raises:
      ValueError: the cache has more rows than one.
    """
    if cache.positions.shape[0] != 1:
        raise ValueError(f"a prefix is one row, not {cache.positions.shape[0]}")
    return dataclasses.replace(
        cache,
        keys=cache.keys[:, 0],
        values=cache.values[:, 0],
        positions=cache.positions[0],
    )

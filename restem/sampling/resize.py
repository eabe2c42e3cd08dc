"""Changes of the decode batch's size: a longer ring, more or fewer slots. Pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from restem.models import attention, kv_cache
from restem.models.kv_cache import INVALID_POSITION, GroupedCache, KVCache
from restem.sampling.steps import Slots, constrain_questions, constrain_rows


def grow(ring: KVCache, more: int, column: Int[Array, ""]) -> KVCache:
    """Appends `more` empty columns to the ring.

    The ring is cut at its oldest column, `column`, so that its columns are in the order in which
    they were written and the next step writes into the first of the new columns:

        7 8 | 5 6        column 2  ->  5 6 7 8 | - -        next column 4
    """

    def widen(x, axis):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, more)
        return jnp.pad(jnp.roll(x, -column, axis=axis), pad)

    ring = dataclasses.replace(
        ring,
        keys=jax.tree.map(lambda k: widen(k, k.ndim + ring.time_axis), ring.keys),
        values=jax.tree.map(lambda v: widen(v, v.ndim - 2), ring.values),
    )
    return kv_cache.constrain(ring)


def move(
    slots: Slots, sizes: tuple[int, ...], sources: Int[Array, " new"], used: Bool[Array, " new"]
) -> Slots:
    """Moves the unfinished samples to a batch of another size.

    Args:
      slots: the decode batch.
      sizes: new number of slots of each width class.
      sources: slot from which each new slot gets its sample, on the same part of the mesh and of
        the same or a narrower class.
      used: whether the new slot gets a sample.

    Returns:
      A batch of `sum(sizes)` slots.
    """
    questions = slots.questions
    parts = questions.parts
    old_sizes = [group.positions.shape[0] for group in questions.groups]
    # Numbers of slots within their part, so that rows stay where they are on the mesh.
    within = sources.reshape(parts, -1) % (sum(old_sizes) // parts)
    # Within a part, slots of class i begin where those of the narrower classes end.
    starts = [sum(old_sizes[:i]) // parts for i in range(len(old_sizes))]
    groups = []
    for i, of in enumerate(attention.split_rows(within.reshape(-1), sizes, parts)):
        index = of.reshape(parts, -1)
        length = questions.groups[i].length
        group: KVCache | None = None
        for j, cache in enumerate(questions.groups[: i + 1]):
            at = jnp.clip(index - starts[j], 0, old_sizes[j] // parts - 1)
            moved = kv_cache.widen(_moved(cache, at), length)
            group = moved if group is None else _where(of >= starts[j], moved, group)
        assert group is not None  # class 0 is in every range
        groups.append(group)
    rows = jax.tree.map(lambda x: _taken(x, within, 0), slots.rows)
    return Slots(
        questions=constrain_questions(dataclasses.replace(questions, groups=tuple(groups))),
        ring=kv_cache.constrain(_moved(slots.ring, within)),
        rows=constrain_rows(dataclasses.replace(rows, active=rows.active & used)),
    )


def move_on_host(
    slots: Slots, sizes: tuple[int, ...], sources: np.ndarray, used: np.ndarray
) -> Slots:
    """Does what `move` does, for unstacked layers on one CPU.

    Compiling a program for it would take longer than to copy the rows.
    """
    groups = slots.questions.groups
    starts = np.cumsum([0, *(group.positions.shape[0] for group in groups)])

    def gather(of: np.ndarray, *arrays: jax.Array, fill: int = 0) -> jax.Array:
        """Rows `of`, numbered through all arrays; those of narrower arrays are widened."""
        found = np.full((len(of), *arrays[-1].shape[1:]), fill, arrays[-1].dtype)
        for start, array in zip(starts[: len(arrays)], arrays, strict=True):
            rows = np.flatnonzero((of >= start) & (of < start + len(array)))
            region: tuple[Any, ...] = (rows, *map(slice, array.shape[1:]))
            found[region] = np.asarray(array)[of[rows] - start]
        return jnp.array(found)  # a copy, whose memory programs may take over

    def moved(of: np.ndarray, *caches: KVCache) -> KVCache:
        values = lambda *arrays: gather(of, *arrays)
        return dataclasses.replace(
            caches[-1],
            keys=jax.tree.map(values, *(cache.keys for cache in caches)),
            values=jax.tree.map(values, *(cache.values for cache in caches)),
            positions=gather(of, *(cache.positions for cache in caches), fill=INVALID_POSITION),
        )

    ends = np.cumsum(sizes)
    of_class = np.split(sources, ends[:-1])
    keys = jax.random.key_data(slots.rows.key)
    numbers = dataclasses.replace(slots.rows, key=keys)
    rows = jax.tree.map(lambda x: jnp.array(np.asarray(x)[sources]), numbers)
    return Slots(
        questions=GroupedCache(tuple(moved(of, *groups[: i + 1]) for i, of in enumerate(of_class))),
        ring=moved(sources, slots.ring),
        rows=dataclasses.replace(
            rows, key=jax.random.wrap_key_data(rows.key), active=rows.active & used
        ),
    )


def _taken(x: jax.Array, index: Int[Array, "parts new"], axis: int) -> jax.Array:
    """Returns the rows `index` of each part of x, whose dimension `axis` are all parts' rows."""
    before, rows, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    parts = index.shape[0]
    by_part = x.reshape(*before, parts, rows // parts, *after)
    take = lambda part, at: jnp.take(part, at, axis=axis, mode="clip")
    taken = jax.vmap(take, (axis, 0), axis)(by_part, index)
    return taken.reshape(*before, index.size, *after)


def _moved(cache: KVCache, index: Int[Array, "parts new"]) -> KVCache:
    """Returns the rows `index` of each part of a cache."""
    rows = 0 if cache.is_unstacked else 1
    return dataclasses.replace(
        cache,
        keys=jax.tree.map(lambda k: _taken(k, index, rows), cache.keys),
        values=jax.tree.map(lambda v: _taken(v, index, rows), cache.values),
        positions=_taken(cache.positions, index, 0),
    )


def _where(rows: Bool[Array, " rows"], a: KVCache, b: KVCache) -> KVCache:
    """Returns the rows of `a` where `rows` is set, and those of `b` elsewhere."""

    def choose(x, y):
        axis = 1 if x.ndim == 5 else 0  # stacked layers come before rows
        return jnp.where(jnp.expand_dims(rows, [i for i in range(x.ndim) if i != axis]), x, y)

    return jax.tree.map(choose, a, b)

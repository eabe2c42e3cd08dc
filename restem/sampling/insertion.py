"""Insertion of prefilled questions into free slots, as pure functions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from restem.models.kv_cache import INVALID_POSITION, GroupedCache, KVCache
from restem.sampling.steps import Rows, constrain_questions, constrain_rows


def insert(
    questions: GroupedCache,
    rows: Rows,
    prefilled: KVCache,
    seed: Key[Array, ""],
    prefix_length: Int[Array, ""],
    inserts: Int[Array, "9 capacity"],
    numbers: Int[Array, " classes"],
    layer: Int[Array, ""] | int = 0,
) -> tuple[GroupedCache, Rows]:
    """Inserts samples into slots.

    Args:
      questions: caches of the width classes, stacked layers: all of them, or one.
      rows: state of the samples.
      prefilled: chunks of questions, as `prefill_questions` returns them, all layers.
      seed: PRNG key of the call.
      prefix_length: tokens of the prefix.
      inserts: one column per sample, those of the first width class first: its slot, its row in the
        cache of its class, the first chunk of its question in `prefilled`, the number of these
        chunks, its first token to read, that token's place in the question, its problem key (the
        bits of a uint32), its sample index and its cut-off.
      numbers: samples of each width class.
      layer: first layer in `questions`. Rows and positions are inserted with layer 0.

    Returns:
      The new caches and rows.
    """
    is_first = jnp.asarray(layer) == 0
    groups = []
    start = jnp.zeros((), jnp.int32)
    for cache, number in zip(questions.groups, numbers, strict=True):
        stop = start + number
        copy_positions = functools.partial(_copy_positions, prefilled.positions, inserts)
        positions = jax.lax.fori_loop(
            start, jnp.where(is_first, stop, start), copy_positions, cache.positions
        )
        copy = functools.partial(_copy_question, prefilled, inserts, layer)
        keys, values = jax.lax.fori_loop(start, stop, copy, (cache.keys, cache.values))
        groups.append(dataclasses.replace(cache, keys=keys, values=values, positions=positions))
        start = stop

    def one(i, rows):
        slot, _, _, _, token, place, problem, sample, limit = inserts[:, i]
        key = jax.random.fold_in(jax.random.fold_in(seed, problem.astype(jnp.uint32)), sample)
        return Rows(
            token=rows.token.at[slot].set(token),
            position=rows.position.at[slot].set(prefix_length + place),
            key=rows.key.at[slot].set(key),
            count=rows.count.at[slot].set(0),
            limit=rows.limit.at[slot].set(limit),
            active=rows.active.at[slot].set(True),
        )

    rows = jax.lax.fori_loop(0, jnp.where(is_first, start, 0), one, rows)
    filled = dataclasses.replace(questions, groups=tuple(groups))
    return constrain_questions(filled), constrain_rows(rows)


def insert_layer(
    caches: tuple[KVCache, ...], rows: Rows, prefilled: KVCache, *args: Any
) -> tuple[tuple[KVCache, ...], Rows]:
    """Like `insert`, for caches of a single layer, [rows, ...], whose number is the last of `args`.

    One program for all layers that lie apart would take as long to compile as that of decoding.
    """
    stacked = (dataclasses.replace(c, keys=c.keys[None], values=c.values[None]) for c in caches)
    filled, rows = insert(GroupedCache(tuple(stacked)), rows, prefilled, *args)
    return tuple(
        dataclasses.replace(c, keys=c.keys[0], values=c.values[0]) for c in filled.groups
    ), rows


def _copy_positions(
    prefilled: Int[Array, "chunks chunk"],
    inserts: Int[Array, "9 capacity"],
    i: Int[Array, ""],
    positions: Int[Array, "rows columns"],
) -> Int[Array, "rows columns"]:
    """Copies the positions of the question of sample `i` into its row."""
    row, first, number = inserts[1:4, i]

    def copy(n, positions):
        where = (row, n * prefilled.shape[1])
        return jax.lax.dynamic_update_slice(positions, prefilled[first + n][None], where)

    # Columns beyond the question still hold the sample before: hide them.
    return jax.lax.fori_loop(0, number, copy, positions.at[row].set(INVALID_POSITION))


def _copy_question(
    prefilled: KVCache,
    inserts: Int[Array, "9 capacity"],
    layer: Int[Array, ""] | int,
    i: Int[Array, ""],
    cache: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Copies the question of sample `i` into its row of keys and values, from `layer` on."""
    row, first, number = inserts[1:4, i]

    def copy(n, cache):
        keys, values = cache
        column = n * prefilled.length

        def put(into, of, where):
            size = (into.shape[0], 1, *of.shape[2:])
            what = jax.lax.dynamic_slice(of, (layer, first + n, 0, 0, 0), size)
            return jax.lax.dynamic_update_slice(into, what.astype(into.dtype), (0, *where))

        return (
            put(keys, prefilled.keys, (row, 0, 0, column)),
            put(values, prefilled.values, (row, 0, column, 0)),
        )

    return jax.lax.fori_loop(0, number, copy, cache)

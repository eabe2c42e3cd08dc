"""The calls of the device's programs: their static arguments, and which memory they reuse.

Each function takes `ask`, either `Programs.run` with arrays or `Programs.prepare` with their
shapes, so that a program is prepared exactly as it is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from restem.sampling import insertion, resize, steps
from restem.sampling.batches import Batches
from restem.sampling.options import Options
from restem.sampling.steps import Slots
from restem.sampling.widths import WidthClasses

Ask = Callable[..., Any]
"""`Programs.run` or `Programs.prepare`."""


def prefill_prefix(ask: Ask, options: Options, params, tokens, length) -> Any:
    """Prefills the prefix."""
    return ask(_prefill_prefix, params, tokens, length, config=options.config)


def prefill_questions(
    ask: Ask, options: Options, batches: Batches, params, prefix, prefix_length, tokens, lengths
) -> Any:
    """Prefills a batch of questions."""
    return ask(
        _prefill_questions, params, prefix, prefix_length, tokens, lengths, config=options.config,
        chunk=batches.chunk, chunks=batches.chunks(tokens.shape[1]),
    )  # fmt: skip


def insert(ask: Ask, slots: Slots, prefilled, seed, prefix_length, inserts, numbers) -> Any:
    """Inserts samples; returns caches and rows."""
    questions, rows = slots.questions, slots.rows
    of_samples = (seed, prefix_length, inserts, numbers)
    if not questions.is_unstacked:
        return ask(insertion.insert, questions, rows, prefilled, *of_samples, donate=(0, 1))
    groups = questions.groups
    positions = [group.positions for group in groups]
    layers = []
    for i in range(len(groups[0].keys)):
        caches = tuple(
            dataclasses.replace(group, keys=group.keys[i], values=group.values[i], positions=p)
            for group, p in zip(groups, positions, strict=True)
        )
        found = ask(
            insertion.insert_layer, caches, rows, prefilled, *of_samples, np.asarray(i, np.int32),
            donate=(0, 1),
        )  # fmt: skip
        if found is None:
            return None  # prepared, for all layers
        caches, rows = found
        positions = [cache.positions for cache in caches]
        layers.append(caches)
    filled = tuple(
        dataclasses.replace(
            last,
            keys=tuple(caches[n].keys for caches in layers),
            values=tuple(caches[n].values for caches in layers),
        )
        for n, last in enumerate(layers[-1])
    )
    return dataclasses.replace(questions, groups=filled), rows


def decode(ask: Ask, options: Options, params, prefix, slots: Slots, column, keep, drawing) -> Any:
    """Decodes; returns ring, rows, tokens and their log-probabilities."""
    return ask(
        _decode, params, prefix, slots.questions, slots.ring, slots.rows, column, keep, drawing,
        donate=(3, 4), config=options.config, steps=options.decode_steps,
        eos_ids=tuple(sorted(options.vocabulary.eos_ids)),
    )  # fmt: skip


def move(ask: Ask, slots: Slots, sources, used, classes: WidthClasses) -> Any:
    """Moves the samples to the slots of `classes`."""
    return ask(_move, slots, sources, used, sizes=classes.sizes)


def grow(ask: Ask, slots: Slots, column, more: int) -> Any:
    """Lengthens the ring by `more` columns."""
    return ask(_grow, slots.ring, column, more=more)


def _prefill_prefix(params, tokens, length, *, config):
    return steps.prefill_prefix(params, config, tokens, length)


def _prefill_questions(params, prefix, prefix_length, tokens, lengths, *, config, **shapes):
    return steps.prefill_questions(params, config, prefix, prefix_length, tokens, lengths, **shapes)


def _decode(
    params, prefix, questions, ring, rows, column, keep, drawing, *, config, eos_ids, **how
):
    slots = Slots(questions=questions, ring=ring, rows=rows)
    return steps.decode(params, config, drawing, eos_ids, how["steps"], prefix, slots, column, keep)


def _move(slots, sources, used, *, sizes):
    return resize.move(slots, sizes, sources, used)


def _grow(ring, column, *, more):
    return resize.grow(ring, more, column)

"""A training set in shards, and the order in which an epoch takes its examples.

A large training set does not fit in memory, so an epoch is shuffled twice over: the shards are
shuffled and divided into windows of at most `WINDOW` examples, and the examples of each window are
shuffled. A training set that fits in one window is shuffled as a whole. The order is a function of
(seed, epoch) and the numbers of examples in the shards: it is the same on every host, and training
that continues in the middle of an epoch reads only the windows it still needs.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from restem.errors import UserError

WINDOW = 1 << 17
"""Examples that are shuffled together and in memory at a time: all of MATH's and of APPS's."""


@dataclasses.dataclass(frozen=True)
class TokenExample:
    """A weighted training pair in token ids."""

    input_ids: Sequence[int] | np.ndarray
    """Question without the prefix, on which there is no loss. Never empty, because its last token
    predicts the first target."""
    target_ids: Sequence[int] | np.ndarray
    """Solution, the only tokens with loss."""
    weight: float = 1.0
    """Weight r(x, y) of equation 3; may be negative (control variates)."""

    @property
    def length(self) -> int:
        """Number of tokens that are read: all but the last target."""
        return len(self.input_ids) + len(self.target_ids) - 1


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What packing must know about all examples: a few numbers per shard."""

    counts: tuple[int, ...]
    """Usable examples per shard: with a target, and within the row length."""
    lengths: collections.Counter[int]
    """Number of usable examples by length in tokens."""
    too_long: int = 0
    """Number of examples left out because they exceed the row length."""
    empty: int = 0
    """Number of examples left out because they have no target."""

    @property
    def usable(self) -> int:
        """Number of usable examples."""
        return sum(self.counts)

    @property
    def total(self) -> int:
        """Number of all examples."""
        return self.usable + self.too_long + self.empty

    def largest(self, count: int) -> np.ndarray:
        """Returns the `count` largest lengths, [at most count] int, the largest first."""
        found: list[int] = []
        for length in sorted(self.lengths, reverse=True):
            if len(found) == count:
                break
            found += [length] * min(self.lengths[length], count - len(found))
        return np.array(found, np.int64)


@runtime_checkable
class Corpus(Protocol):
    """A training set in shards."""

    def __len__(self) -> int:
        """Returns the number of shards."""

    def shard(self, index: int) -> Sequence[TokenExample]:
        """Returns the examples of a shard."""

    def sizes(self, row_length: int | None) -> Sizes:
        """Returns what packing into rows of a length, if it is known yet, must know."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A training set in memory, as one shard."""

    examples: Sequence[TokenExample]

    def __len__(self) -> int:
        return 1

    def shard(self, index: int) -> Sequence[TokenExample]:
        del index  # the only one
        return self.examples

    def sizes(self, row_length: int | None) -> Sizes:
        return total_sizes([measured(self.examples, row_length)])


Measured = tuple[collections.Counter[int], int, int]
"""Lengths of the usable examples of a shard, and how many are too long and empty."""


def measured(examples: Sequence[TokenExample], row_length: int | None) -> Measured:
    """Measures the examples of a shard, and checks them.

    Raises:
      UserError: an example has no input or a weight that is not finite.
    """
    for i, example in enumerate(examples):
        if not len(example.input_ids):
            raise UserError(f"training example {i} has no input tokens; give it a question")
        if not np.isfinite(example.weight):
            raise UserError(f"training example {i} has weight {example.weight}; drop it or fix it")
    targeted = [e.length for e in examples if len(e.target_ids)]
    kept = [n for n in targeted if row_length is None or n <= row_length]
    return collections.Counter(kept), len(targeted) - len(kept), len(examples) - len(targeted)


def total_sizes(shards: Sequence[Measured]) -> Sizes:
    """Returns the sizes of a corpus from what was measured of its shards."""
    lengths: collections.Counter[int] = collections.Counter()
    for counter, _, _ in shards:
        lengths.update(counter)
    return Sizes(
        counts=tuple(counter.total() for counter, _, _ in shards),
        lengths=lengths,
        too_long=sum(too_long for _, too_long, _ in shards),
        empty=sum(empty for _, _, empty in shards),
    )


def usable(examples: Sequence[TokenExample], row_length: int | None) -> list[TokenExample]:
    """Returns the examples that have a target and fit in a row, in order."""
    return [
        e for e in examples
        if len(e.target_ids) and (row_length is None or e.length <= row_length)
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Window:
    """Examples that are shuffled together."""

    shards: tuple[int, ...]
    """Shards of the window."""
    start: int
    """Number of examples in the windows before it."""
    count: int
    """Number of usable examples."""
    key: tuple[int, ...]
    """Seed of the order; () keeps the order of the shards."""

    def read(self, corpus: Corpus, row_length: int | None) -> list[TokenExample]:
        """Returns the usable examples of the window in their order."""
        found = [e for i in self.shards for e in usable(corpus.shard(i), row_length)]
        if len(found) != self.count:
            raise UserError(
                "the training examples are not those that were counted before; start again"
            )
        if not self.key:
            return found
        order = np.random.default_rng(list(self.key)).permutation(len(found))
        return [found[i] for i in order]


def windows(
    counts: Sequence[int], *, seed: int, epoch: int, shuffle: bool = True, most: int = WINDOW
) -> list[Window]:
    """Returns the windows of an epoch, in order.

    Args:
      counts: usable examples per shard.
      seed: seed of the order, with `epoch`.
      epoch: number of the epoch, from 0.
      shuffle: False keeps the order of the shards and of their examples.
      most: examples per window; exceeded only by a shard that is larger.
    """
    total = sum(counts)
    if total <= most:
        key = (seed, epoch) if shuffle else ()
        return [Window(tuple(range(len(counts))), 0, total, key)]
    order = np.arange(len(counts))
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(len(counts))
    found: list[Window] = []
    start = 0
    inside: list[int] = []

    def end_window() -> None:
        key = (seed, epoch, len(found) + 1) if shuffle else ()
        found.append(Window(tuple(inside), start, size, key))

    size = 0
    for shard in order.tolist():
        if inside and size + counts[shard] > most:
            end_window()
            start, size, inside = start + size, 0, []
        inside.append(shard)
        size += counts[shard]
    end_window()
    return found


def some_lengths(corpus: Corpus) -> list[int]:
    """Returns the lengths of all examples that have a target, in order, or of those of one window.

    The longest of all is among them.
    """
    sizes = corpus.sizes(None)
    first = windows(sizes.counts, seed=0, epoch=0)[0]
    examples = dataclasses.replace(first, key=()).read(corpus, None)
    lengths = [example.length for example in examples]
    longest = max(sizes.lengths, default=0)
    return lengths if longest in lengths or not longest else [*lengths, longest]

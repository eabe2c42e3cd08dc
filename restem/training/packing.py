"""Packing: many (question, solution) segments per row, behind one prefix that all rows share.

A row holds whole segments one after another. Each segment sees the prefix and itself, and its
positions continue those of the prefix, so a packed row computes what its examples would compute
alone:

    prefix of 2 tokens; examples  q = [a b], t = [C D]   and   q = [e], t = [F G H]

    tokens    a b C e F G .      the last target is predicted, never read, so it takes no place
    segments  1 1 1 2 2 2 0
    positions 2 3 4 2 3 4 0
    targets   . C D F G H .      token that each position predicts
    weights   . w w v v v .      float32; 0 where nothing is predicted
    lengths   . 2 2 3 3 3 .      targets of the position's example; 0 where nothing is predicted

SeqIO's packer is not used: it casts to int32 and drops zeros, which destroys reward weights.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import numpy as np

from restem.errors import UserError
from restem.training.corpus import WINDOW, Corpus, InMemory, TokenExample, Window, windows


@flax.struct.dataclass
class Batch:
    """The examples of one optimizer step, as micro-batches of packed rows.

    All batches of an epoch have the same shapes. Micro-batches from `num_micro` on are empty and
    are not computed. Fields are numpy or JAX arrays.
    """

    tokens: Any
    """[micro, rows, length] int32, token that each position reads."""
    positions: Any
    """[micro, rows, length] int32, position in the example's text, prefix included."""
    segments: Any
    """[micro, rows, length] int32; 1, 2, ... within a row and 0 for padding."""
    targets: Any
    """[micro, rows, length] int32, token that each position predicts."""
    weights: Any
    """[micro, rows, length] float32, weight of the position's example."""
    lengths: Any
    """[micro, rows, length] int32, targets of the position's example; 0 where a position predicts
    nothing."""
    num_micro: Any
    """[] int32, number of micro-batches that hold examples."""
    num_examples: Any
    """[] int32, number of examples."""


def _rows_bound(sizes: np.ndarray, batch_examples: int, row_length: int) -> int:
    """Returns an upper bound on the rows that first fit needs for any `batch_examples` of these.

    Any two rows that first fit opens hold more than one row length together, so n rows hold more
    than (n - 1) / 2 row lengths.

    Args:
      sizes: [examples] int, tokens of each example.
      batch_examples: examples per optimizer step.
      row_length: tokens per row.
    """
    largest = np.sort(sizes)[::-1][:batch_examples]
    return int(min(len(largest), 2 * int(largest.sum()) // row_length + 1))


def most_micro_batches(
    sizes: np.ndarray, *, batch_examples: int, row_length: int, rows_per_batch: int
) -> int:
    """Returns the micro-batches in the shape of every batch, of which a batch may need fewer.

    Args:
      sizes: [examples] int, tokens of each example; the `batch_examples` largest suffice.
      batch_examples: examples per optimizer step.
      row_length: tokens per row.
      rows_per_batch: rows per micro-batch.
    """
    return -(-_rows_bound(sizes, batch_examples, row_length) // rows_per_batch)


def first_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns bins of at most `capacity`, each a list of indices into `sizes` (Johnson 1973).

    There are at most 11/9 as many bins as the optimum, plus 6/9. Ties keep their order.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for j, free in enumerate(room):
            if sizes[i] <= free:
                bins[j].append(i)
                room[j] -= sizes[i]
                break
        else:
            bins.append([i])
            room.append(capacity - sizes[i])
    return bins


@dataclasses.dataclass(frozen=True)
class PackedEpoch(Sequence):
    """One pass over the examples: a sequence of batches, each built when it is accessed.

    Batch k is a function of (examples, seed, epoch, k) alone, so training that stopped after step k
    continues with `epoch[k]`.
    """

    corpus: Corpus
    """The training set."""
    windows: Sequence[Window]
    """Windows in the order of this epoch."""
    row_length: int
    """Tokens per row."""
    rows_per_batch: int
    """Rows per micro-batch."""
    batch_examples: int
    """Examples per optimizer step; the last step of an epoch may have fewer."""
    prefix_length: int
    """Tokens before every segment."""
    num_micro: int
    """Micro-batches in the shape of every batch."""
    too_long: int
    """Number of examples left out because they exceed `row_length`."""
    empty: int
    """Number of examples left out because they have no target."""
    _read: dict[int, list[TokenExample]] = dataclasses.field(default_factory=dict, repr=False)
    """Windows in memory; a batch may need two."""

    @property
    def num_examples(self) -> int:
        """Number of examples that fit."""
        return self.windows[-1].start + self.windows[-1].count

    @property
    def examples(self) -> tuple[TokenExample, ...]:
        """Examples that fit, in the order of this epoch; reads all of them."""
        return tuple(self._take(0, self.num_examples))

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_examples)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self._fill(self._rows(index))

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))

    def efficiency(self) -> float:
        """Returns the share of computed row positions that hold a token, over the first window."""
        first = self.windows[0]
        batches = len(self) if len(self.windows) == 1 else first.count // self.batch_examples
        rows = [self._rows(i) for i in range(max(1, batches))]
        used = sum(e.length for of_batch in rows for row in of_batch for e in row)
        micro = sum(-(-len(of_batch) // self.rows_per_batch) for of_batch in rows)
        return used / max(1, micro * self.rows_per_batch * self.row_length)

    def _rows(self, index: int) -> list[list[TokenExample]]:
        """Returns the examples of batch `index`, row by row."""
        start = index * self.batch_examples
        group = self._take(start, min(start + self.batch_examples, self.num_examples))
        bins = first_fit_decreasing([e.length for e in group], self.row_length)
        return [[group[i] for i in one] for one in bins]

    def _take(self, start: int, stop: int) -> list[TokenExample]:
        """Returns examples by position in the epoch, reading the windows that hold them."""
        found: list[TokenExample] = []
        starts = [window.start for window in self.windows]
        number = bisect.bisect_right(starts, start) - 1
        while number < len(self.windows) and starts[number] < stop:
            window = self.windows[number]
            if number not in self._read:
                for other in [n for n in self._read if n != number - 1]:
                    del self._read[other]
                self._read[number] = window.read(self.corpus, self.row_length)
            found += self._read[number][max(0, start - window.start) : stop - window.start]
            number += 1
        return found

    def _fill(self, rows: list[list[TokenExample]]) -> Batch:
        """Returns the arrays of a batch; see the example at the top of this file."""
        shape = (self.num_micro * self.rows_per_batch, self.row_length)
        ints = {
            name: np.zeros(shape, np.int32)
            for name in ("tokens", "positions", "segments", "targets", "lengths")
        }
        weights = np.zeros(shape, np.float32)
        for r, row in enumerate(rows):
            start = 0
            for s, example in enumerate(row, start=1):
                ids = np.concatenate(
                    [
                        np.asarray(example.input_ids, np.int32),
                        np.asarray(example.target_ids, np.int32),
                    ]
                )
                count = len(example.target_ids)
                own = slice(start, start + example.length)
                predicting = slice(own.stop - count, own.stop)
                ints["tokens"][r, own] = ids[:-1]
                ints["positions"][r, own] = self.prefix_length + np.arange(example.length)
                ints["segments"][r, own] = s
                ints["targets"][r, predicting] = ids[-count:]
                ints["lengths"][r, predicting] = count
                weights[r, predicting] = example.weight
                start = own.stop

        def micro(x):
            return x.reshape(self.num_micro, self.rows_per_batch, self.row_length)

        return Batch(
            **{name: micro(x) for name, x in ints.items()},
            weights=micro(weights),
            num_micro=np.asarray(-(-len(rows) // self.rows_per_batch), np.int32),
            num_examples=np.asarray(sum(len(row) for row in rows), np.int32),
        )


def pack(
    examples: Sequence[TokenExample] | Corpus,
    *,
    row_length: int,
    rows_per_batch: int,
    batch_examples: int,
    prefix_length: int = 0,
    max_length: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    window: int = WINDOW,
) -> PackedEpoch:
    """Packs one epoch of batches, which has every example that fits exactly once.

    A step is defined by its *examples*, as in published settings (64 to 128 sequences per step):
    examples are shuffled by (seed, epoch), as `training.corpus` describes, every `batch_examples`
    of them make a step, and they are packed first-fit-decreasing into as many micro-batches of
    `rows_per_batch` rows as they need.
    Gradients are accumulated over micro-batches, so packing changes only the speed.

    Args:
      examples: the training set, in any order.
      row_length: tokens per row. An example takes inputs + targets - 1 tokens; a longer one is left
        out and counted in `too_long`, never truncated.
      rows_per_batch: rows per micro-batch; with `row_length` it sets the memory of a step.
      batch_examples: examples per optimizer step.
      prefix_length: tokens of the shared prefix, where positions start.
      max_length: most tokens of the prefix and an example together; None: any number.
      seed: seed of the order, with `epoch`.
      epoch: number of the epoch, from 0.
      shuffle: False keeps the given order.
      window: examples that are shuffled together and in memory at a time.

    Raises:
      UserError: an example has no input or a weight that is not finite, no example fits, or one
        that fits exceeds `max_length` behind the prefix.
    """
    if row_length < 1 or rows_per_batch < 1 or batch_examples < 1:
        raise ValueError(
            f"row_length={row_length}, rows_per_batch={rows_per_batch} and "
            f"batch_examples={batch_examples} must be positive"
        )
    corpus = as_corpus(examples)
    sizes = corpus.sizes(row_length)
    if not sizes.usable:
        raise UserError(
            f"none of the {sizes.total} training examples has targets and fits in "
            f"row_length={row_length} tokens; raise it or look at the data set"
        )
    largest = sizes.largest(batch_examples)
    if max_length is not None and prefix_length + largest[0] > max_length:
        raise UserError(
            f"a training example of {largest[0]} tokens behind a prefix of {prefix_length} exceeds "
            f"the {max_length} that the model was trained for; shorten the prefix, or set "
            f"row_length to {max_length - prefix_length}, which leaves longer examples out"
        )
    num_micro = most_micro_batches(
        largest, batch_examples=batch_examples, row_length=row_length,
        rows_per_batch=rows_per_batch,
    )  # fmt: skip
    return PackedEpoch(
        corpus=corpus,
        windows=windows(sizes.counts, seed=seed, epoch=epoch, shuffle=shuffle, most=window),
        row_length=row_length,
        rows_per_batch=rows_per_batch,
        batch_examples=batch_examples,
        prefix_length=prefix_length,
        num_micro=num_micro,
        too_long=sizes.too_long,
        empty=sizes.empty,
    )


def as_corpus(examples: Sequence[TokenExample] | Corpus) -> Corpus:
    """Returns the examples as a corpus."""
    return InMemory(examples) if isinstance(examples, Sequence) else examples

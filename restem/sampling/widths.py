"""Width classes: how many slots have room for how long a question.

The longest question of a data set would otherwise set the cache width of every slot. On MATH 86% of
the questions fit 128 columns and the longest has 2,046 tokens: as one class every slot would have
2,048 columns, where two classes have 128 columns in seven slots of eight and 2,048 in the eighth.

Calls with similar questions should use the same shapes and hence the same programs. Therefore
widths come from a geometric grid, round ones are preferred, shares of the slots are multiples of a
sixteenth, or a power of two below an eighth, and classes of an earlier call are used again where
they cost little more (`reuse`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

_MAX_CLASSES = 3
# A further class is another prefill program: it must save this share of the columns that attention
# reads.
_WORTH = 0.08
# Share of the columns that may be given up for widths that other calls use too.
_SLACK = 0.06
# Cost of a column that prefill reads, where one that a decode step reads costs 1: much less, as all
# queries of a question read it at once.
_PREFILL = 1 / 16
_ROUND = 128
LEVELS = (1, 2, 8)
"""Divisors of the number of slots as a batch shrinks. Of two steps, 2 and 8 lose the least where
the samples left halve in equal times: 2.5 units of slot-time against 2.25 for 2, 4 and 8."""


@dataclasses.dataclass(frozen=True)
class WidthClasses:
    """Slots by width, narrow ones first within each part of the mesh."""

    widths: tuple[int, ...]
    """Columns for the question in a slot of each class, ascending."""
    sizes: tuple[int, ...]
    """Slots of each class, multiples of `parts`."""
    parts: int = 1
    """Parts of the mesh over which slots are split."""

    @property
    def slots(self) -> int:
        """Number of slots."""
        return sum(self.sizes)

    @property
    def columns(self) -> int:
        """Columns for questions, over all slots."""
        return sum(w * n for w, n in zip(self.widths, self.sizes, strict=True))

    def class_of(self, tokens: int) -> int:
        """Returns the narrowest class with room for a question of which `tokens` are prefilled."""
        return next(i for i, width in enumerate(self.widths) if tokens <= width)

    def members(self) -> list[np.ndarray]:
        """Returns the slots of each class, [size] int each.

        With parts=2 and sizes (2, 4), slots 0 1 2 are on one part and 3 4 5 on the other:

            class 0  0 3      class 1  1 2 4 5
        """
        per_part = np.arange(self.slots).reshape(self.parts, -1)
        ends = list(itertools.accumulate(size // self.parts for size in self.sizes))[:-1]
        return [group.reshape(-1) for group in np.split(per_part, ends, axis=1)]

    def shrunk(self, divisor: int) -> WidthClasses:
        """Returns classes of about 1 / divisor of the slots."""
        sizes = tuple(round_up(-(-n // divisor), self.parts) for n in self.sizes)
        return dataclasses.replace(self, sizes=sizes)

    def level_for(self, samples: int) -> int:
        """Returns the divisor of `LEVELS` that leaves the fewest slots, but one for each sample."""
        fitting = [d for d in LEVELS if self.shrunk(d).slots >= samples]
        return max(fitting, default=1)


def round_up(number: int, multiple: int) -> int:
    """Returns the least positive multiple that is not less than `number`."""
    return max(multiple, -(-number // multiple) * multiple)


def grid(longest: int, bucket: int) -> list[int]:
    """Returns widths of 1, 1.5, 2, 3, 4, 6, ... buckets, up to a round one for `longest` tokens.

    Args:
      longest: tokens of the longest question.
      bucket: divisor of all widths, the first of them.
    """
    widths = [bucket]
    power = 1
    while widths[-1] < longest or _roundness(widths[-1]):
        double = bucket * 2**power
        widths += [double * 3 // 4] * (power > 1) + [double]
        power += 1
    return widths


def choose(
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    slots: int,
    bucket: int,
    ring: int,
    parts: int = 1,
) -> WidthClasses:
    """Chooses the classes that give attention the fewest columns to read.

    The samples of a question read it once per token, and are taken to have half of the tokens that
    they may have; prefill reads it once per token of its own.

    Args:
      lengths: prefilled tokens of each question.
      counts: samples of each question.
      slots: number of slots.
      bucket: divisor of all widths.
      ring: columns for sampled tokens, which every slot has besides.
      parts: parts of the mesh over which slots are split.

    Returns:
      At most 3 classes of about `slots` slots: every size is a multiple of `parts`.
    """
    questions = _Questions(lengths, counts)
    widths = grid(questions.longest, bucket)
    longest = [w for w in widths if w >= questions.longest]
    chosen: list[tuple[float, WidthClasses]] = []
    for number in range(1, _MAX_CLASSES + 1):
        found = []
        for last in longest:
            for others in itertools.combinations(widths[: widths.index(last)], number - 1):
                classes = _with_shares((*others, last), questions, slots, parts)
                if classes is not None:
                    found.append((questions.columns(classes, ring), classes))
        least = min((cost for cost, _ in found), default=math.inf)
        if not chosen or least < (1 - _WORTH) * min(cost for cost, _ in chosen):
            chosen = found
    least = min(cost for cost, _ in chosen)
    return min(
        (pair for pair in chosen if pair[0] <= (1 + _SLACK) * least),
        key=lambda pair: (sum(map(_roundness, pair[1].widths)), pair[0]),
    )[1]


def reuse(
    wanted: WidthClasses,
    known: Iterable[WidthClasses],
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    ring: int,
) -> WidthClasses:
    """Returns classes of an earlier call if they serve nearly as well as those `wanted`.

    Args:
      wanted: what `choose` returns.
      known: classes for which programs may be compiled, with as many slots.
      lengths: prefilled tokens of each question.
      counts: samples of each question.
      ring: columns for sampled tokens.
    """
    questions = _Questions(lengths, counts)
    most = (1 + _SLACK) * questions.columns(wanted, ring)

    def serves(classes: WidthClasses) -> bool:
        enough = all(
            sum(classes.sizes[i + 1 :]) >= (1 - _SLACK) * questions.beyond(width) * classes.slots
            for i, width in enumerate(classes.widths[:-1])
        )
        fits = classes.parts == wanted.parts and questions.longest <= classes.widths[-1]
        return fits and enough and questions.columns(classes, ring) <= most

    return min(filter(serves, known), key=lambda classes: classes.columns, default=wanted)


class _Questions:
    """Lengths of the questions of a call, and what attention reads of them."""

    def __init__(self, lengths: Sequence[int], counts: Sequence[int]):
        order = np.argsort(np.asarray(lengths, np.int64), kind="stable")
        self._lengths = np.asarray(lengths, np.int64)[order]
        # Samples of the shortest n questions, n = 0, 1, ...
        self._samples = np.append(0.0, np.cumsum(np.asarray(counts, np.float64)[order]))
        self._total = max(1.0, float(self._samples[-1]))
        self.longest = int(self._lengths.max(initial=1))

    def beyond(self, width: int) -> float:
        """Returns the share of the samples whose question does not fit a width."""
        return float(self._samples[-1] - self._samples[self._number(width)]) / self._total

    def columns(self, classes: WidthClasses, ring: int) -> float:
        """Returns the columns that attention reads per sampled token, those of prefill included."""
        ends = [self._number(width) for width in classes.widths]
        read = np.dot(np.diff(ends, prepend=0), np.square(classes.widths, dtype=np.float64))
        of_prefill = _PREFILL * float(read) / (self._total * ring / 2)
        return classes.columns / classes.slots + ring + of_prefill

    def _number(self, width: int) -> int:
        """Returns the number of questions that fit a width."""
        return int(np.searchsorted(self._lengths, width, side="right"))


def _roundness(width: int) -> int:
    """Returns 0 for 128 times a power of 4, 1 for other powers of two, and 2 for the rest."""
    power = math.log2(width / _ROUND)
    return 0 if power % 2 == 0 else 1 if power.is_integer() else 2


def _with_shares(
    widths: tuple[int, ...], questions: _Questions, slots: int, parts: int
) -> WidthClasses | None:
    """Returns classes whose slots are shared as their samples are; None if one has no slot."""
    sizes: list[int] = []
    for below, width in reversed(list(itertools.pairwise(widths))):
        share = questions.beyond(below) - questions.beyond(width)
        sizes.insert(0, round_up(math.ceil(_quantised(share) * slots), parts))
    rest = slots - sum(sizes)
    first = rest // parts * parts
    if first < parts or (sizes and first < 0.5 * (1 - questions.beyond(widths[0])) * slots):
        return None
    return WidthClasses(widths, (first, *sizes), parts)


def _quantised(share: float) -> float:
    """Returns the next share that is a multiple of 1/16, or a power of two below 1/8.

    .3 -> 5/16    .14 -> 3/16    .12 -> 1/8    .05 -> 1/16    .001 -> 1/128
    """
    if share > 1 / 8:
        return math.ceil(share * 16) / 16
    return 2.0 ** max(-7, math.ceil(math.log2(share))) if share > 0 else 2.0**-7

"""Width classes: how many slots have room for how long a question.

The longest question of a data set would otherwise set the cache width of every slot. On MATH 86% of
the questions fit 128 columns and the longest has 2,046 tokens: as one class every slot would have
2,048 columns, where two classes have 128 columns in seven slots of eight and 2,048 in the eighth.

Widths come from a geometric grid and shares of the slots are multiples of an eighth, or a power of
two below it, so that calls with similar questions use the same shapes and hence the same programs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

_MAX_CLASSES = 3
# A further class is another prefill and another insert program: it must save this share of the
# columns that attention reads.
_WORTH = 0.15
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
    """Returns the widths up to the first that is not less than `longest`: 1, 1.5, 2, 3, 4, 6, ...

    Args:
      longest: tokens of the longest question.
      bucket: divisor of all widths, the first of them.
    """
    widths = [bucket]
    power = 1
    while widths[-1] < longest:
        double = bucket * 2**power
        if power > 1 and double * 3 // 4 > widths[-1]:
            widths.append(double * 3 // 4)
        if widths[-1] < longest:
            widths.append(double)
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
    sizes = np.asarray(lengths, np.int64)
    weights = np.asarray(counts, np.float64)
    widths = grid(int(sizes.max(initial=1)), bucket)
    total = max(1.0, float(weights.sum()))
    # Share of the samples that do not fit each width.
    beyond = {w: float(weights[sizes > w].sum()) / total for w in widths}
    best: WidthClasses | None = None
    best_cost = math.inf
    for number in range(1, _MAX_CLASSES + 1):
        found: tuple[float, WidthClasses] | None = None
        for chosen in itertools.combinations(widths[:-1], number - 1):
            classes = _with_shares((*chosen, widths[-1]), beyond, slots, parts)
            if classes is None:
                continue
            cost = (classes.columns + ring * classes.slots) / classes.slots
            if found is None or cost < found[0]:
                found = cost, classes
        if found is not None and found[0] < (1 - _WORTH) * best_cost:
            best_cost, best = found
    assert best is not None
    return best


def _with_shares(
    widths: tuple[int, ...], beyond: dict[int, float], slots: int, parts: int
) -> WidthClasses | None:
    """Returns classes whose slots are shared as their samples are; None if one has no slot."""
    sizes: list[int] = []
    for below, width in reversed(list(itertools.pairwise(widths))):
        share = beyond[below] - beyond[width]
        sizes.insert(0, round_up(math.ceil(_quantised(share) * slots), parts))
    rest = slots - sum(sizes)
    first = rest // parts * parts
    if first < parts or (sizes and first < 0.5 * (1 - beyond[widths[0]]) * slots):
        return None
    return WidthClasses(widths, (first, *sizes), parts)


def _quantised(share: float) -> float:
    """Returns the next share that is a multiple of 1/8, or a power of two below that.

    .3 -> 3/8    .14 -> 2/8    .12 -> 1/8    .05 -> 1/16    .001 -> 1/128
    """
    if share > 1 / 8:
        return math.ceil(share * 8) / 8
    return 2.0 ** max(-7, math.ceil(math.log2(share))) if share > 0 else 2.0**-7

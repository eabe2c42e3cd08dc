"""Splits and subsets that depend on the content of a record, never on its position.

Records are ranked by a seeded hash of their key. A subset is the head of that ranking, so a larger
subset contains a smaller one, and neither the order of a file nor the number of hosts matters.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

from restem.errors import UserError

T = TypeVar("T")


def rank(key: str, *, seed: int, salt: str) -> int:
    """Returns a uniform 64-bit integer that depends only on its arguments."""
    digest = hashlib.sha256(f"{salt}\0{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def subset(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, salt: str = "subset"
) -> list[T]:
    """Returns `size` items (all, if there are fewer) chosen by `seed`, in their original order.

    For the same seed, a smaller subset is contained in a larger one.

    Raises:
      UserError: `size` is negative.
    """
    if size < 0:
        raise UserError(f"a limit on problems must be 0 or more, not {size}")
    chosen = _lowest(items, size, key=key, seed=seed, salt=salt)
    return [item for i, item in enumerate(items) if i in chosen]


def carve(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, setting: str
) -> tuple[list[T], list[T]]:
    """Returns (rest, held out): `size` items are held out of a training split.

    This makes the validation split of data sets that have none. For the same seed, a smaller
    held-out set is contained in a larger one.

    Args:
      items: training split.
      size: number of items to hold out.
      key: key of an item, which decides its rank.
      seed: seed of the choice.
      setting: name of the setting that gave `size`, for the message.

    Raises:
      UserError: `size` is negative or leaves nothing to train on.
    """
    if not 0 <= size < max(len(items), 1):
        raise UserError(
            f"{setting} = {size}: cannot hold out {size} of {len(items)} training problems; choose "
            "a size from 0 to one less than their number"
        )
    held = _lowest(items, size, key=key, seed=seed, salt="validation")
    return (
        [item for i, item in enumerate(items) if i not in held],
        [item for i, item in enumerate(items) if i in held],
    )


def _lowest(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, salt: str
) -> set[int]:
    """Returns the positions of the `size` items of lowest rank."""
    ranks = ((rank(key(item), seed=seed, salt=salt), i) for i, item in enumerate(items))
    return {i for _, i in heapq.nsmallest(size, ranks)}

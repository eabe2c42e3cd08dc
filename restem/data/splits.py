"""Splits and subsets that depend on what a record is, never on its position.

Records are ranked by a seeded hash of their key. A subset is the head of that ranking, so a smaller
one is part of a larger one, and neither the order of a file nor the number of hosts matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from restem.errors import UserError

T = TypeVar("T")


def rank(key: str, *, seed: int, salt: str) -> int:
    """A uniform 64-bit integer that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}\0{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def subset(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, salt: str = "subset"
) -> list[T]:
    """`size` items (all where there are fewer), chosen by seed, in their own order.

    For one seed, a smaller subset is contained in a larger one.
    """
    if size < 0:
        raise UserError(f"a limit on problems must be 0 or more, not {size}")
    chosen = _lowest(items, size, key=key, seed=seed, salt=salt)
    return [item for i, item in enumerate(items) if i in chosen]


def carve(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, what: str
) -> tuple[list[T], list[T]]:
    """(rest, held out): a validation split of exactly `size` items taken out of a training split.

    For data sets that have none of their own. For one seed, a smaller validation split is contained
    in a larger one.

    Raises:
      UserError: `size` leaves nothing to train on.
    """
    if not 0 <= size < max(len(items), 1):
        raise UserError(
            f"{what}: a validation split of {size} cannot be taken out of {len(items)} training "
            "problems; choose a smaller validation_size"
        )
    held = _lowest(items, size, key=key, seed=seed, salt="validation")
    return (
        [item for i, item in enumerate(items) if i not in held],
        [item for i, item in enumerate(items) if i in held],
    )


def _lowest(
    items: Sequence[T], size: int, *, key: Callable[[T], str], seed: int, salt: str
) -> set[int]:
    """Positions of the `size` items that rank lowest."""
    order = sorted(range(len(items)), key=lambda i: (rank(key(items[i]), seed=seed, salt=salt), i))
    return set(order[:size])

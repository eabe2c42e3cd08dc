"""How many queries attend at a time, so that attention's scores take little memory."""

from __future__ import annotations

from restem.models import sharding

MOST_SCORES = 2**28
"""Largest number of bytes of the attention scores that one layer has at a time on a device."""
MOST_SCORES_ON_CPU = 2**24
"""The same on a CPU, where scores that stay in its caches take less time."""


def query_block(rows: int, heads: int, queries: int, keys: int, most: int) -> int | None:
    """Returns how many queries attend at a time, so that scores take at most `most` bytes.

    Scores are [rows, heads, queries, keys] float32. For 8 rows of 4,096 tokens and 32 heads, all at
    once would take 16 GiB: 64 queries at a time take 256 MiB.

    Args:
      rows: rows of the batch on a device.
      heads: query heads on a device.
      queries: queries of each row on a device.
      keys: keys that each query is scored against.
      most: largest number of bytes of the scores on a device.

    Returns:
      The largest divisor of `queries` within the bound, unless it is less than half of the largest
      multiple of 8 within the bound (or of 8). Then that multiple, and the last block is shorter.
      Where the length is split over devices, which need equal blocks, it is the largest divisor, or
      the smallest from 8 on. None: all queries at once.
    """
    of_query = 4 * rows * heads * keys
    if of_query * queries <= most:
        return None
    divisors = [n for n in range(8, queries) if queries % n == 0]
    fitting = [n for n in divisors if n * of_query <= most]
    if sharding.parts("length") > 1:
        return max(fitting, default=min(divisors, default=None))
    multiple = max(8, most // of_query // 8 * 8)
    if fitting and 2 * max(fitting) >= multiple:
        return max(fitting)
    return multiple if multiple < queries else None

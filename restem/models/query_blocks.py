"""How many queries attend at a time, so that attention's scores take little memory."""

from __future__ import annotations

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
      The largest divisor of `queries` that is within the bound, else the smallest that is not less
      than 8; None if all queries at once are within it.
    """
    of_query = 4 * rows * heads * keys
    if of_query * queries <= most:
        return None
    divisors = [n for n in range(8, queries) if queries % n == 0]
    fitting = [n for n in divisors if n * of_query <= most]
    return max(fitting, default=min(divisors, default=None))

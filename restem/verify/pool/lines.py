"""The detail of a verdict as one line of ASCII."""

from __future__ import annotations


def one_line(text: str, limit: int) -> str:
    """Returns `text` on one line of at most `limit` characters; reads no more than it needs."""
    # An escaped character takes at most ten places, and the cut must be visible.
    text = text.strip() if len(text) <= 2 * limit else text[: 4 * limit].lstrip()[: 2 * limit]
    text = text.replace("\n", "\\n").encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."

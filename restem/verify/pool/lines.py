"""One line of ASCII for the detail of a verdict."""

from __future__ import annotations


def one_line(text: str, limit: int) -> str:
    """Returns `text` on one line of at most `limit` characters; looks at no more than it needs."""
    # A character takes ten places at most once it is escaped, and the cut must show.
    text = text.strip() if len(text) <= 2 * limit else text[: 4 * limit].lstrip()[: 2 * limit]
    text = text.replace("\n", "\\n").encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."

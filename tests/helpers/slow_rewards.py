"""A reward that takes its time, so that a job can be met in the middle of a step."""

import string
import time


def letters(problem, text: str) -> float:
    """The share of lower-case letters, after a moment."""
    del problem
    time.sleep(0.02)
    return sum(c in string.ascii_lowercase for c in text) / max(1, len(text))

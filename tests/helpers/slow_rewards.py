"""A slow reward, so that a test can interrupt a job in the middle of a step."""

import string
import time


def letters(problem, text: str) -> float:
    """Returns the share of lower-case letters after a moment, which is longer for test problems.

    All answers of an evaluation are decoded together: only their verdicts come one by one.
    """
    time.sleep(0.5 if problem.split == "test" else 0.02)
    return sum(c in string.ascii_lowercase for c in text) / max(1, len(text))

"""Which solutions of a problem count as the same: by their text, or by their equations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping

from restem.records import Sample


def exact_text(sample: Sample) -> str:
    """Two solutions are the same if their text is, white space aside."""
    return " ".join(sample.text.split())


_MATH_CHARACTERS = re.compile(r"[^0-9a-zA-Z+\-*/^().,\\{}=<>|!%]")


def equation_set(sample: Sample) -> str:
    """Two solutions are the same if they write the same equations, in whatever order and words.

    Yuan et al. 2023 (RFT), section 3.3, compare lists of calculator annotations; free text has
    none, so the equations are read off it: what stands on both sides of an `=` that has a digit.
    A solution without equations is compared by its text.
    """
    equations = set()
    for line in sample.text.splitlines():
        parts = line.split("=")
        for left, right in itertools.pairwise(parts):
            left = _side(left, last=True)
            right = _side(right, last=False)
            if left and right and any(c.isdigit() for c in left + right):
                equations.add(f"{left}={right}")
    return " ; ".join(sorted(equations)) or exact_text(sample)


def _side(text: str, *, last: bool) -> str:
    """The formula that touches an equals sign: words end it."""
    pieces = re.split(r"(?:(?<![\\a-zA-Z])[a-zA-Z]{2,}|[$,;:]|(?<=[^\d])\.(?=\s|$)|\.\s)", text)
    return "".join(_MATH_CHARACTERS.sub("", pieces[-1 if last else 0]).split()).rstrip(".")


DISTINCT: Mapping[str, Callable[[Sample], str] | None] = {
    "none": None,
    "text": exact_text,
    "equations": equation_set,
}

"""Which solutions of a problem count as the same: equal texts, or equal equations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping

from restem.records import Sample


def exact_text(sample: Sample) -> str:
    """Returns the text without differences in white space."""
    return " ".join(sample.text.split())


_CURRENCY = re.compile(r"\\?\$(?=[\d.])")
"""A dollar sign before an amount; where it opens a formula, nothing before the digit is lost."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MATH_CHARACTERS = re.compile(r"[^0-9a-zA-Z+\-*/^().,\\{}=<>|!%]")


def equation_set(sample: Sample) -> str:
    """Returns the solution's equations, whatever their order and the words around them.

    Yuan et al. 2023 (RFT), section 3.3, compare lists of calculator annotations. Free text has
    none, so an equation here is what stands on both sides of an `=` and contains a digit. A
    solution without equations is compared by its text.
    """
    equations = set()
    for line in sample.text.splitlines():
        parts = _THOUSANDS.sub("", _CURRENCY.sub("", line)).split("=")
        for left, right in itertools.pairwise(parts):
            left = _side(left, last=True)
            right = _side(right, last=False)
            if left and right and any(c.isdigit() for c in left + right):
                equations.add(f"{left}={right}")
    return " ; ".join(sorted(equations)) or exact_text(sample)


def _side(text: str, *, last: bool) -> str:
    """Returns the formula next to an equals sign; a word ends the formula."""
    pieces = re.split(r"(?:(?<![\\a-zA-Z])[a-zA-Z]{2,}|[$,;:]|(?<=[^\d])\.(?=\s|$)|\.\s)", text)
    return "".join(_MATH_CHARACTERS.sub("", pieces[-1 if last else 0]).split()).rstrip(".")


DISTINCT: Mapping[str, Callable[[Sample], str] | None] = {
    "none": None,
    "text": exact_text,
    "equations": equation_set,
}

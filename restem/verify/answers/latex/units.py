"""Units of measurement: the words that name them, their dimensions and their sizes."""

from __future__ import annotations

import re

_LENGTHS = {
    "mm": 1, "millimeter": 1, "cm": 10, "centimeter": 10, "m": 1000, "meter": 1000, "metre": 1000,
    "km": 10**6, "kilometer": 10**6, "kilometre": 10**6,
}  # fmt: skip
_FEET = {
    "in": 1, "inch": 1, "inche": 1, "ft": 12, "feet": 12, "foot": 12, "yd": 36, "yard": 36,
    "mi": 63360, "mile": 63360,
}  # fmt: skip
_TIMES = {
    "sec": 1, "second": 1, "s": 1, "min": 60, "minute": 60, "hr": 3600, "hour": 3600, "h": 3600,
    "day": 86400, "week": 604800,
}  # fmt: skip
_MASSES = {"mg": 1, "g": 1000, "gm": 1000, "gram": 1000, "kg": 10**6, "kilogram": 10**6}
_WEIGHTS = {"oz": 1, "ounce": 1, "lb": 16, "pound": 16}
_MONEY = {"cent": 1, "¢": 1, "dollar": 100, "usd": 100}
_EUROS = {"euro": 1}
_CLOCK = frozenset(("am", "pm"))
_UNIT_TABLES = {
    "metric": _LENGTHS, "imperial": _FEET, "time": _TIMES, "mass": _MASSES, "weight": _WEIGHTS,
    "money": _MONEY, "euros": _EUROS,
}  # fmt: skip
_SHORT_WORDS = (
    "cm mm km ft yd mi mg kg gm lb lbs oz hr hrs sec min mph rpm usd deg sq cu am pm and or odd "
    "yes no one two six ten red all none feet men day days ways per pct mod"
)
SHORT_WORDS = frozenset(_SHORT_WORDS.split())
"""Words of two or three letters that, outside `\\text`, are not products of variables."""


def measure(words: str, power: int) -> tuple[str, int] | None:
    """Returns the dimension and the size of a unit, or None for words that are not units.

    `("cm", 2)` and `("square centimeters", 1)` are both `("metric^2", 100)`: square millimeters.
    Compound units (`miles per hour`) are not recognised.
    """
    words = re.sub(r"[.,;:()]", "", words.casefold()).strip()
    words = re.sub(r"^(?:sq|square)\s+", "\x02", words)
    words = re.sub(r"^(?:cu|cubic)\s+", "\x03", words)
    if words[:1] in ("\x02", "\x03"):
        power *= ord(words[0])
        words = words[1:]
    name = words.replace(" ", "")
    if name in _CLOCK:
        return ("clock:" + name, 1)
    for dimension, table in _UNIT_TABLES.items():
        size = table.get(name) or table.get(name.removesuffix("s"))
        if size:
            return (f"{dimension}^{power}", size**power)
    return None


def names_unit(word: str) -> bool:
    """Returns whether letters right after a number name a unit: `5kg`, but not `5x` or `5M`."""
    if len(word) == 1 and word.isupper():
        return False
    return word.lower() in SHORT_WORDS or measure(word, 1) is not None

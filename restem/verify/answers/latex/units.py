"""Units of measurement: the words that name them, their dimensions and their sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

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
_CALENDAR = {"month": 1, "year": 12, "yr": 12, "decade": 120, "century": 1200, "centurie": 1200}
_VOLUMES = {"teaspoon": 1, "tablespoon": 3, "cup": 48, "pint": 96, "quart": 192, "gallon": 768}
_ANGLES = {"radian": 1, "rad": 1}
_CLOCK = frozenset(("am", "pm"))
_UNIT_TABLES = {
    "metric": _LENGTHS, "imperial": _FEET, "time": _TIMES, "mass": _MASSES, "weight": _WEIGHTS,
    "money": _MONEY, "euros": _EUROS, "calendar": _CALENDAR, "volume": _VOLUMES, "angle": _ANGLES,
}  # fmt: skip
_DERIVED = {
    "ml": ("metric", 3, 10**3), "milliliter": ("metric", 3, 10**3),
    "millilitre": ("metric", 3, 10**3), "l": ("metric", 3, 10**6), "liter": ("metric", 3, 10**6),
    "litre": ("metric", 3, 10**6), "hectare": ("metric", 2, 10**10),
    "acre": ("imperial", 2, 43560 * 144), "ton": ("weight", 1, 32000), "tonne": ("mass", 1, 10**9),
}  # fmt: skip
"""Units that are powers of a table's unit: the table, the power and the size."""
_DOUBTS = frozenset((
    "not", "but", "or", "wrong", "incorrect", "false", "maybe", "perhaps", "possibly", "might",
    "instead", "unless", "unsure",
))  # fmt: skip
_RATES = {"mph": "miles per hour", "kph": "km per hour"}
_PER = re.compile(r"/|\bper\b")
SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "hundreds": 100, "thousands": 10**3, "millions": 10**6, "billions": 10**9,
    "trillions": 10**12, "dozens": 12,
}  # fmt: skip
"""Words that multiply the number before them."""
_SHORT_WORDS = (
    "cm mm km ft yd mi mg kg gm lb lbs oz hr hrs sec min mph rpm usd deg sq cu am pm and or odd "
    "yes no one two six ten red all none feet men day days ways per pct mod"
)
_SIGNS = frozenset(("percent", "degree", "degrees"))
SHORT_WORDS = frozenset(_SHORT_WORDS.split())
"""Words of two or three letters that, outside `\\text`, are not products of variables."""


def measure(words: str, power: int) -> tuple[str, int] | None:
    """Returns the dimension and the size of a unit, or None for words that are not units.

    `("cm", 2)` and `("square centimeters", 1)` are both `("metric^2", 100)`: square millimeters.
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
    if derived := _DERIVED.get(name) or _DERIVED.get(name.removesuffix("s")):
        dimension, exponent, size = derived
        return (f"{dimension}^{exponent * power}", size**power)
    for dimension, table in _UNIT_TABLES.items():
        size = table.get(name) or table.get(name.removesuffix("s"))
        if size:
            return (f"{dimension}^{power}", size**power)
    return None


def measures(units: Sequence[tuple[str, int]]) -> list[tuple[str, int | Fraction]]:
    """Returns the dimension and the size of each unit; words that measure nothing are left out."""
    return [found for words, power in units if (found := measure(words, power))]


def rate(units: Sequence[tuple[str, int]]) -> tuple[str, int | Fraction] | None:
    """Returns the dimension and the size of a unit per unit, such as `miles per hour` or `m/s^2`.

    Args:
      units: words and power of each unit, as in `nodes.Quantity`; `$5 per hour` has two.

    Returns:
      None for other units, and for rates of what is not measured, as in `miles per trip`.
    """
    words = " ".join(words for words, _ in units)
    parts = _PER.split(_RATES.get(words.strip(), words))
    if len(parts) != 2:
        return None
    above, below = measure(parts[0], 1), measure(parts[1], units[-1][1])
    if above is None or below is None:
        return None
    return f"{above[0]}/{below[0]}", Fraction(above[1], below[1])


def names_unit(word: str) -> bool:
    """Returns whether letters right after a number name a unit: `5kg`, but not `5x` or `5M`."""
    if len(word) == 1 and word.isupper():
        return False
    return word.lower() in SHORT_WORDS | _SIGNS or measure(word, 1) is not None


def takes_back(words: str) -> bool:
    """Returns whether words after a value deny it or name another one: "is wrong", "or maybe"."""
    return not _DOUBTS.isdisjoint(re.findall(r"[a-z]+", words.casefold()))


def measures_nothing(words: str) -> bool:
    """Returns whether no word is a unit: true of "apples", but not of "feet tall" or "units"."""
    return not any("unit" in word or measure(word, 1) for word in words.casefold().split())

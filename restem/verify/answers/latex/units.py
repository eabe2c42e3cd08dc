"""Units of measurement: the words that name them, their dimensions and their sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

from restem.verify.answers.latex.notation import NUMBER_WORDS, PARTS, named_number

Units = Sequence[tuple[str, int]]
"""Words and power of each unit of a value, as in `nodes.Quantity`; `$5 per hour` has two."""

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
_CLOCK = {
    "am": "am", "a m": "am", "in the morning": "am", "pm": "pm", "p m": "pm", "noon": "pm",
    "in the afternoon": "pm", "in the evening": "pm", "at night": "pm",
}  # fmt: skip
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
_POWERS = (
    (2, re.compile(r"^(?:sq|square)\s+|\s+(?:sq|squared)$|\^\{?2\}?$")),
    (3, re.compile(r"^(?:cu|cubic)\s+|\s+cubed$|\^\{?3\}?$")),
)
"""How powers of units are written, apart from an exponent after `\\text`."""
_DOUBTS = frozenset((
    "not", "but", "or", "wrong", "incorrect", "false", "maybe", "perhaps", "possibly", "might",
    "instead", "unless", "unsure",
))  # fmt: skip
"""Words after a value that take it back."""
_NUMBER_WORD = rf"(?:{'|'.join(NUMBER_WORDS)})\b"
_CHANGES = re.compile(
    r"\W*(?:(?:squared|cubed|factorial|mod|modulo|to the (?:\w+ )?power"
    rf"|to the (?:second|{'|'.join(PARTS)}))\b"
    rf"|(?:point|times|over|choose) {_NUMBER_WORD})"
    r"|.*\b(?:(?:plus|minus)(?! signs?)|divided by|multiplied by|below zero)\b"
    r"|\s*(?:[!=<>+*]|\^ ?\{?[\da-z]|[-/x] ?[\d(])",
    re.IGNORECASE | re.DOTALL,
)
"""What computes with the value before it, rather than saying what it counts."""
_DATE = re.compile(
    r"\s*(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b",
    re.IGNORECASE,
)
"""What makes the number before it a day of the year."""
_RATES = {
    "mph": "miles per hour", "kph": "km per hour", "kmh": "km per hour", "mpg": "miles per gallon",
}  # fmt: skip
_PER = re.compile(r"/|\bper\b")
_EACH = re.compile(r"(?<![\w.])(?<!of )(?:(?:in|for)\s+)?(?:an?|one|each|every)\s+", re.IGNORECASE)
"""What may say "per", as in `miles an hour`, or only when something happens."""
_STOPS = frozenset((
    "a", "an", "and", "at", "by", "each", "every", "for", "from", "in", "is", "of", "on", "per",
    "percent", "the", "than", "to", "with",
))  # fmt: skip
"""Words after which a unit is no longer that of the value: `out of 7 days`."""
_MAX_RUN = 3
"""Number of words of the longest unit."""
_MAX_SKIPPED = 3
"""Number of words that may precede a unit: `more`, `US`."""
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
    name = re.sub(r"[.,;:()]", "", words.casefold().replace("-", " ")).strip()
    for exponent, pattern in _POWERS:
        name, count = pattern.subn("", name, count=1)
        power *= exponent**count
    if name in _CLOCK:
        return ("clock:" + _CLOCK[name], 1)
    # `ms` are no meters.
    singular = name.removesuffix("s") if len(name) > 2 else name
    if derived := _DERIVED.get(name) or _DERIVED.get(singular):
        dimension, exponent, size = derived
        return (f"{dimension}^{exponent * power}", size**power)
    for dimension, table in _UNIT_TABLES.items():
        size = table.get(name) or table.get(singular)
        if size:
            return (f"{dimension}^{power}", size**power)
    return None


def measures(units: Units) -> list[tuple[str, int]]:
    """Returns the dimension and the size of each unit; words that measure nothing are left out."""
    return [found for words, power in units if (found := measure(words, power))]


_ANY = ("", 1)
"""Stands for a unit that is left out or not known, which agrees with all units."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """What a value is measured in, as in `miles long`, `miles per hour` or `apples per day`."""

    above: tuple[str, int] | None
    """Dimension and size before "per"; None for things that are counted."""
    below: tuple[str, int] | None = None
    """Dimension and size after "per"; None if there is none."""

    @property
    def is_clock(self) -> bool:
        """Whether it is a half of the day (a.m., p.m.)."""
        return self.above is not None and self.above[0].startswith("clock")

    def factors(self, other: Unit) -> tuple[Fraction, Fraction] | None:
        """Returns what to multiply values in this unit and in another by, before comparing them.

        Returns:
          None if the units measure different quantities. The price per item may be given as an
          amount of money.
        """
        mine, theirs = Fraction(1), Fraction(1)
        if _ANY not in (self.above, other.above):
            if self.above is None or other.above is None:
                if self.above is not other.above:
                    return None
            elif self.above[0] != other.above[0]:
                return None
            else:
                mine, theirs = Fraction(self.above[1]), Fraction(other.above[1])
        if _ANY in (self.below, other.below):
            return mine, theirs
        if self.below is not None and other.below is not None:
            if self.below[0] != other.below[0]:
                return None
            return mine / self.below[1], theirs / other.below[1]
        rate, plain = (self, other) if other.below is None else (other, self)
        if rate.below is None:
            return mine, theirs
        assert plain.above is not None
        if rate.above == _ANY and plain.above[0] != rate.below[0]:
            return mine, theirs
        return (mine, theirs) if plain.above[0] in ("money^1", "euros^1") else None


RADIAN = Unit(("angle^1", 1))


def readings(units: Units) -> list[Unit]:
    """Returns what units, with the words around them, may mean; nothing if they measure nothing."""
    words = " ".join(words for words, _ in units)
    words = " ".join(_RATES.get(word.casefold().strip(".,"), word) for word in words.split())
    power = units[-1][1] if units else 1
    parts = _PER.split(words)
    if len(parts) > 1:
        above = _leading(parts[0], units[0][1] if len(units) > 1 else 1)
        below = _leading(parts[1], power) if len(parts) == 2 else None
        if above is None and below is None:
            return []
        if not parts[0].strip():
            above = _ANY
        return [Unit(above, below or _ANY)]
    match = None if measure(words, power) else _EACH.search(words)
    below = _leading(words[match.end() :], power) if match else None
    if match and below:
        above = _leading(words[: match.start()], 1)
        if above is None:
            return [Unit(None if words[: match.start()].strip() else _ANY, below)]
        return [Unit(above, below), Unit(above)]
    found = [unit for words, power in units if (unit := _leading(words, power))]
    if len(found) > 1 and {unit[0] for unit in found} != {"money^1"}:
        # `5 ft \\cdot 3 ft`; but `$5 dollars` is an amount of money.
        return []
    return [Unit(found[0])] if found else []


def are_mixed(units: Units) -> bool:
    """Returns whether one dimension is measured in two units, as in `2 hours + 30 minutes`."""
    found = set(measures(units))
    return len({dimension for dimension, _ in found}) < len(found)


def _leading(words: str, power: int) -> tuple[str, int] | None:
    """Returns the dimension and the size of the first unit among words, as in `more inches of`."""
    if found := measure(words, power):
        return found
    pieces = words.casefold().replace("-", " ").split()
    for start in range(min(len(pieces), _MAX_SKIPPED + 1)):
        for end in range(min(start + _MAX_RUN, len(pieces)), start, -1):
            run = " ".join(pieces[start:end])
            found = measure(run, power if end == len(pieces) else 1)
            # `5 in all` are no inches. After other words, short names may mean anything.
            ambiguous = run in ("in", "second") or (start and len(run.strip(".,;:()")) < 4)
            if found and not ambiguous and not (start and found[0].startswith("clock")):
                return found
        if pieces[start].strip(".,;:()") in _STOPS:
            return None
    return None


def names_unit(word: str) -> bool:
    """Returns whether letters right after a number name a unit: `5kg`, but not `5x` or `5M`."""
    if len(word) == 1 and word.isupper():
        return False
    return word.lower() in SHORT_WORDS | _SIGNS or measure(word, 1) is not None


def takes_back(words: str) -> bool:
    """Returns whether words after a value deny it or name another one: "is wrong", "January"."""
    words = words.casefold()
    doubts = not _DOUBTS.isdisjoint(re.findall(r"[a-z]+", words))
    return doubts or "n't" in words or _DATE.match(words) is not None


def changes_value(words: str) -> bool:
    """Returns whether words after a value change it: "squared", "plus one", or signs alone."""
    if named_number(words) is not None or _CHANGES.match(words):
        return True
    named = any(char.isalpha() for char in words) or measure(words, 1) is not None
    return not named and not set(words) <= set("'\" ")


def measures_nothing(words: str) -> bool:
    """Returns whether no word is a unit: true of "apples", but not of "feet tall" or "units"."""
    return not any("unit" in word or measure(word, 1) for word in words.casefold().split())

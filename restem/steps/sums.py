"""Sums over the shards of a step: exact, so that neither hosts nor restarts change a digit."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from typing import Any


@dataclasses.dataclass
class Sums:
    """Counts, sums of floats and bounds, by name; those of two shards can be added."""

    totals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Whole numbers and exact sums of floats."""
    bounds: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Smallest and largest value."""

    def __getitem__(self, name: str) -> int:
        """Returns a count; 0 if nothing was counted."""
        return int(self.totals[name])

    def count(self, **counts: int) -> None:
        """Adds to counts."""
        self.totals.update(counts)

    def observe(self, name: str, values: Iterable[float]) -> None:
        """Adds values to the sum of a name, and extends its bounds."""
        values = list(values)
        if values:
            # Rewards have few values, and a fraction of each is exact where a float sum rounds.
            counts = collections.Counter(values)
            exact = sum(Fraction(value) * count for value, count in counts.items())
            self.totals[name] += exact  # type: ignore[assignment]
            self._extend(name, min(values), max(values))

    def mean(self, name: str, count: int) -> float:
        """Returns the sum of a name, divided by `count`; 0.0 if that is 0."""
        return float(Fraction(self.totals[name]) / count) if count else 0.0

    def add(self, other: Sums) -> None:
        """Adds the sums of other shards."""
        self.totals.update(other.totals)
        for name, (low, high) in other.bounds.items():
            self._extend(name, low, high)

    def _extend(self, name: str, low: float, high: float) -> None:
        lowest, highest = self.bounds.get(name, (low, high))
        self.bounds[name] = min(low, lowest), max(high, highest)

    def to_json(self) -> dict[str, Any]:
        """Returns the sums as JSON; `from_json` is the inverse."""
        totals = {name: str(value) for name, value in self.totals.items()}
        return {"totals": totals, "bounds": {k: list(v) for k, v in self.bounds.items()}}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Sums:
        totals = {name: Fraction(value) for name, value in fields["totals"].items()}
        bounds = {name: (low, high) for name, (low, high) in fields["bounds"].items()}
        return cls(collections.Counter(totals), bounds)

    @classmethod
    def of_hosts(cls, gathered: Iterable[dict[str, Any]]) -> Sums:
        """Returns the sum of what hosts have sent as JSON."""
        total = cls()
        for fields in gathered:
            total.add(cls.from_json(fields))
        return total

"""What the JSON reports of a run's steps say, as far as they can be understood.

A report may come from another version or have been edited by hand. A value that is missing or of
another type reads as None, or as empty; a report that would be misread raises a UserError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from restem.errors import UserError

_REMEDY = "restore the file, or delete it and run the same command again"

_COUNTS = ("n", "num_test", "num_overlapping", "num_equal", "fraction")
"""Numbers of a task in `contamination.json`."""

_TEXTS = ("test_id", "train_id", "shared")
"""Texts of a pair of problems there."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One `evals/NAME.json`."""

    name: str
    """Name of the file: the task, followed by the split unless that is "test"."""
    task: str
    split: str
    values: Mapping[str, Any]
    """Contents of the file."""

    @property
    def pass1(self) -> float | None:
        """Pass@1; for an exam graded by a human, the share of the points."""
        found = number(self.values.get("pass@1"))
        return number(self.values.get("score")) if found is None else found

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of pass@1."""
        bounds = self.values.get("ci95")
        if isinstance(bounds, Sequence) and len(bounds) == 2 and None not in map(number, bounds):
            return float(bounds[0]), float(bounds[1])
        return None

    @property
    def count(self) -> int | None:
        """Number of problems."""
        n = number(self.values.get("n"))
        return None if n is None else int(n)

    @property
    def mean_reward(self) -> float | None:
        """Mean reward, if rewards are not merely 1 for correct and 0 for incorrect answers."""
        if self.values.get("binary") is not False:
            return None
        return number(self.values.get("mean_reward"))

    @property
    def seconds(self) -> float:
        return number(self.values.get("seconds")) or 0.0

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Returns {"1": .., "8": ..} ("pass@k" or "maj@k") as sorted (k, value) pairs."""
        pairs = mapping(self.values.get(name)).items()
        return sorted((int(k), float(v)) for k, v in pairs if number(v) is not None)


def check_curves(path: epath.Path, values: Mapping[str, Any]) -> None:
    """Checks that pass@k and maj@k in an evaluation are given for whole numbers k.

    Raises:
      UserError: they are not; it names the file.
    """
    for name in ("pass@k", "maj@k"):
        if wrong := [k for k in mapping(values.get(name)) if not k.isdecimal()]:
            raise UserError(f"{path}: {wrong[0]!r} is no k of {name}; {_REMEDY}")


def check_contamination(path: epath.Path, tasks: Mapping[str, Any]) -> None:
    """Checks that the entries of `contamination.json` that the report reads are there.

    Raises:
      UserError: an entry is missing; it names the file.
    """
    for task, found in tasks.items():
        values = mapping(found)
        lacks = [name for name in _COUNTS if number(values.get(name)) is None]
        pairs = values.get("overlapping")
        if not isinstance(pairs, list):
            lacks.append("overlapping")
        else:
            of_pairs = [mapping(pair) for pair in pairs]
            lacks += [name for name in _TEXTS if any(not text(p.get(name)) for p in of_pairs)]
            lacks += ["fraction"] * any(number(p.get("fraction")) is None for p in of_pairs)
        if lacks:
            raise UserError(f"{path}: {task} lacks {', '.join(lacks)}; {_REMEDY}")


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns a JSON object, and {} for anything else."""
    return value if isinstance(value, Mapping) else {}


def text(value: Any) -> str:
    """Returns a string, and "" for anything else."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> float | None:
    """Returns a finite number as a float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if np.isfinite(value) else None


def curve(value: Any) -> list[tuple[float, float]]:
    """Returns the pairs of finite numbers in [[step, value], ...]; drops all other items."""
    pairs = value if isinstance(value, list) else []
    clean = [(number(p[0]), number(p[1])) for p in pairs if isinstance(p, list) and len(p) == 2]
    return [(x, y) for x, y in clean if x is not None and y is not None]

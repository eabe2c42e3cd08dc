"""The resources of a task's grader: time, memory and worker processes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Resources:
    """Limits that a grader's mapping may set beside its own options; None leaves the default."""

    time_limit_s: float | None = None
    """Wall-clock seconds for one sample, or for one test of a program."""
    memory_mb: int | None = None
    """Memory of one worker, or of a program, in MiB."""
    workers: int | None = None
    """Worker processes; the default is one per usable core."""

    def __post_init__(self) -> None:
        for name, whole, least in (
            ("time_limit_s", False, 0), ("memory_mb", True, 64), ("workers", True, 1)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None:
                continue
            kinds = int if whole else (int, float)
            good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
            if not good or value < least or value == 0:
                wanted = f"a whole number of at least {least}" if whole else "a positive number"
                raise UserError(f"the verifier's {name} is {value!r}; give {wanted}")


NAMES = frozenset(field.name for field in dataclasses.fields(Resources))
"""Keys of a grader's mapping that set its resources."""


def split(grader: Mapping[str, Any]) -> tuple[Resources, dict[str, Any]]:
    """Returns the resources that a grader's mapping sets, and the rest of the mapping.

    Raises:
      UserError: if a limit is out of range or of the wrong type.
    """
    rest = {name: value for name, value in grader.items() if name not in NAMES}
    return Resources(**{name: grader[name] for name in NAMES & set(grader)}), rest


def merged(first: Resources, second: Resources) -> Resources:
    """Returns `first`, with the limits of `second` for those that it does not set."""
    values = {name: getattr(first, name) for name in NAMES}
    return Resources(**{n: getattr(second, n) if v is None else v for n, v in values.items()})

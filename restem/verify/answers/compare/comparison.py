"""The outcome of a comparison."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two answers or parts of answers are equal, and how that was decided."""

    equal: bool
    """Whether equality was shown."""
    method: str
    """Kind of comparison: "numeric", "symbolic", "list", "interval", ..."""
    detail: str = ""
    """Reason why equality could not be shown."""
    evidence: str = ""
    """Evidence that equality rests on; empty for a proof."""
    undecided: bool = False
    """Whether equality was neither shown nor refuted."""

"""What MATH's conventions leave open, as options of the comparison."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """What MATH's conventions leave open."""

    percent: str = "either"
    """How `50\\%` compares with an answer without the sign: "unit" (it is 50), "value" (it is
    1/2) or "either". With the sign on both sides, numbers are compared; without, a factor of 100
    is never forgiven."""
    degrees: str = "either"
    """Likewise for `45^\\circ`: 45, pi/4, or either. Inside sine and its kin always the angle."""
    units: str = "check"
    """"check": where both answers name a physical unit these must agree (`0.25` cm is `2.5` mm);
    a unit on one side only, and words that measure nothing ("ways"), are dropped. "ignore": all
    units are dropped."""
    bases: str = "optional"
    """"optional": `1011` is accepted for `1011_2`, digits compared as written; "required": it is
    not. Another base is never accepted, though the number be the same: the conversion was the
    question. "value": only the number counts."""
    labels: bool = True
    """Accept `x = 5` or `f(x) = 5` for `5`, and the reverse."""
    bare_lists: bool = False
    """Accept `1, 2` for the point or vector `(1, 2)`, and the reverse, in the same order."""
    multiplicity: bool = True
    """In lists, `1, 1, 2` differs from `1, 2`. Sets in braces never count multiplicity."""
    ratios: bool = True
    """Accept the fraction 3/5 for the ratio `3:5`, and the reverse."""
    log_base: int = 10
    """The base of `\\log` without one; `\\ln` is natural."""

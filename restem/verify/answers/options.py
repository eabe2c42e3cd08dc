"""Options of the comparison: what MATH's conventions leave open."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """What MATH's conventions leave open."""

    percent: str = "either"
    """Value of `50\\%` against an answer without the sign: "unit" (50), "value" (1/2) or "either".
    With the sign on both sides the numbers are compared; with the sign on neither, a factor of 100
    is never forgiven."""
    degrees: str = "either"
    """Value of `45^\\circ` against an answer without the sign: "unit" (45), "value" (pi/4) or
    "either". The argument of a trigonometric function is always the angle."""
    units: str = "check"
    """"check": if both answers name a physical unit, the units must agree (`0.25` cm is `2.5` mm);
    a unit on one side only, and words that measure nothing ("ways"), are dropped. "ignore": all
    units are dropped."""
    bases: str = "optional"
    """"optional": `1011` is accepted for `1011_2`, digits compared as written; "required": it is
    not. Another base is never accepted, even for the same number, since the problem asked for the
    conversion. "value": only the number counts."""
    labels: bool = True
    """Accept `x = 5` or `f(x) = 5` for `5`, and the reverse."""
    bare_lists: bool = False
    """Accept `1, 2` for the point or vector `(1, 2)`, and the reverse, in the same order."""
    multiplicity: bool = True
    """In lists, `1, 1, 2` differs from `1, 2`. Sets in braces never count multiplicity."""
    ratios: bool = True
    """Accept the fraction 3/5 for the ratio `3:5`, and the reverse."""
    log_base: int = 10
    """Base of a `\\log` that states none; `\\ln` is natural."""

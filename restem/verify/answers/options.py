"""Options of the comparison: what MATH's conventions leave open."""

from __future__ import annotations

import dataclasses

from restem.errors import UserError

_CHOICES = {
    "percent": ("either", "unit", "value"),
    "degrees": ("either", "unit", "value"),
    "units": ("check", "ignore"),
    "bases": ("optional", "required", "value"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What MATH's conventions leave open.

    Raises:
      UserError: if an option has an invalid value.
    """

    percent: str = "either"
    """Value of `50\\%` against an answer without the sign: "unit" (50), "value" (1/2) or "either".
    With the sign on both sides the numbers are compared; with the sign on neither, a factor of 100
    is never forgiven."""
    degrees: str = "either"
    """Value of `45^\\circ` against an answer without the sign: "unit" (45), "value" (pi/4) or
    "either". The argument of a trigonometric function is always the angle."""
    units: str = "check"
    """"check": if both answers name a physical unit, with or without other words ("inches long"),
    the units must agree (`0.25` cm is `2.5` mm); a unit on one side only, and words that measure
    nothing ("ways") beside a number or other such words, are dropped. "ignore": all units are
    dropped."""
    bases: str = "optional"
    """"optional": `1011` is accepted for `1011_2`, digits compared as written; "required": it is
    not. Another base is never accepted, even for the same number, since the problem asked for the
    conversion. "value": only the number counts."""
    labels: bool = True
    """Accept `x = 5` or `f(x) = 5` for `5`, and the reverse; but not `|x| = 5` or `x = 4 = 5`."""
    bare_lists: bool = False
    """Accept `1, 2` for the point or vector `(1, 2)`, and the reverse, in the same order."""
    multiplicity: bool = True
    """In lists, `1, 1, 2` differs from `1, 2`. Sets in braces never count multiplicity."""
    ratios: bool = True
    """Accept the fraction 3/5 for the ratio `3:5`, and the reverse."""
    lowest_terms: bool = False
    """Reduce ratios to lowest terms: accept `2:4` for `1:2`."""
    worked_out: bool = False
    """Where the gold answer is a number, accept only a number: not `6!` for 720, nor 675/900 for
    3/4. Mixed numbers, signs and units are accepted."""
    log_base: int = 10
    """Base of a `\\log` without one; `\\ln` is natural, and `\\lg` is decimal."""
    decimal_comma: bool = False
    """Read `3,14` as 3.14 and `1.234,5` as 1234.5, in both answers. Elements of a list then have a
    space after their comma, or a semicolon."""
    relative_tolerance: float = 0.0
    """Largest difference of two real constants that still counts as equal, as a fraction of the
    gold answer's absolute value."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices = _CHOICES.get(field.name)
            if choices and value not in choices:
                wanted = "one of " + ", ".join(choices)
            elif field.type == "bool" and not isinstance(value, bool):
                wanted = "True or False"
            elif field.name == "log_base" and (type(value) is not int or value < 2):
                wanted = "an integer of at least 2"
            elif field.name == "relative_tolerance" and not (
                isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
            ):
                wanted = "a number of at least 0 and below 1"
            else:
                continue
            raise UserError(f"the math grader's {field.name} is {value!r}; give {wanted}")

"""Former home of `restem.verify.is_equivalent`, importable until 1.0."""

from restem.verify.answers.equivalence import Options, is_equivalent

__all__ = ["Options", "is_equivalent"]

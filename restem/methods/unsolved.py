"""Problems that the policy has not solved, and indices for further samples of them."""

from __future__ import annotations

from collections.abc import Sequence

from restem.records import Problem, Sample


def unsolved(problems: Sequence[Problem], samples: Sequence[Sample]) -> list[Problem]:
    """Returns the problems without a finished correct sample; partial rewards solve nothing."""
    solved = {s.problem_id for s in samples if s.correct and s.finish_reason != "length"}
    return [p for p in problems if p.problem_id not in solved]


def first_free_index(samples: Sequence[Sample]) -> int:
    """Returns the lowest index above those of all samples."""
    return max((s.sample_index for s in samples), default=-1) + 1

"""What the greedy answers of two policies look like, and which of these are correct."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from restem import records
from restem.errors import UserError
from restem.evaluation import comparisons
from restem.records import Sample
from restem.runtime import storage

KINDS: dict[str, Callable[[Sample], bool]] = {
    "truncated": lambda sample: sample.finish_reason == "length",
    "unformatted": lambda sample: sample.unformatted,
}
"""Traits with a name; any other is a regular expression."""

PLACES = ("both", "only A", "only B", "neither")
"""Whose answers to a problem have the trait, in the order of the table."""


class Cell(NamedTuple):
    """Problems whose answers share a trait in the same way."""

    problems: int
    solved_by_a: int
    solved_by_b: int


def trait(name: str) -> Callable[[Sample], bool]:
    """Returns the trait of a name of `KINDS`, or whether a regular expression is found in the text.

    Raises:
      UserError: not a regular expression.
    """
    if name in KINDS:
        return KINDS[name]
    try:
        pattern = re.compile(name, re.MULTILINE)
    except re.error as e:
        raise UserError(
            f"--by={name}: neither {' nor '.join(KINDS)} nor a regular expression ({e})"
        ) from None
    return lambda sample: pattern.search(sample.text) is not None


def breakdown(
    before: Sequence[Sample], after: Sequence[Sample], has: Callable[[Sample], bool]
) -> dict[str, Cell]:
    """Sorts problems by whether the greedy answers of two policies have a trait.

    Args:
      before: answers of policy A.
      after: answers of policy B; problems without a verified answer of both do not count.
      has: the trait.

    Returns:
      The counts for each of `PLACES`; they add up to the problems that count.
    """
    a, b = (_greedy(answers) for answers in (before, after))
    counts = {place: [0, 0, 0] for place in PLACES}
    for problem in a.keys() & b.keys():
        of_a, of_b = has(a[problem]), has(b[problem])
        place = PLACES[0 if of_a and of_b else 1 if of_a else 2 if of_b else 3]
        counts[place][0] += 1
        counts[place][1] += a[problem].correct
        counts[place][2] += b[problem].correct
    return {place: Cell(*count) for place, count in counts.items()}


def _greedy(answers: Sequence[Sample]) -> dict[str, Sample]:
    """Returns the verified greedy answers by problem."""
    index, source = ([getattr(s, name) for s in answers] for name in ("sample_index", "source"))
    greedy = comparisons.greedy_column(np.array(index, np.int32), np.array(source, object))
    return {
        s.problem_id: s
        for s, is_greedy in zip(answers, greedy, strict=True)
        if is_greedy and s.reward is not None
    }


def lines(first: str, second: str, names: Iterable[str]) -> list[str]:
    """Returns the breakdown of two files `evals/TASK.parquet` as a table for each trait.

    Raises:
      UserError: a trait is not a regular expression, or a file is missing or damaged, or has
        several samples per problem and no greedy answers.
    """
    traits = {name: trait(name) for name in names}
    if not traits:
        return []
    before, after = (
        storage.read_records(epath.Path(path), records.samples_from_table)
        for path in (first, second)
    )
    for path, answers in ((first, before), (second, after)):
        if answers and not _greedy(answers):
            raise UserError(f"{path}: has no greedy answers, which --by sorts")
    found = []
    for name, has in traits.items():
        clause = f"are {name}" if name in KINDS else f"match {name}"
        found.append(f"greedy answers that {clause}:")
        for place, cell in breakdown(before, after, has).items():
            found.append(
                f"  {place:8s} {cell.problems:6d} problems: A solves {cell.solved_by_a},"
                f" B solves {cell.solved_by_b}"
            )
    return found

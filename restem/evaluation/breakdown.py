"""What the answers of two policies look like, and which of these are correct."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence, Set
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


class Count(NamedTuple):
    """Samples of a policy, by whether they have a trait."""

    having: int
    correct_having: int
    others: int
    correct_others: int


def sample_counts(
    before: Sequence[Sample], after: Sequence[Sample], has: Callable[[Sample], bool]
) -> tuple[Count, Count] | None:
    """Counts the samples of two policies that have a trait; greedy answers do not count.

    Args:
      before: answers of policy A.
      after: answers of policy B; problems without verified samples of both do not count.
      has: the trait.

    Returns:
      The counts of A and of B; None if they share no problem with samples.
    """
    a, b = (_verified(answers, is_greedy=False) for answers in (before, after))
    shared = {s.problem_id for s in a} & {s.problem_id for s in b}
    return (_count(a, shared, has), _count(b, shared, has)) if shared else None


def _count(answers: Sequence[Sample], problems: Set[str], has: Callable[[Sample], bool]) -> Count:
    of_trait: dict[bool, list[bool]] = {True: [], False: []}
    for s in answers:
        if s.problem_id in problems:
            of_trait[has(s)].append(s.correct)
    having, others = of_trait[True], of_trait[False]
    return Count(len(having), sum(having), len(others), sum(others))


def _verified(answers: Sequence[Sample], *, is_greedy: bool) -> list[Sample]:
    """Returns the verified greedy answers, or the verified samples."""
    index, source = ([getattr(s, name) for s in answers] for name in ("sample_index", "source"))
    greedy = comparisons.greedy_column(np.array(index, np.int32), np.array(source, object))
    return [
        s
        for s, of_greedy in zip(answers, greedy, strict=True)
        if of_greedy == is_greedy and s.reward is not None
    ]


def _greedy(answers: Sequence[Sample]) -> dict[str, Sample]:
    """Returns the verified greedy answers by problem."""
    return {s.problem_id: s for s in _verified(answers, is_greedy=True)}


def lines(first: str, second: str, names: Iterable[str]) -> list[str]:
    """Returns the breakdown of two files `evals/TASK.parquet` by each trait.

    Greedy answers have a table, and so have samples, if both files have them.

    Raises:
      UserError: a trait is not a regular expression, or a file is missing or damaged.
    """
    traits = {name: trait(name) for name in names}
    if not traits:
        return []
    before, after = (
        storage.read_records(epath.Path(path), records.samples_from_table)
        for path in (first, second)
    )
    found = []
    for name, has in traits.items():
        clause = f"are {name}" if name in KINDS else f"match {name}"
        cells = breakdown(before, after, has)
        if any(cell.problems for cell in cells.values()):
            found.append(f"greedy answers that {clause}:")
            found += [
                f"  {place:8s} {cell.problems:6d} problems: A solves {cell.solved_by_a},"
                f" B solves {cell.solved_by_b}"
                for place, cell in cells.items()
            ]
        counts = sample_counts(before, after, has)
        if counts:
            found.append(f"samples that {clause}:")
            found += [
                f"  {policy} {c.having:6d} of {c.having + c.others}, {c.correct_having} of them"
                f" correct; of the others, {c.correct_others}"
                for policy, c in zip("AB", counts, strict=True)
            ]
    return found

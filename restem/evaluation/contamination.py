"""Contamination: test problems whose text overlaps with that of training problems.

Two problems overlap if they share a run of `n` words (13: Brown et al., 2020, appendix C), or if
they are the same text, which also finds problems shorter than that.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.records import Problem

_WORD = re.compile(r"\w+")
Gram = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Overlap:
    """A test problem and a training problem that share words."""

    train_id: str
    """Id of the training problem that shares the most runs with the test problem."""
    test_id: str
    """Id of the test problem."""
    shared: str
    """Longest run of words that they share."""
    fraction: float
    """Share of the test problem's runs of n words that occur in this training problem; 1.0 if the
    texts are equal."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a contamination check."""

    n: int
    """Number of words in a run."""
    num_train: int
    """Number of training problems compared."""
    num_test: int
    """Number of test problems compared."""
    num_overlapping: int
    """Number of test problems that share a run with any training problem."""
    num_equal: int
    """Number of those whose text equals a training problem's, up to spaces, `$`, `\\` and case."""
    overlapping: tuple[Overlap, ...]
    """Overlaps, one per overlapping test problem, the largest fraction first."""

    @property
    def fraction(self) -> float:
        """Returns the share of the test problems that overlap; 0.0 if there are none."""
        return self.num_overlapping / self.num_test if self.num_test else 0.0

    def summary(self) -> str:
        return (
            f"{self.num_overlapping} of {self.num_test} test problems ({self.fraction:.2%}) share "
            f"{self.n} words in a row with one of {self.num_train} training problems, "
            f"{self.num_equal} of them the whole text"
        )


def check(
    train: Sequence[Problem],
    test: Sequence[Problem],
    *,
    n: int = 13,
    max_frequency: int = 10,
) -> Report:
    """Compares the statements of two sets of problems.

    Case, punctuation and white space are ignored. Words that all queries begin or end with belong
    to the prompt's form and are left out, as are runs that occur in more than `max_frequency`
    problems of a set (common phrases such as "the first line contains a single integer").

    Args:
      train: training problems.
      test: test problems.
      n: words in a run, at least 1.
      max_frequency: see above.

    Raises:
      UserError: `n` is less than 1.
    """
    shared = _Shared.of(train, test, n, max_frequency)
    wholes = {_loose(problem): position for position, problem in enumerate(train)}
    overlapping = []
    num_equal = 0
    for problem, of_test, grams in zip(test, shared.test_words, shared.test_grams, strict=True):
        hits = collections.Counter(p for gram in grams for p in shared.index.get(gram, ()))
        equal = wholes.get(_loose(problem))
        num_equal += equal is not None
        if not hits and equal is None:
            continue
        best = equal if equal is not None else max(hits, key=lambda p: (hits[p], -p))
        overlapping.append(
            Overlap(
                train_id=train[best].problem_id,
                test_id=problem.problem_id,
                shared=_longest_shared(shared.train_words[best], of_test),
                fraction=1.0 if equal is not None else hits[best] / len(grams),
            )
        )
    overlapping.sort(key=lambda o: (-o.fraction, o.test_id))
    return Report(
        n=n,
        num_train=len(train),
        num_test=len(test),
        num_overlapping=len(overlapping),
        num_equal=num_equal,
        overlapping=tuple(overlapping),
    )


@dataclasses.dataclass(frozen=True)
class _Shared:
    """The runs of words of two sets of problems."""

    train_words: Sequence[Sequence[str]]
    test_words: Sequence[Sequence[str]]
    test_grams: Sequence[set[Gram]]
    """Runs of each test problem, common ones included."""
    index: Mapping[Gram, Sequence[int]]
    """Positions of the training problems that hold a run, for runs that are not common."""

    @classmethod
    def of(
        cls, train: Sequence[Problem], test: Sequence[Problem], n: int, max_frequency: int
    ) -> _Shared:
        if n < 1:
            raise UserError(f"contamination: n is {n}; a run has at least 1 word")
        words = _statements([*train, *test])
        train_words, test_words = words[: len(train)], words[len(train) :]
        train_grams = [set(_grams(words, n)) for words in train_words]
        test_grams = [set(_grams(words, n)) for words in test_words]
        common = {
            gram
            for grams in (train_grams, test_grams)
            for gram, count in collections.Counter(g for found in grams for g in found).items()
            if count > max_frequency
        }
        index = collections.defaultdict(list)
        for position, grams in enumerate(train_grams):
            for gram in grams - common:
                index[gram].append(position)
        return cls(train_words, test_words, test_grams, dict(index))


def without_overlap(
    train: Sequence[Problem],
    test: Sequence[Problem],
    *,
    n: int = 13,
    max_frequency: int = 10,
) -> list[Problem]:
    """Returns the training problems that overlap with no test problem; arguments as in `check`.

    `check` finds no overlap in the result. A phrase that is common among all training problems may
    not be among those that are left, so the comparison is repeated until nothing is left out.
    """
    texts = {_loose(problem) for problem in test}
    kept = [problem for problem in train if _loose(problem) not in texts]
    while True:
        shared = _Shared.of(kept, test, n, max_frequency)
        hit = {p for grams in shared.test_grams for g in grams for p in shared.index.get(g, ())}
        if not hit:
            return kept
        kept = [problem for position, problem in enumerate(kept) if position not in hit]


def of_tasks(
    train: Sequence[Problem], tests: Mapping[str, Sequence[Problem]], *, pairs: int = 20
) -> dict[str, Any]:
    """Returns the contents of `contamination.json`: `check` of each task's test problems.

    Args:
      train: the run's training problems.
      tests: test problems by task.
      pairs: maximum number of worst overlaps to list per task.
    """
    found = {}
    for task, test in tests.items():
        report = check(train, test)
        found[task] = {
            **{f.name: getattr(report, f.name) for f in dataclasses.fields(report)},
            "fraction": report.fraction,
            "overlapping": [
                {**dataclasses.asdict(o), "shared": o.shared[:400]}
                for o in report.overlapping[:pairs]
            ],
        }
    return {"tasks": found}


def _statements(problems: Sequence[Problem]) -> list[list[str]]:
    """Returns the words of every query, without those that all queries begin or end with."""
    words = [_WORD.findall(problem.inputs.lower()) for problem in problems]
    head = _shared_length(words)
    tail = _shared_length([list(reversed(text[head:])) for text in words])
    return [text[head : len(text) - tail] for text in words]


def _loose(problem: Problem) -> str:
    """Returns a query in lower case without white space, dollar signs and backslashes."""
    return re.sub(r"[\s$\\]", "", problem.inputs).casefold()


def _shared_length(texts: Sequence[Sequence[str]]) -> int:
    """Returns the number of leading words that all texts share; 0 if that is all of one text."""
    for length, column in enumerate(zip(*texts, strict=False)):
        if len(set(column)) > 1:
            return length
    return 0


def _grams(words: Sequence[str], n: int) -> Iterator[Gram]:
    """Returns the runs of n words; none for a text that is shorter."""
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _longest_shared(left: Sequence[str], right: Sequence[str]) -> str:
    """Returns the longest run of words in both, by dynamic programming one row at a time."""
    best_length = best_end = 0
    previous = [0] * (len(right) + 1)
    for a in left:
        row = [0]
        for j, b in enumerate(right):
            length = previous[j] + 1 if a == b else 0
            row.append(length)
            if length > best_length:
                best_length, best_end = length, j + 1
        previous = row
    return " ".join(right[best_end - best_length : best_end])

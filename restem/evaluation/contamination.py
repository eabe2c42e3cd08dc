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
from restem.records import PROBLEMS_PER_GROUP, Problem
from restem.runtime import distributed

_WORD = re.compile(r"\w+")
_RUNS_PER_MESSAGE = 8192
"""Runs of words whose training problems hosts tell each other at a time: some 100 kB."""
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
      train: training problems, of which a block is in memory at a time.
      test: test problems.
      n: words in a run, at least 1.
      max_frequency: see above.

    Raises:
      UserError: `n` is less than 1.
    """
    (search,) = _search(train, [test], n, max_frequency)
    return search.report(train)


def without_overlap(
    train: Sequence[Problem],
    test: Sequence[Problem],
    *,
    n: int = 13,
    max_frequency: int = 10,
) -> Sequence[Problem]:
    """Returns the training problems that overlap with no test problem; arguments as in `check`.

    `check` finds no overlap in the result. A phrase that is common among all training problems may
    not be among those that are left, so the comparison is repeated until nothing is left out. Each
    host does all of it, since hosts may ask for the problems at different times.
    """
    texts = {_loose(problem) for problem in test}
    kept = _at(train, [i for i, problem in enumerate(train) if _loose(problem) not in texts])
    while True:
        (search,) = _search(kept, [test], n, max_frequency, alone=True)
        hit = search.hit
        if not hit:
            return kept
        kept = _at(kept, [i for i in range(len(kept)) if i not in hit])


def _at(problems: Sequence[Problem], positions: Sequence[int]) -> Sequence[Problem]:
    """Returns the problems at some positions; stored problems (`run.problems`) are not read."""
    if hasattr(problems, "at"):
        return problems.at(positions)
    return [problems[i] for i in positions]


def of_tasks(
    train: Sequence[Problem],
    tests: Mapping[str, Sequence[Problem]],
    *,
    pairs: int = 20,
    n: int = 13,
    max_frequency: int = 10,
) -> dict[str, Any]:
    """Returns the contents of `contamination.json`: `check` of each task's test problems.

    All hosts call it, and each reads its share of the training problems.

    Args:
      train: the run's training problems.
      tests: test problems by task.
      pairs: maximum number of worst overlaps to list per task.
      n: words in a run; see `check`.
      max_frequency: see `check`.
    """
    searches = _search(train, list(tests.values()), n, max_frequency)

    def write() -> dict[str, Any]:
        return {
            "tasks": {
                task: _shortened(search.report(train), pairs)
                for task, search in zip(tests, searches, strict=True)
            }
        }

    return distributed.run_on_primary("contamination", write)


def _shortened(report: Report, pairs: int) -> dict[str, Any]:
    return {
        **{f.name: getattr(report, f.name) for f in dataclasses.fields(report)},
        "fraction": report.fraction,
        "overlapping": [
            {**dataclasses.asdict(o), "shared": o.shared[:400]} for o in report.overlapping[:pairs]
        ],
    }


def _search(
    train: Sequence[Problem],
    tests: Sequence[Sequence[Problem]],
    n: int,
    max_frequency: int,
    *,
    alone: bool = False,
) -> list[_Search]:
    """Returns what the training problems share with each set of test problems.

    The test problems are indexed, and the training problems pass by twice: once for the words that
    all of them begin and end with, once for the runs. Hosts share the training problems, unless
    this one works `alone`.
    """
    if n < 1:
        raise UserError(f"contamination: n is {n}; a run has at least 1 word")
    starts = range(0, len(train), PROBLEMS_PER_GROUP)
    blocks = starts if alone else distributed.share(starts)
    own = _Form()
    for start in blocks:
        for problem in train[start : start + PROBLEMS_PER_GROUP]:
            own.add(_words(problem))
        distributed.progressed()
    told = dataclasses.astuple(own)
    form = _Form()
    for part in [told] if alone else distributed.gather("forms of the queries", told):
        form.merge(_Form(*part))
    searches = [_Search(test, form, n, max_frequency) for test in tests]
    for start in blocks:
        for i, problem in enumerate(train[start : start + PROBLEMS_PER_GROUP], start):
            words, loose = _words(problem), _loose(problem)
            # Tasks in the same form, such as the parts of a benchmark, look at the same runs.
            grams = {
                margins: set(_grams(_statement(words, margins), n))
                for margins in {search.margins for search in searches}
            }
            for search in searches:
                search.look_at(i, grams[search.margins], loose)
        distributed.progressed()
    for search in searches:
        search.finish(alone)
    return searches


@dataclasses.dataclass
class _Form:
    """The words that all of some texts begin and end with, and the length of the shortest."""

    head: list[str] | None = None
    """None: there was no text yet."""
    tail: list[str] | None = None
    """In reverse."""
    shortest: int = 0

    def add(self, words: list[str]) -> None:
        self.merge(_Form(words, words[::-1], len(words)))

    def merge(self, other: _Form) -> None:
        """Adds the texts of another form."""
        if other.head is None or other.tail is None:
            return
        if self.head is None or self.tail is None:
            self.head, self.tail, self.shortest = other.head, other.tail, other.shortest
            return
        self.head = self.head[: _shared_length(self.head, other.head)]
        self.tail = self.tail[: _shared_length(self.tail, other.tail)]
        self.shortest = min(self.shortest, other.shortest)

    @property
    def margins(self) -> tuple[int, int]:
        """Number of words of the prompt's form at both ends; none where they are all of a text."""
        head = len(self.head or ())
        head = head if head < self.shortest else 0
        tail = len(self.tail or ())
        return head, tail if tail < self.shortest - head else 0


class _Search:
    """Test problems, and the training problems found so far that share words with them."""

    def __init__(self, test: Sequence[Problem], train: _Form, n: int, max_frequency: int):
        self._test, self._n, self._max_frequency = test, n, max_frequency
        form = dataclasses.replace(train)
        words = [_words(problem) for problem in test]
        for text in words:
            form.add(text)
        self.margins = form.margins
        self._words = [_statement(text, self.margins) for text in words]
        self._grams = [set(_grams(text, n)) for text in self._words]
        counts = collections.Counter(gram for grams in self._grams for gram in grams)
        self._ids = {
            gram: i for i, gram in enumerate(g for g, c in counts.items() if c <= max_frequency)
        }
        self._found: dict[int, list[int]] = collections.defaultdict(list)
        """Training problems with a run, by its number: at most one more than `max_frequency`."""
        self._loose = {_loose(problem): i for i, problem in enumerate(test)}
        self._equal: dict[int, int] = {}
        """Last training problem with the same text, by the number of the text."""

    def look_at(self, position: int, grams: set[Gram], loose: str) -> None:
        """Notes what the training problem at a position shares with the test problems."""
        for gram in self._ids.keys() & grams:
            found = self._found[self._ids[gram]]
            if len(found) <= self._max_frequency:
                found.append(position)
        if loose in self._loose:
            self._equal[self._loose[loose]] = position

    @property
    def hit(self) -> set[int]:
        """Positions of the training problems that share a run with a test problem."""
        return {position for positions in self._found.values() for position in positions}

    def finish(self, alone: bool) -> None:
        """Adds what the other hosts have found, and leaves out common runs; all hosts call it,
        unless this one works `alone`."""
        if not alone:
            self._merge_hosts()
        self._found = {i: p for i, p in self._found.items() if len(p) <= self._max_frequency}

    def _merge_hosts(self) -> None:
        found: dict[int, list[int]] = {}
        for start in range(0, max(1, len(self._ids)), _RUNS_PER_MESSAGE):
            numbers = range(start, start + _RUNS_PER_MESSAGE)
            own = {i: self._found[i] for i in numbers if i in self._found}
            for part in distributed.gather("shared words", own):
                for i, positions in part.items():
                    found[int(i)] = sorted(found.get(int(i), []) + positions)
        self._found = found
        equal: dict[int, int] = {}
        for part in distributed.gather("same texts", self._equal):
            for i, position in part.items():
                equal[int(i)] = max(position, equal.get(int(i), -1))
        self._equal = equal

    def report(self, train: Sequence[Problem]) -> Report:
        """Returns the overlaps; reads the training problems that they name."""
        pairs = []
        for i, grams in enumerate(self._grams):
            hits = collections.Counter(
                p for gram in grams for p in self._found.get(self._ids.get(gram, -1), ())
            )
            equal = self._equal.get(self._loose[_loose(self._test[i])])
            if equal is not None:
                pairs.append((i, equal, 1.0))
            elif hits:
                best = max(hits, key=lambda p: (hits[p], -p))
                pairs.append((i, best, hits[best] / len(grams)))
        named = sorted({position for _, position, _ in pairs})
        problems = {position: train[position] for position in named}
        overlapping = [
            Overlap(
                train_id=problems[position].problem_id,
                test_id=self._test[i].problem_id,
                shared=_longest_shared(
                    _statement(_words(problems[position]), self.margins), self._words[i]
                ),
                fraction=fraction,
            )
            for i, position, fraction in pairs
        ]
        return Report(
            n=self._n,
            num_train=len(train),
            num_test=len(self._test),
            num_overlapping=len(overlapping),
            num_equal=sum(self._loose[_loose(problem)] in self._equal for problem in self._test),
            overlapping=tuple(sorted(overlapping, key=lambda o: (-o.fraction, o.test_id))),
        )


def _statement(words: list[str], margins: tuple[int, int]) -> list[str]:
    """Returns the words of a query without those of the prompt's form."""
    head, tail = margins
    return words[head : len(words) - tail]


def _words(problem: Problem) -> list[str]:
    return _WORD.findall(problem.inputs.lower())


def _loose(problem: Problem) -> str:
    """Returns a query in lower case without white space, dollar signs and backslashes."""
    return re.sub(r"[\s$\\]", "", problem.inputs).casefold()


def _shared_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Returns the number of leading words that both texts share."""
    for length, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return length
    return min(len(left), len(right))


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

"""Counts of an iteration's samples, and the few samples that a page shows.

One file is in memory at a time, so memory does not grow with the number of samples, except for
eight bytes per solved problem.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Container, Sequence

import numpy as np
from etils import epath

from restem import records
from restem.evaluation import metrics
from restem.run import sample_table
from restem.run.sample_table import SampleTable

NEVER = "never"
"""Name of the group of problems without a correct sample."""
PER_PROBLEM = 4
"""Samples of a problem that a page may show."""

_MOST_REWARDS = 4096
"""Number of distinct rewards above which they are rounded."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A sample that a page may show; its text stays in the file."""

    path: epath.Path
    row: int
    outcome: str
    """One of `sample_table.OUTCOMES`."""
    reward: float
    tokens: int


@dataclasses.dataclass
class SampleStats:
    """Counts of the samples of an iteration, or of the answers of an evaluation."""

    most_shown: int = 0
    """Number of problems of which samples are kept to be shown."""
    total: int = 0
    """Number of samples."""
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Number of samples by outcome; see `sample_table.OUTCOMES`."""
    lengths: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Number of "correct", "incorrect", "unverified" and "cut off" samples by tokens, [tokens + 1]
    int64; without samples that have no token ids, such as human solutions."""
    rewards: collections.Counter[float] = dataclasses.field(default_factory=collections.Counter)
    """Number of verified samples by reward; rewards of very many values are rounded."""
    problems: int = 0
    """Number of problems with a verified sample."""
    difficulties: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Number of these problems by success rate: `NEVER` or one of `metrics.DIFFICULTIES`."""
    _solved: list[np.ndarray] = dataclasses.field(default_factory=list)
    _shown: list[tuple[tuple[int, str], list[Shown]]] = dataclasses.field(default_factory=list)

    @property
    def solved(self) -> np.ndarray:
        """Hashes of the problems with a correct sample, [n] uint64, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.uint64), *self._solved]))

    def shown(self, count: int) -> list[Shown]:
        """Returns up to `count` samples, problem by problem, different outcomes first.

        The order of the problems depends on their names alone, so the same problems are shown in
        every iteration.
        """
        return [sample for _, samples in self._shown for sample in samples][:count]

    def longest(self) -> int:
        """Returns the largest number of tokens; 0 if there is no sample."""
        return max((len(counts) - 1 for counts in self.lengths.values()), default=0)

    def add(self, path: epath.Path, table: SampleTable) -> None:
        """Adds the samples of a file; all samples of a problem are in one file."""
        if not len(table):
            return
        outcomes = table.outcome
        self.total += len(table)
        self.outcomes.update(outcomes.tolist())
        cut, right = table.finish_reason == "length", table.correct > 0
        known, has_tokens = ~np.isnan(table.reward), table.tokens > 0
        for name, chosen in (
            ("correct", right & ~cut), ("incorrect", ~right & known & ~cut),
            ("unverified", ~known & ~cut), ("cut off", cut),
        ):  # fmt: skip
            self._count_lengths(name, table.tokens[chosen & has_tokens])
        self.rewards.update(table.reward[known].tolist())
        if len(self.rewards) > _MOST_REWARDS:
            self.rewards = _rounded(self.rewards)
        self._add_problems(table.problem_id[known], table.correct[known])
        self._add_shown(path, table, outcomes)

    def _count_lengths(self, name: str, tokens: np.ndarray) -> None:
        if len(tokens):
            counts = np.bincount(tokens)
            before = self.lengths.get(name, np.zeros(0, np.int64))
            size = max(len(counts), len(before))
            padded = [np.pad(c, (0, size - len(c))) for c in (counts, before)]
            self.lengths[name] = padded[0] + padded[1]

    def _add_problems(self, problem_id: np.ndarray, correct: np.ndarray) -> None:
        ids, inverse = np.unique(problem_id.astype(str), return_inverse=True)
        if not len(ids):
            return
        rates = np.bincount(inverse, correct, len(ids)) / np.bincount(inverse)
        self.problems += len(ids)
        names = metrics.difficulty(rates)
        groups = (name if rate else NEVER for rate, name in zip(rates, names, strict=True))
        self.difficulties.update(groups)
        solved = [_hash(name) for name in ids[rates > 0].tolist()]
        self._solved.append(np.array(solved, np.uint64))

    def _add_shown(self, path: epath.Path, table: SampleTable, outcomes: np.ndarray) -> None:
        if not self.most_shown:
            return
        by_problem: dict[str, list[int]] = collections.defaultdict(list)
        for index, problem_id in enumerate(table.problem_id.tolist()):
            by_problem[problem_id].append(index)
        order = sorted((records.stable_key("browser", p), p) for p in by_problem)
        for key in order[: self.most_shown]:
            seen: collections.Counter[str] = collections.Counter()
            ranked = []
            for index in by_problem[key[1]]:
                ranked.append((seen[outcomes[index]], index))
                seen[outcomes[index]] += 1
            samples = [
                Shown(
                    path,
                    row=int(table.row[index]),
                    outcome=str(outcomes[index]),
                    reward=float(table.reward[index]),
                    tokens=int(table.tokens[index]),
                )
                for _, index in sorted(ranked)[:PER_PROBLEM]
            ]
            self._shown.append((key, samples))
        self._shown.sort(key=lambda entry: entry[0])
        del self._shown[self.most_shown :]


def _hash(problem_id: str) -> int:
    digest = hashlib.blake2b(problem_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _rounded(counts: collections.Counter[float]) -> collections.Counter[float]:
    """Returns the counts of the values, rounded to three significant digits."""
    found: collections.Counter[float] = collections.Counter()
    for value, count in counts.items():
        found[float(f"{value:.3g}")] += count
    return found


def read(
    paths: Sequence[epath.Path],
    kept: Callable[[epath.Path], Container[tuple[str, int]]] = lambda path: (),
    *,
    most_shown: int = 0,
    only_greedy: bool = False,
) -> SampleStats:
    """Reads samples, one file at a time.

    Args:
      paths: Parquet files of samples.
      kept: returns (problem_id, sample_index) of the samples of a file in the training set.
      most_shown: number of problems of which samples are kept to be shown.
      only_greedy: leave out all answers of an evaluation but the greedy ones.

    Raises:
      UserError: a file is not a table of samples.
    """
    stats = SampleStats(most_shown)
    for path in paths:
        stats.add(path, sample_table.read(path, kept(path), only_greedy=only_greedy))
    return stats

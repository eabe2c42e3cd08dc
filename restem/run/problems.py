"""The problems of a task, read from `problems/TASK.parquet` by range.

Ten million problems take some 20 GB as objects, so a host reads only the ranges that it works on.
"""

from __future__ import annotations

import collections
from collections.abc import Container, Iterator, Sequence
from typing import Any, overload

import numpy as np
from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.runtime import storage

_GROUPS_IN_MEMORY = 2


class ProblemFile:
    """`problems/TASK.parquet`: the task card, and the problems of each split on demand."""

    def __init__(self, path: epath.Path):
        """Reads the card and the splits, but no problem.

        Raises:
          UserError: the file does not exist, or is not a table of problems.
        """
        self.path = path
        self._groups: collections.OrderedDict[int, Any] = collections.OrderedDict()
        try:
            with storage.parquet_file(path) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
                self.card: TaskCard = records.card_of(file.schema_arrow)
                splits = file.read(["split"], use_threads=False).column("split")
        except (ValueError, LookupError, TypeError) as e:
            raise UserError(f"{path}: not a table of problems ({e}); {storage.REPAIR}") from None
        self._starts = np.cumsum([0, *sizes])
        names = splits.combine_chunks().dictionary_encode()
        codes = names.indices.to_numpy()
        self._rows = {
            name: np.flatnonzero(codes == code)
            for code, name in enumerate(names.dictionary.to_pylist())
        }

    def split(self, name: str) -> StoredProblems:
        """Returns the problems of a split; none if the task lacks it."""
        return StoredProblems(self, self._rows.get(name, np.array([], np.int64)))

    def find(self, ids: Container[str] | None) -> Iterator[Problem]:
        """Yields the problems with some ids (None: all), one row group in memory at a time."""
        for group in range(len(self._starts) - 1):
            names = self._group(group).column("problem_id").to_pylist()
            rows = [i for i, name in enumerate(names) if ids is None or name in ids]
            yield from self.read(np.array(rows, np.int64) + self._starts[group])

    def read(self, rows: np.ndarray) -> list[Problem]:
        """Returns the problems in some rows of the file.

        Args:
          rows: [n] int, ascending.
        """
        group_of = np.searchsorted(self._starts, rows, side="right") - 1
        problems: list[Problem] = []
        for group in np.unique(group_of).tolist():
            inside = rows[group_of == group] - self._starts[group]
            table = self._group(group)
            first, last = int(inside[0]), int(inside[-1]) + 1
            part = table.slice(first, last - first)
            if last - first != len(inside):
                part = part.take(inside - first)
            problems += records.problems_of_rows(part)
        return problems

    def _group(self, group: int):
        """Returns a row group; the last few stay in memory."""
        if group not in self._groups:
            with storage.parquet_file(self.path) as file:
                self._groups[group] = file.read_row_group(group, use_threads=False)
            while len(self._groups) > _GROUPS_IN_MEMORY:
                self._groups.popitem(last=False)
        return self._groups[group]


class StoredProblems(Sequence[Problem]):
    """Problems in a file, in the order of their rows; reads those that are asked for."""

    def __init__(self, file: ProblemFile, rows: np.ndarray):
        """Takes the problems in some rows, [n] int, ascending."""
        self.file = file
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.file.read(self.rows[index])
        return self.file.read(self.rows[[index]])[0]

    def __iter__(self) -> Iterator[Problem]:
        for start in range(0, len(self), records.PROBLEMS_PER_GROUP):
            yield from self[start : start + records.PROBLEMS_PER_GROUP]

    def at(self, positions: Sequence[int] | np.ndarray) -> StoredProblems:
        """Returns the problems at some positions, ascending, without reading them."""
        return StoredProblems(self.file, self.rows[np.asarray(positions, np.int64)])

    def span(self, positions: range) -> tuple[int, int]:
        """Returns the rows of the file, [start, stop), between which consecutive problems are."""
        rows = self.rows[positions.start : positions.stop]
        return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)

    def within(self, span: tuple[int, int]) -> StoredProblems:
        """Returns the problems between two rows of the file, [start, stop)."""
        start, stop = np.searchsorted(self.rows, span)
        return StoredProblems(self.file, self.rows[start:stop])


def at(problems: Sequence[Problem], positions: Sequence[int] | np.ndarray) -> Sequence[Problem]:
    """Returns the problems at some positions, ascending; stored problems are not read."""
    if isinstance(problems, StoredProblems):
        return problems.at(positions)
    return [problems[i] for i in positions]

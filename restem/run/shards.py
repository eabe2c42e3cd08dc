"""The shards of an iteration: its samples and its training examples, one file in memory at a time.

All samples of a problem are in one shard, so whatever is computed per problem can be computed shard
by shard, on whichever host reads the shard.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence

from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Example, Problem, Sample
from restem.run import layout
from restem.run.layout import IterationDir
from restem.run.problems import StoredProblems
from restem.runtime import distributed, storage


def sampled(directory: IterationDir) -> list[epath.Path]:
    """Returns the shards of a finished E-step, in order; all hosts call it.

    Raises:
      UserError: the iteration has no samples, or lacks some.
    """
    return _all_shards(directory.samples, "no samples here; run `restem generate` first")


def _all_shards(folder: epath.Path, none: str) -> list[epath.Path]:
    """Returns the shards of a finished step, in order.

    The first host lists the folder for all, because network file systems show new files to other
    hosts late; a file that is opened by its name is found at once.
    """

    def count() -> int:
        found = layout.shard_paths(folder)
        if not found:
            raise UserError(f"{folder}: {none}")
        wanted = layout.number_of_shards(found[0])
        if len(found) < wanted:
            raise UserError(f"{folder}: {len(found)} of {wanted} shards; run the same step again")
        return wanted

    shards = distributed.run_on_primary(f"shards of {folder.parent.name}/{folder.name}", count)
    return [layout.shard_path(folder, i, shards) for i in range(shards)]


def read(path: epath.Path) -> tuple[list[Sample], tuple[int, int] | None]:
    """Returns the samples of a shard, and the rows of `problems/TASK.parquet` with its problems."""
    return storage.read_records(
        path,
        lambda table: (records.samples_from_table(table), records.problem_rows_of(table.schema)),
    )


def problems_of(
    samples: Sequence[Sample], rows: tuple[int, int] | None, problems: Sequence[Problem]
) -> list[Problem]:
    """Returns the problems of the samples of a shard, in the order of `problems`.

    Args:
      samples: samples of the shard.
      rows: as `read` returns them; None: all problems are looked through.
      problems: problems of the split.

    Raises:
      UserError: a sample is of none of these problems.
    """
    ids = {s.problem_id for s in samples}
    if rows is not None and isinstance(problems, StoredProblems):
        problems = problems.within(rows)
    found = [p for p in problems if p.problem_id in ids]
    if len(found) < len(ids):
        unknown = min(ids - {p.problem_id for p in found})
        raise UserError(f"{unknown}: a sample's problem is not in problems/; was it written again?")
    return found


class StoredExamples:
    """The training examples of an iteration, in the order of shards and problems."""

    def __init__(self, directory: IterationDir):
        """Finds the shards; all hosts call it.

        Raises:
          UserError: nothing was selected yet.
        """
        self.paths = _all_shards(directory.dataset, "no examples; run `restem select` first")

    def shard(self, index: int) -> list[Example]:
        """Returns the examples of a shard."""
        return storage.read_records(self.paths[index], records.examples_from_table)

    def some(self, most: int, seed: int) -> list[Example]:
        """Returns all examples, in order, or those of random shards if there are more than
        `most`."""
        if len(self) <= most:
            return list(self)
        found: list[Example] = []
        order = random.Random(seed).sample(range(len(self.paths)), len(self.paths))
        while len(found) < most:
            found += self.shard(order.pop())
        return found

    def __bool__(self) -> bool:
        return any(storage.num_rows(path) for path in self.paths)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Example]:
        for index in range(len(self.paths)):
            yield from self.shard(index)

    @functools.cached_property
    def _length(self) -> int:
        return sum(map(storage.num_rows, self.paths))

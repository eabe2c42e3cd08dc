"""Samples of unfinished shards, kept so that an interrupted step does not draw them again.

A shard is written once it is whole. Until then, each host keeps the verified samples of its
unfinished shards in one file beside the shards, and writes this file anew about once a minute and
when its job ends early. A step that is resumed draws only the samples that neither a shard nor such
a file holds. A sample does not depend on what is sampled beside it, so it makes no difference which
of them were kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import jax
from absl import logging
from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Problem, Sample
from restem.rollout.rollout import Key
from restem.run import layout
from restem.runtime import distributed, storage

SAVE_EVERY_S = 60.0
"""Seconds between two saves; a kill without notice loses what was sampled since the last."""
SHARE_OF_TIME = 0.05
"""Share of the time that saving may take; where a save is slow, the next one is later."""


class Unfinished:
    """The samples that one host has drawn for shards that are not whole."""

    def __init__(self, folder: epath.Path, clock: Callable[[], float] = time.monotonic):
        """Writes nothing yet.

        Args:
          folder: folder of the shards.
          clock: current time in seconds.
        """
        self._folder = folder
        self._path = layout.unfinished_path(folder, jax.process_index())
        self._clock = clock
        self._due = clock() + SAVE_EVERY_S

    def left(self, problems: Iterable[Problem], indices: range, source: str) -> list[Sample]:
        """Returns the samples of `problems` that interrupted jobs of any host left, each once.

        Args:
          problems: problems whose samples are wanted.
          indices: indices of the wanted samples.
          source: source of the wanted samples.
        """
        wanted = {problem.problem_id for problem in problems}
        found: dict[Key, Sample] = {}
        for path in layout.unfinished_paths(self._folder):
            try:
                samples = storage.read_records(path, records.samples_from_table)
            except UserError as e:  # damaged, or another host has just written it anew
                logging.warning("%s; its samples are drawn again", e)
                continue
            for sample in samples:
                is_asked = sample.sample_index in indices and sample.source == source
                if is_asked and sample.problem_id in wanted:
                    found[sample.problem_id, sample.sample_index] = sample
        return list(found.values())

    def save_if_due(self, shards: Collection[Sequence[Sample]]) -> None:
        """Saves the samples of unfinished shards if the last save was long enough ago."""
        if self._clock() >= self._due:
            self.save(shards)

    def save(self, shards: Collection[Sequence[Sample]]) -> None:
        """Saves the samples of unfinished shards in place of those saved before."""
        import pyarrow as pa

        began = self._clock()
        tables = [records.samples_to_table(samples) for samples in shards if samples]
        if tables:
            storage.write_table(self._path, pa.concat_tables(tables))
        now = self._clock()
        self._due = now + max(SAVE_EVERY_S, (now - began) / SHARE_OF_TIME)


def remove(folder: epath.Path) -> None:
    """Removes the files of all hosts once their shards are whole; only the first host does."""
    if distributed.is_primary():
        for path in layout.unfinished_paths(folder):
            path.unlink(missing_ok=True)

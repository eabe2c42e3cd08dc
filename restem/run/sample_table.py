"""The samples of a shard, or the answers of an evaluation, in columns without the texts."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Container, Iterator, Sequence

import numpy as np
from etils import epath

from restem import records
from restem.errors import UserError
from restem.evaluation import comparisons
from restem.runtime import storage

OUTCOMES = ("unverified", "truncated", "no answer", "incorrect", "not kept", "kept")
"""Outcomes of a sample, as far as its row and the training set show them. "not kept" means correct,
but a duplicate or over the cap: only `selection.json` counts these separately."""

_BATCH = 1 << 16
"""Rows per read."""


@dataclasses.dataclass(frozen=True)
class SampleTable:
    """The samples in one file, without their texts."""

    problem_id: np.ndarray
    """[n] str."""
    sample_index: np.ndarray
    """[n] int32."""
    reward: np.ndarray
    """[n] float32; NaN until verified."""
    correct: np.ndarray
    """[n] float32, 1 or 0; NaN until verified."""
    finish_reason: np.ndarray
    """[n] str; "" if unknown."""
    unformatted: np.ndarray
    """[n] bool: the grader found no final answer or program in the text."""
    tokens: np.ndarray
    """[n] int32, length of the solution in tokens."""
    kept: np.ndarray
    """[n] bool: the sample is in the training set."""
    row: np.ndarray
    """[n] int32 row within the file."""

    def __len__(self) -> int:
        return len(self.problem_id)

    @property
    def outcome(self) -> np.ndarray:
        """[n] one of `OUTCOMES`."""
        return np.select(
            [
                self.kept,
                np.isnan(self.reward),
                self.finish_reason == "length",
                self.correct > 0,
                self.unformatted,
            ],
            ["kept", "unverified", "truncated", "not kept", "no answer"],
            "incorrect",
        )


def texts(path: epath.Path, rows: Sequence[int]) -> list[records.Sample]:
    """Returns the full samples in some rows of a file."""
    taken = np.asarray(rows, np.int64)
    return storage.read_records(path, lambda t: records.samples_from_table(t.take(taken)))


_COLUMNS = {
    "problem_id": object,
    "sample_index": np.int32,
    "reward": np.float32,
    "correct": np.float32,
    "finish_reason": object,
    "unformatted": bool,
    "tokens": np.int32,
    "row": np.int32,
}


def read(
    path: epath.Path, kept: Container[tuple[str, int]] = (), *, only_greedy: bool = False
) -> SampleTable:
    """Reads samples without their texts; token ids are read in batches, only to count them.

    Args:
      path: Parquet file of samples.
      kept: (problem_id, sample_index) of the samples in the training set.
      only_greedy: leave out all answers of an evaluation but the greedy ones.

    Raises:
      UserError: the file is not a table of samples.
    """
    import pyarrow as pa

    parts: dict[str, list] = collections.defaultdict(list)
    try:
        for batch in _batches(path):
            columns = {name: np.asarray(batch[name], kind) for name, kind in _COLUMNS.items()}
            taken = columns["sample_index"] == 0 if only_greedy else slice(None)
            for name in _COLUMNS:
                parts[name].append(columns[name][taken])
    except MemoryError:
        raise
    except (pa.ArrowException, KeyError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise UserError(f"{path}: not a table of samples ({e}); {storage.REPAIR}") from None
    columns = {
        name: np.concatenate(parts[name]) if parts[name] else np.array([], dtype)
        for name, dtype in _COLUMNS.items()
    }
    pairs = zip(columns["problem_id"].tolist(), columns["sample_index"].tolist(), strict=True)
    return SampleTable(kept=np.array([pair in kept for pair in pairs], bool), **columns)


def _batches(path: epath.Path) -> Iterator[dict[str, np.ndarray | list]]:
    """Yields the columns of a file in batches of rows."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = ["problem_id", "sample_index", "reward", "finish_reason", "verdict", "token_ids"]
    row = 0
    with path.open("rb") as f:
        for part in pq.ParquetFile(f).iter_batches(_BATCH, columns=wanted, use_threads=False):
            verdict, reward = part.column("verdict"), part.column("reward")
            unformatted = pc.and_(
                pc.equal(pc.struct_field(verdict, "method"), records.NO_ANSWER_METHOD),
                pc.is_null(pc.struct_field(verdict, "extracted")),
            )
            lengths = pc.list_value_length(part.column("token_ids"))
            yield {
                "problem_id": part.column("problem_id").to_pylist(),
                "sample_index": part.column("sample_index").to_numpy(),
                "reward": reward.fill_null(float("nan")).to_numpy(zero_copy_only=False),
                "correct": comparisons.correct_column(reward, verdict),
                "finish_reason": part.column("finish_reason").fill_null("").to_pylist(),
                "unformatted": unformatted.fill_null(False).to_numpy(zero_copy_only=False),
                "tokens": lengths.fill_null(0).to_numpy(zero_copy_only=False),
                "row": np.arange(row, row + len(part), dtype=np.int32),
            }
            row += len(part)

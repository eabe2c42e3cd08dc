"""Records of data files, each with its place in the file: JSON lines, CSV, Parquet and Arrow."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from restem.data import folder
from restem.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".csv.gz", ".parquet", ".arrow")


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a record. As text, it is "FILE, line N" or "FILE, row N"."""

    file: epath.Path
    unit: str
    """"line" or "row"."""
    number: int
    """Number of the line or row, from 1."""
    record: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


def read(file: epath.Path) -> Iterator[Place]:
    """Yields the records of a file; a file of unknown suffix is read as JSON lines.

    Raises:
      UserError: the file or a record cannot be read; the message names file and line or row.
    """
    name = file.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv(file)
    if name.endswith((".parquet", ".arrow")):
        return _arrow(file, parquet=name.endswith(".parquet"))
    if name.endswith(".json"):
        return _json(file)
    return (Place(file, "line", number, record) for number, record in folder.read_jsonl(file))


def _json(file: epath.Path) -> Iterator[Place]:
    """Yields records of a JSON list of objects, or of JSON lines with the suffix of JSON."""
    text = folder.read_text(file)
    if not text.lstrip().startswith("["):
        for number, record in folder.read_jsonl(file):
            yield Place(file, "line", number, record)
        return
    for number, record in enumerate(folder.parse_json(text, where=str(file)), start=1):
        place = Place(file, "row", number, record)
        folder.require(record, (), where=str(place))
        yield place


def _csv(file: epath.Path) -> Iterator[Place]:
    csv.field_size_limit(sys.maxsize)  # some tests of programs exceed the default, 128 KiB
    lines = (text for _, text in folder.read_lines(file))
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place = Place(file, "line", start, {})
            start = reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                if len(set(header)) < len(header):
                    raise UserError(f"{place}: two columns have the same name")
                continue
            if len(cells) != len(header):
                raise UserError(f"{place}: {len(cells)} cells for {len(header)} columns")
            # An empty cell is an absent value.
            record = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            yield dataclasses.replace(place, record=record)
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: not CSV ({error})") from error


def _arrow(file: epath.Path, *, parquet: bool) -> Iterator[Place]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with file.open("rb") as stream:
            if parquet:
                batches = pq.ParquetFile(stream).iter_batches(batch_size=1024, use_threads=False)
            else:
                batches = iter(pa.ipc.open_stream(stream))  # what `datasets` writes
            for batch in batches:
                for record in batch.to_pylist():
                    number += 1
                    yield Place(file, "row", number, record)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if parquet else "Arrow"
        message = " ".join(str(error).split())
        raise UserError(
            f"{file}, after row {number}: not readable as {kind} ({message}); fetch it again"
        ) from error

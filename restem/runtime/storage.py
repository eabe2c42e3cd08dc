"""Files that appear whole or not at all.

A file is written under a temporary name in its folder, synced to disk and then renamed, so a file
that exists is complete, also after a power failure. Paths are those of `etils.epath`, so they may
be in a bucket.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from etils import epath

from restem.errors import UserError

T = TypeVar("T")

COPY = "copy or download it again"
"""Remedy for a damaged file from elsewhere."""

REPAIR = "the run's command with --repair removes it and makes it again"
"""Remedy for a damaged file of a run."""


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is in a bucket."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns an absolute path; a bucket's name is one already."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
      OSError: the file cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name is unique, so two processes that race write the same bytes twice, never a
    # mixture.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        if is_remote(path):
            temporary.write_bytes(data)
        else:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def sync_folder(folder: epath.Path) -> None:
    """Syncs a folder, its name and all files below it to disk; does nothing in a bucket."""
    if is_remote(folder) or not folder.exists():
        return
    for root, _, names in os.walk(folder):
        for name in (*names, "."):
            _sync(epath.Path(root) / name)
    _sync(folder.parent)


def _sync(path: epath.Path) -> None:
    """Syncs a file, or the names in a folder, to disk."""
    if is_remote(path):
        return
    # Another host may have removed the file, and some file systems cannot sync folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: epath.Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: epath.Path, *required: str, remedy: str = REPAIR) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
      path: the file.
      *required: keys that the object must have.
      remedy: what to do about a damaged file.

    Raises:
      UserError: the file is missing, is not JSON, holds something else, or lacks a key.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the step that writes it first") from None
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: not JSON ({_shortened(e)}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object but a {type(value).__name__}; {remedy}")
    if missing := [key for key in required if key not in value]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {remedy}")
    return value


_NOTE_KEY = b"restem.note"


def write_table(
    path: epath.Path, table, *, rows_per_group: int | None = None, note: Any = None
) -> None:
    """Writes a pyarrow table as Parquet, whole or not at all, with a checksum per page.

    Args:
      path: the file.
      table: the table.
      rows_per_group: rows per row group, the unit in which a part can be read; None: all rows of
        tables that fit in memory.
      note: any JSON value to store in the file's metadata; None: no note.
    """
    import pyarrow.parquet as pq

    if note is not None:
        metadata = {**(table.schema.metadata or {}), _NOTE_KEY: json.dumps(note).encode()}
        table = table.replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", row_group_size=rows_per_group, write_page_checksum=True
    )
    write_bytes(path, buffer.getvalue())


def read_table(path: epath.Path):
    """Reads a Parquet file.

    Raises:
      UserError: the file is missing, is not Parquet, or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        # No threads: a pyarrow thread that outlives the read frees the bytes later, and aborts the
        # process if the interpreter is shutting down by then.
        source = pa.BufferReader(path.read_bytes())
        file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        table = file.read(use_threads=False)
        table.validate(full=True)
        return table


def read_records(path: epath.Path, from_table: Callable[[Any], T]) -> T:
    """Reads a Parquet file of records.

    Args:
      path: the file.
      from_table: makes the records from a pyarrow table.

    Raises:
      UserError: as in `read_table`, or the table has other columns.
    """
    table = read_table(path)
    try:
        return from_table(table)
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"{path}: not a table of this kind ({_shortened(e)}); {REPAIR}") from None


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__


@contextlib.contextmanager
def parquet_file(path: epath.Path) -> Iterator[Any]:
    """Opens a Parquet file to read parts of it; errors as in `read_table`."""
    import pyarrow.parquet as pq

    with _parquet_errors(path), path.open("rb") as f:
        yield pq.ParquetFile(f, page_checksum_verification=True)


@contextlib.contextmanager
def _parquet_errors(path: epath.Path) -> Iterator[None]:
    """Turns the errors of a missing or damaged Parquet file into `UserError`s that name it."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the step that writes it first") from None
    except MemoryError:  # one of Arrow's errors is a MemoryError too
        raise
    except (pa.ArrowException, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise  # the file could not be read, as opposed to understood
        raise UserError(f"{path}: not a Parquet file ({_shortened(e)}); {REPAIR}") from None


def read_columns(path: epath.Path, columns: Sequence[str]):
    """Reads some columns of a Parquet file; errors as in `read_table`."""
    with parquet_file(path) as file:
        return file.read(list(columns), use_threads=False)


def read_note(path: epath.Path) -> Any:
    """Returns the note in a file that `write_table` wrote with one; errors as in `read_table`."""
    with parquet_file(path) as file:
        metadata = file.schema_arrow.metadata or {}
    if _NOTE_KEY not in metadata:
        raise UserError(f"{path}: has no counts in its metadata; {REPAIR}")
    return json.loads(metadata[_NOTE_KEY])


def num_rows(path: epath.Path) -> int:
    """Returns the number of rows of a Parquet file, from its footer; errors as in `read_table`."""
    with parquet_file(path) as file:
        return file.metadata.num_rows


def copy_folder(source: epath.Path, target: epath.Path) -> None:
    """Copies a folder file by file, because buckets cannot rename folders."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            copy_folder(entry, target / entry.name)
        else:
            entry.copy(target / entry.name, overwrite=True)

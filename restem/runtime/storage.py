"""Files that appear whole or not at all.

A file is written under a temporary name in its folder and then renamed, so a file that exists is
complete. Paths are those of `etils.epath`, so they may be in a bucket.
"""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

from etils import epath

from restem.errors import UserError


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name is unique, so two processes that race write the same bytes twice, never a
    # mixture.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file; raises `UserError` naming the file if it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the step that writes it first") from None
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e}); remove it and run the step again") from None


def write_table(path: epath.Path, table) -> None:
    """Writes a pyarrow table as Parquet, whole or not at all."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def read_table(path: epath.Path):
    """Reads a Parquet file; raises `UserError` naming the file if it is missing or not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # No threads: a pyarrow thread that outlives the read frees the bytes later, and aborts the
        # process if the interpreter is shutting down by then.
        source = pa.BufferReader(path.read_bytes())
        return pq.ParquetFile(source, pre_buffer=False).read(use_threads=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the step that writes it first") from None
    except pa.ArrowInvalid as e:
        raise UserError(f"{path}: not a Parquet file ({e}); remove it and run again") from None


def copy_folder(source: epath.Path, target: epath.Path) -> None:
    """Copies a folder file by file, because buckets cannot rename folders."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            copy_folder(entry, target / entry.name)
        else:
            entry.copy(target / entry.name, overwrite=True)

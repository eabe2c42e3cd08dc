"""The data folder: which it is, where a file lies in it, and its records one by one.

The folder may be a bucket (`gs://...`): every path is an `etils.epath` path.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from restem.errors import UserError

ENVIRONMENT = "RESTEM_DATA_DIR"
MACRO = "DATA_DIR"


def data_dir(argument: str | None = None) -> str | None:
    """The argument, else gin's macro DATA_DIR, else $RESTEM_DATA_DIR, else None."""
    if argument:
        return argument
    import gin

    try:
        bound = gin.query_parameter(f"%{MACRO}")
    except ValueError:
        bound = None
    return bound or os.environ.get(ENVIRONMENT) or None


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a data set lies in a folder."""

    name: str
    """What the layout is called in messages and metadata, e.g. "hendrycks/math"."""
    files: Mapping[str, Sequence[str]]
    """Split to glob patterns in the data folder, e.g. {"train": ["MATH/train/*/*.json"]}."""


def find(
    argument: str | None, *, task: str, layouts: Sequence[Layout], source: str
) -> tuple[Layout, dict[str, list[epath.Path]]]:
    """The first layout of which any file is there, and its files by split, sorted by path.

    Args:
      argument: the data folder as a caller gave it; None asks gin and the environment.
      task: task name for messages.
      layouts: layouts in order of preference.
      source: where a person gets the data.

    Raises:
      UserError: no folder was named, it does not exist, or it has none of the files.
    """
    wanted = " or ".join(p for layout in layouts for ps in layout.files.values() for p in ps)
    folder = data_dir(argument)
    remedy = f"get it from {source}"
    if not folder:
        raise UserError(
            f"task {task}: no data folder, in which to look for {wanted}; {remedy}, and name the "
            f"folder by --gin.{MACRO}=FOLDER or {ENVIRONMENT}"
        )
    root = epath.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(
            f"task {task}: the data folder {folder} does not exist (set by --gin.{MACRO} or "
            f"{ENVIRONMENT}); it should hold {wanted}: {remedy}"
        )
    for layout in layouts:
        found = {}
        for split, patterns in layout.files.items():
            files = [f for pattern in patterns for f in sorted(root.glob(pattern))]
            if files:
                found[split] = files
        if found:
            return layout, found
    raise UserError(f"task {task}: no {wanted} in the data folder {folder}: {remedy}")


def require_split(
    files: Mapping[str, Sequence[epath.Path]], split: str, *, task: str, layout: Layout
) -> None:
    """Raises UserError unless `find` found files of `split`."""
    if split not in files:
        raise UserError(
            f"task {task}: the data folder has {' and '.join(sorted(files))} but no {split} files; "
            f"looked for {' or '.join(layout.files[split])}"
        )


def read_text(path: epath.Path) -> str:
    """A file as text; `.gz` is unpacked.

    Raises:
      UserError: it is missing, damaged, or not UTF-8.
    """
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error


def read_jsonl(
    path: epath.Path | str, *, required: Iterable[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, record) of each non-empty line of a `.jsonl` or `.jsonl.gz` file.

    Raises:
      UserError: a line is not a JSON object or lacks a required field; names file and line.
    """
    path = epath.Path(path)
    # Not splitlines(): it also splits at U+2028 and others that may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}); "
                "each line must be one JSON object"
            ) from error
        require(record, required, where=f"{path}, line {number}")
        yield number, record


def read_json(path: epath.Path, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError naming the file if it is not one."""
    try:
        record = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    require(record, required, where=str(path))
    return record


def require(record: Any, fields: Iterable[str], *, where: str) -> None:
    """Raises UserError unless `record` is a dict that has all of `fields`."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
    missing = [field for field in fields if record.get(field) is None]
    if missing:
        raise UserError(
            f"{where}: no field {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, record)) or 'none'}"
        )


def checksum(files: Iterable[epath.Path]) -> str:
    """SHA-256, in hex, of the names and contents of files; where they lie is no part of it."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.parent.name}/{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()

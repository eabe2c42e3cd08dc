"""The data folder: its path, the files in it, and their records.

The folder may be in a bucket (`gs://...`): every path is an `etils.epath` path.
"""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from etils import epath

from restem.errors import UserError

ENVIRONMENT = "RESTEM_DATA_DIR"
MACRO = "DATA_DIR"


def data_dir(argument: str | None = None) -> str | None:
    """Returns the argument, or else gin's macro DATA_DIR, $RESTEM_DATA_DIR, or None."""
    if argument:
        return argument
    try:
        bound = gin.query_parameter(f"%{MACRO}")
    except ValueError:
        bound = None
    return bound or os.environ.get(ENVIRONMENT) or None


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to arrange a data set in a folder."""

    name: str
    """Name of the layout in messages and notes, e.g. "hendrycks/math"."""
    files: Mapping[str, Sequence[str]]
    """Split to glob patterns within the data folder, e.g. {"train": ["MATH/train/*/*.json"]}."""


def find(
    argument: str | None, *, task: str, layouts: Sequence[Layout], source: str
) -> tuple[Layout, dict[str, list[epath.Path]]]:
    """Returns the first layout that has any files, and its files by split, sorted by path.

    Args:
      argument: data folder; None looks in gin and the environment, as `data_dir` does.
      task: name of the task, for messages.
      layouts: layouts in order of preference.
      source: where the data can be downloaded, for messages.

    Raises:
      UserError: if no folder is named, it does not exist, or it has none of the files.
    """
    wanted = " or ".join(p for layout in layouts for ps in layout.files.values() for p in ps)
    folder = data_dir(argument)
    remedy = f"get it from {source}"
    if not folder:
        raise UserError(
            f"task {task}: no data folder is named, which should hold {wanted}; {remedy}, and name "
            f"the folder by --gin.{MACRO}=FOLDER or {ENVIRONMENT}"
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


def read_lines(path: epath.Path | str) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line with its end) of a text file; `.gz` is decompressed.

    A byte-order mark, which Excel writes, is skipped.

    Raises:
      UserError: if the file is missing, or a line is damaged or not UTF-8; names file and line.
    """
    path = epath.Path(path)
    number = 0
    try:
        stream: Any = io.BytesIO(path.read_bytes())
        if path.name.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=stream)
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); save the "
            "file as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}, line {number + 1}: cannot be read ({error}); fetch the file again"
        ) from error


def read_text(path: epath.Path) -> str:
    """Returns the text of a file; errors as in `read_lines`."""
    return "".join(line for _, line in read_lines(path))


def read_jsonl(
    path: epath.Path | str, *, required: Iterable[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, record) per non-empty line of a `.jsonl` or `.jsonl.gz` file.

    Raises:
      UserError: if a line is not a JSON object or lacks a required field; names file and line.
    """
    for number, line in read_lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            record = parse_json(line, where=where)
            require(record, required, where=where)
            yield number, record


def read_json(path: epath.Path, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises UserError naming the file if it holds none."""
    record = parse_json(read_text(path), where=str(path))
    require(record, required, where=str(path))
    return record


def parse_json(text: str, *, where: str) -> Any:
    """Returns the value of a JSON text. Raises UserError, naming `where`, if it cannot be read."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(f"{where}{line}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError:
        raise UserError(f"{where}: JSON that is nested too deeply") from None
    except ValueError:  # Python refuses integers of more than sys.get_int_max_str_digits() digits
        raise UserError(
            f"{where}: a number of more than {sys.get_int_max_str_digits()} digits; write it as a "
            "string"
        ) from None


def require(record: Any, fields: Iterable[str], *, where: str) -> None:
    """Raises UserError unless `record` is a dict with all of `fields`."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
    missing = [field for field in fields if record.get(field) is None]
    if missing:
        raise UserError(
            f"{where}: no field {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, record)) or 'none'}"
        )


def checksum(files: Iterable[epath.Path]) -> str:
    """Returns the SHA-256, in hex, of the names and contents of files, whatever their folder."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.parent.name}/{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()

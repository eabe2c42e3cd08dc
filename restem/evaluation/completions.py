"""Files of outputs that other programs sampled.

A file holds JSON lines, one per query, or a JSON object or list of such rows. A row identifies its
problem by `problem_id` (or the data set's `task_id`) or by the text of the query, and holds the
output in `output`, `outputs` (several samples) or `prediction`, or, beside an id, in `text`:

    {"problem_id": "HumanEval/0", "outputs": ["    return ...", "    for ..."]}
    {"problem_id": "HumanEval/0", "text": "    return ..."}
    {"input": "not ( True ) and ( True ) is", "output": "... So the answer is False."}

The text may be the query of the run, the data set's own question without the form around it, or a
whole prompt that ends with the query; white space does not matter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from restem.data import folder
from restem.errors import UserError

IDS = ("problem_id", "task_id")
QUERIES = ("inputs", "input", "question", "problem", "prompt", "text")
OUTPUTS = ("outputs", "output", "prediction", "completion")


@dataclasses.dataclass(frozen=True)
class Completion:
    """One row of a file."""

    where: str
    """File and line, for messages."""
    problem_id: str | None
    """Id of the problem; None if the row has none."""
    query: str | None
    """Text of the query; None if the row has none."""
    outputs: tuple[str, ...]
    """Outputs, one per sample."""
    finish_reason: str
    """"eos", "stop" or "length" if the row says so; else ""."""
    target: str | None = None
    """Gold answer, if the row repeats it; helps to identify the problem, never used to grade."""


def read(paths: Sequence[epath.Path | str]) -> list[Completion]:
    """Returns all rows of the files, which may be `.jsonl` or `.json`, and `.gz`.

    Raises:
      UserError: if a file is missing, or a row lacks a query or an output; names file and line.
    """
    return [_completion(where, row) for path in paths for where, row in _rows(epath.Path(path))]


def _rows(path: epath.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.name.removesuffix(".gz").endswith(".json"):
        for number, row in folder.read_jsonl(path):
            yield f"{path}, line {number}", row
        return
    try:
        found = json.loads(folder.read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg})") from e
    if isinstance(found, dict):  # BIG-Bench Hard's outputs have one list beside a note
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        raise UserError(f"{path}: holds neither a list of rows nor an object with one such list")
    for number, row in enumerate(found, start=1):
        folder.require(row, (), where=f"{path}, row {number}")
        yield f"{path}, row {number}", row


def _completion(where: str, row: Mapping[str, Any]) -> Completion:
    first = lambda names: next((row[n] for n in names if row.get(n) is not None), None)
    identity, query, outputs = first(IDS), first(QUERIES), first(OUTPUTS)
    if outputs is None and identity is not None:  # as in the files of `generate --completions`
        outputs, query = row.get("text"), None
    if isinstance(outputs, str):
        outputs = [outputs]
    if not isinstance(outputs, list) or not outputs or not all(isinstance(o, str) for o in outputs):
        raise UserError(f"{where}: no output; a row has {' or '.join(map(repr, OUTPUTS))}: text")
    if identity is None and not isinstance(query, str):
        raise UserError(
            f"{where}: does not say what was asked; a row has {' or '.join(map(repr, IDS))}, or"
            f" the query in {' or '.join(map(repr, QUERIES))}"
        )
    return Completion(
        where=where,
        problem_id=None if identity is None else str(identity),
        query=query if isinstance(query, str) else None,
        outputs=tuple(outputs),
        finish_reason=str(row.get("finish_reason") or ""),
        target=None if row.get("target") is None else str(row["target"]),
    )

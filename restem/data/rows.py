"""Conversion of a function source's records to rows of text, and of rows to problems.

A row has the form of a SeqIO example in which every field is a string. Tasks that are read directly
and tasks that are read through SeqIO both pass through this form, so both give the same problems.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from restem.data import fields, folder
from restem.data.task_spec import Records, TaskSpec
from restem.records import Problem

FIELDS = (
    "problem_id", "inputs", "targets", "answer", "has_answer", "tests", "solutions", "metadata",
)  # fmt: skip
"""Fields of a row. `has_answer` is "" for a problem without one, since an answer may be empty."""


def of_function(
    spec: TaskSpec,
    split: str,
    *,
    data_dir: str | None,
    cache_dir: str | None,
    notes: dict[str, Any],
) -> list[dict[str, str]]:
    """Returns the rows of a split from a task's source function; adds its notes to `notes`.

    Raises:
      UserError: if a record is bad.
    """
    given = {"data_dir": folder.data_dir(data_dir), "cache_dir": cache_dir}
    accepts = inspect.signature(spec.source).parameters
    records = spec.source(split, **{k: v for k, v in given.items() if k in accepts})
    if isinstance(records, Records):
        notes.update(records.notes)
        records = records.rows
    return [
        _row(record, task=spec.name, split=split, index=index)
        for index, record in enumerate(records)
    ]


def _row(record: Mapping[str, Any], *, task: str, split: str, index: int) -> dict[str, str]:
    where = f"task {task}, {split} record {index + 1}"
    folder.require(record, ("inputs",), where=where)
    problem_id = record.get("problem_id", f"{split}-{index:05d}")
    answer = fields.answer(record.get("answer"), where=where)
    solutions = fields.solutions(record.get("solutions"), where=where)
    targets = record.get("targets") or (solutions[0] if solutions else answer or "")
    return {
        "problem_id": fields.text(problem_id, "problem_id", where=where),
        "inputs": fields.string(record["inputs"], "inputs", where=where),
        "targets": fields.string(targets, "targets", where=where) if targets else "",
        "answer": answer or "",
        "has_answer": "" if answer is None else "yes",
        "tests": fields.tests(record.get("tests"), where=where),
        "solutions": json.dumps(solutions),
        "metadata": fields.metadata(record.get("metadata"), where=where),
    }


def to_problem(row: Mapping[str, str], *, split: str, index: int) -> Problem:
    """Returns the problem of a row, which may lack all of `FIELDS` but `inputs` and `targets`."""
    answer = row.get("answer", row["targets"])
    absent = not row.get("has_answer", answer)
    solutions = json.loads(row["solutions"]) if row.get("solutions") else []
    if "solutions" not in row and row["targets"] != answer:
        solutions = [row["targets"]]
    return Problem(
        problem_id=row.get("problem_id") or f"{split}-{index:05d}",
        split=split,
        inputs=row["inputs"],
        answer=None if absent else answer,
        tests=row.get("tests") or None,
        solutions=tuple(solutions),
        metadata=json.loads(row.get("metadata") or "{}"),
    )

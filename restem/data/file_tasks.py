"""Tasks from files, without any Python: a gin file names the data and maps its columns.

Bindings use the task's name as scope:

    my_task/file_task.path = "problems.jsonl"
    my_task/file_task.prompt = "prompt.txt"
    my_task/file_task.grader = {"kind": "math", "extraction": "minerva"}

After these bindings, a run can name `my_task`. The data may be JSON lines, CSV, Parquet or Arrow, a
folder of such files (such as `datasets.save_to_disk` writes), or a data set of the Hugging Face
Hub:

    gsm/file_task.path = "hf:openai/gsm8k/main"
    gsm/file_task.columns = {"problem": "question", "answer": "answer", "solution": "answer"}
    gsm/file_task.answer_pattern = "#### (.+)"
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import gin

from restem.data import data_files, fields, prompts, splits, tables
from restem.data.task_spec import IN_A_BOX, SPLITS, TaskSpec, ZeroShot
from restem.errors import UserError
from restem.runtime import checks
from restem.runtime.checks import NONE_EMPTY, at_least
from restem.verify import graders

MINERVA = "Problem:\n{problem}\n\nSolution:"
MINERVA_STOP = ("\nProblem:",)
MINERVA_STOP_AFTER = ("I hope it is correct.",)

# The names that gin accepts as a scope.
_SCOPE = re.compile(r"^[a-zA-Z_]\w*$")

COLUMNS = ("problem", "answer", "solution", "solutions", "tests", "split", "id", "metadata")


@gin.configurable("file_task")
@dataclasses.dataclass(frozen=True)
class FileTask:
    """A task from files. The gin scope that binds `path` is its name."""

    path: str | None = None
    """Data: a file (`.jsonl`, `.csv`, `.parquet`, `.arrow`; the first two also `.gz`), a folder of
    such files, or `hf:ORG/NAME[@REVISION][/FOLDER]` on the Hugging Face Hub."""
    files: Mapping[str, str] | None = None
    """Split to the pattern of its files within the folder `path`, such as {"test": "*/test*"}; None
    recognises splits by the words train, validation and test in paths."""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field to the column that holds it, such as {"problem": "question"}; "a.b" is field b of
    column a. Fields: problem, answer, solution, solutions, tests, split, id, metadata. A field that
    is not named is read from the column of its own name."""
    metadata_columns: Sequence[str] = ()
    """Columns to keep as metadata of the problem."""
    answer_pattern: str | None = None
    """Regular expression whose first group, at its last match in the answer column, is the answer;
    None takes the whole column."""
    prompt: str | None = None
    """File with the few-shot prefix; None is zero-shot."""
    template: str = MINERVA
    """Query, with `{problem}` in place of the problem."""
    solution_template: str = "\n{solution}"
    """Target of supervised fine-tuning, with `{solution}` in place of a solution."""
    grader: Mapping[str, Any] | None = None
    """See `TaskCard.grader`; None is Minerva's answer form, or running programs if the data has
    tests."""
    stop: Annotated[Sequence[str], NONE_EMPTY] = MINERVA_STOP
    """See `TaskCard.stop`."""
    stop_after: Annotated[Sequence[str], NONE_EMPTY] = MINERVA_STOP_AFTER
    """See `TaskCard.stop_after`."""
    max_new_tokens: Annotated[int, at_least(1)] = 512
    """See `TaskCard.max_new_tokens`."""
    validation_size: Annotated[int, at_least(0)] = 0
    """Training problems to hold out for validation if the data has no validation split."""
    test_size: Annotated[int, at_least(0)] = 0
    """Training problems to hold out for testing if the data has no test split."""
    seed: int = 0
    """Seed of the choice of held-out problems."""

    def spec(self, name: str) -> TaskSpec:
        """Reads the data and returns the task.

        Raises:
          UserError: a setting that does not fit, or a bad record; the message names the setting, or
            the file and the line.
        """
        setting = f"{name}/file_task"
        self._check(setting)
        if self.grader is not None:
            graders.check(self.grader)
        by_split = self._carved(self._records(setting), setting)
        tested = any(r["tests"] for rows in by_split.values() for r in rows)
        grader = self.grader
        if grader is None:
            grader = {"kind": "program"} if tested else {"kind": "math", "extraction": "minerva"}
        return TaskSpec(
            name=name,
            source=lambda split: by_split[split],
            splits=tuple(split for split, rows in by_split.items() if rows),
            form=self.template,
            zero_shot=ZeroShot() if self.grader is not None or tested else IN_A_BOX,
            prompt=prompts.from_file(self.prompt) if self.prompt else prompts.ZERO_SHOT,
            stop=tuple(self.stop),
            stop_after=tuple(self.stop_after),
            grader=dict(grader),
            max_new_tokens=self.max_new_tokens,
        )

    def _check(self, setting: str) -> None:
        if "{problem}" not in self.template:
            raise UserError(f"{setting}.template has no {{problem}}: {self.template!r}")
        if "{solution}" not in self.solution_template:
            raise UserError(
                f"{setting}.solution_template has no {{solution}}: {self.solution_template!r}"
            )
        unknown = sorted(set(self.columns) - set(COLUMNS))
        if unknown:
            raise UserError(
                f"{setting}.columns: no field {unknown[0]!r}; the fields are {', '.join(COLUMNS)}"
            )
        for field in ("stop", "stop_after", "metadata_columns"):
            checks.strings(getattr(self, field), f"{setting}.{field}")
        if self.answer_pattern is not None:
            try:
                groups = re.compile(self.answer_pattern).groups
            except re.error as error:
                raise UserError(f"{setting}.answer_pattern: {error}") from error
            if not groups:
                raise UserError(f"{setting}.answer_pattern has no group (...) around the answer")

    def _records(self, setting: str) -> list[dict[str, Any]]:
        """Returns the records of all files, as in `TaskSpec.source`, each with its split."""
        assert self.path is not None
        found = data_files.find(self.path, self.files, setting=setting)
        several = sum(map(len, found.values())) > 1
        records: list[dict[str, Any]] = []
        seen: dict[str, str] = {}
        for split, files in found.items():
            for file in files:
                for place in tables.read(file):
                    record = self._record(place, split, f"{file.name}:" if several else "")
                    problem_id = record["problem_id"]
                    if problem_id in seen:
                        raise UserError(f"{place}: id {problem_id!r} is used by {seen[problem_id]}")
                    seen[problem_id] = str(place)
                    records.append(record)
        if not records:
            raise UserError(f"{self.path}: holds no records; a record is one problem")
        return records

    def _carved(
        self, records: Sequence[Mapping[str, Any]], setting: str
    ) -> dict[str, list[Mapping[str, Any]]]:
        """Returns records by split, with those that `validation_size` and `test_size` hold out."""
        by_split = {split: [r for r in records if r["split"] == split] for split in SPLITS}
        for split, size in (("test", self.test_size), ("validation", self.validation_size)):
            if size and not by_split[split]:
                by_split["train"], by_split[split] = splits.carve(
                    by_split["train"], size, key=lambda r: r["inputs"], seed=self.seed,
                    setting=f"{setting}.{split}_size",
                )  # fmt: skip
        return by_split

    def _record(self, place: tables.Place, split: str, id_prefix: str) -> dict[str, Any]:
        """Returns a record in the form of `TaskSpec.source`; raises UserError naming its place."""

        def column(field: str) -> Any:
            return _column(place, self.columns.get(field, field), named=field in self.columns)

        problem = column("problem")
        if problem is None:
            name = self.columns.get("problem", "problem")
            raise UserError(
                f"{place}: no field {name!r}; it has {', '.join(map(repr, place.record)) or 'none'}"
            )
        problem = fields.string(problem, "problem", where=place)
        split = column("split") or split
        if split not in SPLITS:
            raise UserError(f"{place}: split is {split!r}; use one of {', '.join(SPLITS)}")
        given = column("id")
        return {
            "problem_id": fields.text(
                f"{id_prefix}{place.unit}-{place.number}" if given is None else given,
                "id",
                where=place,
            ),
            "split": split,
            "inputs": self.template.replace("{problem}", problem),
            "answer": self._answer(place, column("answer")),
            "tests": fields.tests(column("tests"), where=place),
            "solutions": self._solutions(place, column),
            "metadata": self._metadata(place, column("metadata")),
        }

    def _answer(self, place: tables.Place, answer: Any) -> str | None:
        text = fields.answer(answer, where=place)
        if text is None or self.answer_pattern is None:
            return text
        matches = list(re.finditer(self.answer_pattern, text))
        if not matches:
            raise UserError(
                f"{place}: answer_pattern {self.answer_pattern!r} does not match {text[-60:]!r}"
            )
        return (matches[-1][1] or "").strip()

    def _solutions(self, place: tables.Place, column: Callable[[str], Any]) -> tuple[str, ...]:
        given = _parsed(column("solutions"))
        if given is None:
            single = column("solution")
            given = [single] if single else []
        found = fields.solutions(given, where=place)
        return tuple(self.solution_template.replace("{solution}", s) for s in found)

    def _metadata(self, place: tables.Place, given: Any) -> dict[str, Any]:
        metadata = _parsed(given)
        if metadata is None or isinstance(metadata, Mapping):
            columns = {name: _column(place, name, named=True) for name in self.metadata_columns}
            metadata = {**(metadata or {}), **columns}
        fields.metadata(metadata, where=place)
        return metadata


def _column(place: tables.Place, name: str, *, named: bool) -> Any:
    """Returns the value of a column; "a.b" is field b of column a; None if absent or empty.

    Raises:
      UserError: if a setting names the column, but the record has none of that name.
    """
    value: Any = place.record
    for part in [name] if name in place.record else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if not named:
                return None
            have = ", ".join(map(repr, place.record)) or "none"
            raise UserError(f"{place}: no column {name!r}; it has {have}")
        value = value[part]
    return value


def _parsed(value: Any) -> Any:
    """Returns a value, parsed if it is JSON as text, as in CSV files."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


# The former name, for existing gin files and run folders.
_JsonlTask = gin.external_configurable(FileTask, name="jsonl_task", module="restem.data")


def bound(name: str) -> FileTask | None:
    """Returns the task of files that gin binds under the scope `name`; None if it binds none."""
    if not _SCOPE.match(name):
        return None
    with gin.config_scope(None), gin.config_scope(name):
        for configurable in (FileTask, _JsonlTask):
            task = configurable()
            if task.path is not None:
                return task
    return None

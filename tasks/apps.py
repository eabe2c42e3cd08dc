"""The task `apps`: introductory problems of APPS (Hendrycks et al., 2021), solved by programs.

The ReST-EM paper did not publish its prompt and its filter (2,342 training problems), so this task
has its own: the shots were written for this project, and the log and the card's notes count the
problems that the filter drops, by reason.

The official test split is used if the data folder has it. A folder with the file
`apps/train_introductory.jsonl.gz` lacks it; then problems whose `source_file` is
`data/apps/test_intro.parquet` serve as the test split. They are held out from the *train* split of
APPS and are not the APPS test set, as the card's notes say.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import gin
from etils import epath

from restem.data import folder, registry, splits
from restem.data.task_spec import ZeroShot
from restem.errors import UserError
from restem.runtime.checks import at_least
from restem.tasks import shots
from restem.verify.programs.tests import parse_tests

LAYOUTS = (
    folder.Layout("apps/*.jsonl", {"train": ("apps/train_introductory.jsonl*",)}),
    folder.Layout(
        "hendrycks/apps",
        {
            "train": ("APPS/train/*/metadata.json",),
            "test": ("APPS/test/*/metadata.json",),
        },
    ),
)
SOURCE = "https://github.com/hendrycks/apps (APPS.tar.gz, unpacked)"
HOLD_OUT = "data/apps/test_intro.parquet"
STANDARD_INPUT, CALL_BASED = "Use Standard Input format", "Use Call-Based format"


@gin.configurable(module="restem.tasks")
def apps(
    split: str,
    *,
    data_dir: str | None = None,
    validation_size: Annotated[int, at_least(0)] = 150,
    validation_seed: int = 0,
    max_question_chars: Annotated[int, at_least(0)] = 6_000,
    max_test_chars: Annotated[int, at_least(0)] = 100_000,
    min_tests: Annotated[int, at_least(1)] = 1,
) -> registry.Records:
    """Returns the introductory problems of a split that can be asked and checked.

    A problem is kept if it has tests, the tests parse, and neither the tests nor the statement is
    too long.

    Args:
      split: "train", "validation" or "test".
      data_dir: data folder.
      validation_size: number of kept training problems to hold out for validation.
      validation_seed: seed of that choice.
      max_question_chars: maximum length of a statement with its starter code, in characters.
      max_test_chars: maximum length of the JSON of a problem's tests, in characters.
      min_tests: least number of tests of a training or validation problem. One in six has a single
        test, which wrong programs often pass (docs/apps.md).
    """
    layout, files = folder.find(data_dir, task="apps", layouts=LAYOUTS, source=SOURCE)
    held_out = layout.name != "hendrycks/apps"
    official = "test" if split == "test" and not held_out else "train"
    folder.require_split(files, official, task="apps", layout=layout)
    rows = list(
        _read_jsonl(files[official]) if held_out else _read_folders(files[official], official)
    )
    part = "test" if split == "test" else "train"
    if held_out:
        rows = [row for row in rows if (row["source_file"] == HOLD_OUT) == (part == "test")]
    dropped: collections.Counter[str] = collections.Counter()
    kept = []
    for row in rows:
        reason = _reason_to_drop(
            row, max_question_chars, max_test_chars, min_tests if part == "train" else 1
        )
        if reason:
            dropped[reason] += 1
        else:
            kept.append(row)
    notes: dict[str, Any] = {
        "layout": layout.name,
        f"{part}_filter": {"read": len(rows), "kept": len(kept), "dropped": dict(dropped)},
    }
    if part == "test" and held_out:
        notes["test"] = f"{HOLD_OUT}: a hold-out from the train split, not the APPS test set"
    if part == "train":
        rest, validation = splits.carve(
            kept,
            validation_size,
            key=lambda r: r["problem_id"],
            seed=validation_seed,
            setting="apps.validation_size",
        )
        kept = validation if split == "validation" else rest
        notes["validation_size"] = validation_size
    return registry.Records([_record(row) for row in kept], notes)


def query(question: str, starter_code: str, tests: Mapping[str, Any]) -> str:
    """Returns the query in the form of APPS: statement, starter code, style of input."""
    style = CALL_BASED if tests.get("fn_name") else STANDARD_INPUT
    starter = f"\n{starter_code.rstrip()}\n" if starter_code.strip() else ""
    return f"QUESTION:\n{question.strip()}\n{starter}\n{style}\n\nANSWER:\n"


def _read_jsonl(files: Iterable[epath.Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for number, record in folder.read_jsonl(file, required=("problem_id", "question")):
            yield {
                "problem_id": f"train-{int(record['problem_id']):04d}",
                "question": record["question"],
                "starter_code": record.get("starter_code") or "",
                "tests": record.get("input_output") or "",
                "solutions": _solutions(record.get("solutions"), f"{file}, line {number}"),
                "source_file": record.get("source_file", ""),
                "url": record.get("url", ""),
            }


def _read_folders(files: Iterable[epath.Path], official: str) -> Iterator[dict[str, Any]]:
    for file in files:
        metadata = folder.read_json(file)
        if metadata.get("difficulty") != "introductory":
            continue
        home = file.parent

        def text(name: str, home: epath.Path = home) -> str:
            return folder.read_text(home / name) if (home / name).exists() else ""

        yield {
            "problem_id": f"{official}-{home.name}",
            "question": text("question.txt"),
            "starter_code": text("starter_code.py"),
            "tests": text("input_output.json"),
            "solutions": _solutions(text("solutions.json"), str(home / "solutions.json")),
            "source_file": f"{official}/{home.name}",
            "url": metadata.get("url", ""),
        }


def _solutions(text: str | None, where: str) -> list[str]:
    if not text:
        return []
    try:
        solutions = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: solutions are not JSON ({error.msg})") from error
    return [solution for solution in solutions if solution.strip()]


def _reason_to_drop(
    row: Mapping[str, Any], max_question: int, max_tests: int, min_tests: int
) -> str | None:
    if not row["tests"].strip():
        return "no tests"
    if len(row["tests"]) > max_tests:
        return f"tests over {max_tests} characters"
    if len(row["question"]) + len(row["starter_code"]) > max_question:
        return f"question over {max_question} characters"
    try:
        tests = json.loads(row["tests"])
        if not tests.get("inputs"):
            return "no tests"
        parse_tests(tests)
        if len(tests["inputs"]) < min_tests:
            return f"fewer than {min_tests} tests"
    except (ValueError, AttributeError, RecursionError, UserError):
        return "tests do not parse"
    return None


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "problem_id": row["problem_id"],
        "inputs": query(row["question"], row["starter_code"], json.loads(row["tests"])),
        "tests": row["tests"],
        "solutions": tuple(f"{solution.strip()}\n" for solution in row["solutions"]),
        "metadata": {"source_file": row["source_file"], "url": row["url"]},
    }


registry.add(
    "apps",
    source=apps,
    form="QUESTION:\n{problem}\n\nANSWER:\n",
    zero_shot=ZeroShot(
        "{problem}\n\nWrite a Python program. Put it in one code block.",
        {"kind": "program", "extraction": "auto", "time_limit_s": 4.0},
    ),
    prompt=lambda data_dir: shots.own("apps_2shot"),
    stop=("\nQUESTION:", "\nANSWER:"),
    grader={"kind": "program", "extraction": "completion", "time_limit_s": 4.0},
    max_new_tokens=512,
    through_seqio=True,
)

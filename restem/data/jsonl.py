"""A task of one's own without a line of Python: a JSONL file that gin points at.

In a gin file, with the task's name as scope:

    my_task/jsonl_task.path = "problems.jsonl"
    my_task/jsonl_task.prompt = "prompt.txt"
    my_task/jsonl_task.grader = {"kind": "math", "extraction": "minerva"}

after which `my_task` can stand wherever a task is named. A line is
`{"problem": ..., "answer": ...}` with, as they apply, `solution` or `solutions` (for supervised
fine-tuning), `tests` (for programs), `split` ("train", "validation" or "test"; without it, train),
`id` and `metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
from etils import epath

from restem.data import folder, prompts, registry, splits
from restem.errors import UserError

MINERVA = "Problem:\n{problem}\n\nSolution:"
MINERVA_STOP = ("\nProblem:",)
MINERVA_STOP_AFTER = ("I hope it is correct.",)


@gin.configurable
def jsonl_task(
    *,
    name: str,
    path: str | None = None,
    prompt: str | None = None,
    template: str = MINERVA,
    solution_template: str = "\n{solution}",
    grader: Mapping[str, Any] | None = None,
    stop: Sequence[str] = MINERVA_STOP,
    stop_after: Sequence[str] = MINERVA_STOP_AFTER,
    max_new_tokens: int = 512,
    validation_size: int = 0,
    test_size: int = 0,
    seed: int = 0,
) -> registry.TaskSpec | None:
    """The task that a JSONL file holds; None where no `path` is bound.

    Args:
      name: name of the task; the gin scope that binds the rest.
      path: JSON lines, `.gz` or not; a bucket's path is fine.
      prompt: file with the few-shot prefix; None is zero-shot.
      template: query, with `{problem}` where the problem goes.
      solution_template: target of supervised fine-tuning, with `{solution}`.
      grader: see `TaskCard.grader`; None is Minerva's form, or running programs where there are
        tests.
      stop: see `TaskCard.stop`.
      stop_after: see `TaskCard.stop_after`.
      max_new_tokens: see `TaskCard.max_new_tokens`.
      validation_size: problems taken out of train for validation, where no line says "validation".
      test_size: likewise for test.
      seed: of that choice.

    Raises:
      UserError: a bad record; names the file and the line.
    """
    if path is None:
        return None
    if "{problem}" not in template:
        raise UserError(f"{name}/jsonl_task.template has no {{problem}}: {template!r}")
    file = epath.Path(path).expanduser()
    records = _read(file, template=template, solution_template=solution_template)
    if not records:
        raise UserError(f"{path}: holds no records; a line is one JSON object")
    by_split = {split: [r for r in records if r["split"] == split] for split in registry.SPLITS}
    for split, size in (("test", test_size), ("validation", validation_size)):
        if size and not by_split[split]:
            by_split["train"], by_split[split] = splits.carve(
                by_split["train"],
                size,
                key=lambda r: r["inputs"],
                seed=seed,
                what=f"{path} ({split})",
            )
    if grader is None:
        tested = any(r["tests"] for r in records)
        grader = {"kind": "program"} if tested else {"kind": "math", "extraction": "minerva"}
    return registry.TaskSpec(
        name=name,
        source=lambda split: by_split[split],
        splits=tuple(split for split, rows in by_split.items() if rows),
        prompt=prompts.from_file(prompt) if prompt else prompts.ZERO_SHOT,
        stop=tuple(stop),
        stop_after=tuple(stop_after),
        grader=dict(grader),
        max_new_tokens=max_new_tokens,
    )


def _read(file: epath.Path, *, template: str, solution_template: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, raw in folder.read_jsonl(file, required=("problem",)):
        where = f"{file}, line {number}"
        split = raw.get("split", "train")
        if split not in registry.SPLITS:
            raise UserError(f"{where}: split is {split!r}; use one of {', '.join(registry.SPLITS)}")
        if not isinstance(raw["problem"], str) or not raw["problem"].strip():
            raise UserError(f"{where}: 'problem' must be a non-empty string")
        answer, tests = raw.get("answer"), raw.get("tests")
        if isinstance(answer, (dict, list)):
            raise UserError(f"{where}: 'answer' must be a string or a number")
        solutions = raw.get("solutions", [raw["solution"]] if raw.get("solution") else [])
        if not isinstance(solutions, list) or not all(isinstance(s, str) for s in solutions):
            raise UserError(f"{where}: 'solutions' must be a list of strings")
        problem_id = str(raw.get("id", f"line-{number}"))
        if problem_id in seen:
            raise UserError(f"{where}: id {problem_id!r} stands in line {seen[problem_id]} already")
        seen[problem_id] = number
        records.append(
            {
                "problem_id": problem_id,
                "split": split,
                "inputs": template.replace("{problem}", raw["problem"]),
                "answer": None if answer is None else str(answer),
                "tests": tests,
                "solutions": tuple(solution_template.replace("{solution}", s) for s in solutions),
                "metadata": raw.get("metadata", {}),
            }
        )
    return records

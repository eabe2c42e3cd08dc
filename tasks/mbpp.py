"""The task `mbpp`: MBPP (Austin et al., 2021), 974 short Python problems, split by `task_id`.

Test has ids 11 to 510, validation 511 to 600 and train 601 to 974; 1 to 10 are for prompts.
The prompt has 3 shots in the published form, written for this project.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import gin

from restem.data import folder, registry
from restem.data.task_spec import ZeroShot
from restem.runtime.checks import at_least
from restem.tasks import shots

LAYOUTS = (
    folder.Layout("mbpp/*.jsonl", {"all": ("mbpp/mbpp.jsonl*",)}),
    folder.Layout("google-research/mbpp", {"all": ("mbpp.jsonl*",)}),
)
SOURCE = "https://github.com/google-research/google-research (mbpp/mbpp.jsonl)"
SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}


@gin.configurable(module="restem.tasks")
def mbpp(
    split: str,
    *,
    data_dir: str | None = None,
    shown_tests: Annotated[int | None, at_least(1)] = None,
) -> registry.Records:
    """Returns the problems of an official split.

    Args:
      split: "train", "validation" or "test".
      data_dir: data folder.
      shown_tests: tests in the query of a training problem; None shows all. All of them are run,
        so with 1, a program that lists the values of the tests it sees earns no reward.
    """
    layout, files = folder.find(data_dir, task="mbpp", layouts=LAYOUTS, source=SOURCE)
    required = ("text", "code", "task_id", "test_list")
    rows = [record for _, record in folder.read_jsonl(files["all"][0], required=required)]
    shown = shown_tests if split == "train" else None
    records = [_record(row, shown) for row in rows if int(row["task_id"]) in SPLITS[split]]
    return registry.Records(records, {"layout": layout.name, "rows": len(rows)})


def query(text: str, tests: list[str]) -> str:
    """Returns the query in the form of figure 1 of Austin et al. (2021)."""
    return (
        f"You are an expert Python programmer, and here is your task: {text.strip()} "
        "Your code should pass these tests:\n\n" + "\n".join(tests) + "\n[BEGIN]"
    )


def _record(row: dict[str, Any], shown: int | None) -> dict[str, Any]:
    code = row["code"].replace("\r\n", "\n").strip()
    tests = {
        "test_list": row["test_list"],
        "test_setup_code": (row.get("test_setup_code") or "").replace("\r\n", "\n"),
    }
    return {
        "problem_id": f"mbpp-{int(row['task_id']):03d}",
        "inputs": query(row["text"], row["test_list"][:shown]),
        "tests": json.dumps(tests),
        "solutions": (f"\n{code}\n",),
        "metadata": {"task_id": int(row["task_id"])},
    }


registry.add(
    "mbpp",
    source=mbpp,
    form="You are an expert Python programmer, and here is your task: {problem}\n[BEGIN]",
    zero_shot=ZeroShot(
        "{problem}\n\nPut the program in one code block, without the tests.",
        {"kind": "program", "extraction": "auto", "time_limit_s": 10.0},
    ),
    prompt=lambda data_dir: shots.own("mbpp_3shot"),
    stop=("[DONE]", "\n[BEGIN]"),
    # One of the published solutions takes over 4 s on a slow machine.
    grader={"kind": "program", "extraction": "completion", "time_limit_s": 10.0},
    max_new_tokens=400,
    through_seqio=True,
)

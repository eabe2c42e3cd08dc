"""The task `humaneval`: HumanEval (Chen et al., 2021), 164 functions to complete, zero-shot.

The query is the published prompt unchanged: a signature and a docstring.
"""

from __future__ import annotations

import json
from typing import Any

from restem.data import folder, registry
from restem.data.task_spec import ZeroShot

LAYOUTS = (
    folder.Layout("humaneval/*.jsonl", {"test": ("humaneval/test.jsonl*",)}),
    folder.Layout(
        "openai/human-eval", {"test": ("HumanEval.jsonl*", "human-eval/data/HumanEval.jsonl*")}
    ),
)
SOURCE = "https://github.com/openai/human-eval (data/HumanEval.jsonl.gz)"
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def humaneval(split: str, *, data_dir: str | None = None) -> list[dict[str, Any]]:
    """Returns the 164 problems; there is only a test split."""
    _, files = folder.find(data_dir, task="humaneval", layouts=LAYOUTS, source=SOURCE)
    return [
        {
            "problem_id": record["task_id"],
            "inputs": record["prompt"],
            "tests": json.dumps({key: record[key] for key in ("test", "entry_point", "prompt")}),
            "solutions": (record["canonical_solution"],),
            "metadata": {"entry_point": record["entry_point"]},
        }
        for _, record in folder.read_jsonl(files[split][0], required=_FIELDS)
    ]


registry.add(
    "humaneval",
    source=humaneval,
    splits=("test",),
    zero_shot=ZeroShot(
        "Complete this Python function. Put the whole function in one code block.\n\n{problem}",
        {"kind": "program", "extraction": "auto", "time_limit_s": 4.0},
    ),
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    grader={"kind": "program", "extraction": "completion", "time_limit_s": 4.0},
    max_new_tokens=512,
    through_seqio=True,
)

"""The task `hungarian`: the Hungarian national high-school finals exam in mathematics, 2023.

The 33 problems have no answer key, so an evaluation writes the answers and a grading sheet
(`evaluation.grading_sheet`), and humans grade them. As in the paper, the prompt has one shot and
the temperature is 0.1; the shot was written for this project.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from restem.data import folder, registry
from restem.data.task_spec import IN_A_BOX
from restem.tasks import shots

LAYOUTS = (
    folder.Layout("hungarian_exam/*.jsonl", {"test": ("hungarian_exam/test.jsonl*",)}),
    folder.Layout("keirp/hungarian_national_hs_finals_exam", {"test": ("test.jsonl",)}),
)
SOURCE = (
    "https://huggingface.co/datasets/keirp/hungarian_national_hs_finals_exam (as test.jsonl with a "
    "field 'problem')"
)


def hungarian(split: str, *, data_dir: str | None = None) -> list[dict[str, Any]]:
    """Returns the 33 problems; there is only a test split."""
    _, files = folder.find(data_dir, task="hungarian", layouts=LAYOUTS, source=SOURCE)
    return [
        {
            "problem_id": f"hungarian-{index:02d}",
            "inputs": f"Problem:\n{record['problem']}\n\nSolution:",
            "metadata": {"number": index},
        }
        for index, (_, record) in enumerate(
            folder.read_jsonl(files[split][0], required=("problem",)), start=1
        )
    ]


registry.add(
    "hungarian",
    source=hungarian,
    splits=("test",),
    form="Problem:\n{problem}\n\nSolution:",
    zero_shot=dataclasses.replace(IN_A_BOX, grader=None),
    prompt=lambda data_dir: shots.own("hungarian_1shot"),
    stop=("\nProblem:",),
    stop_after=("I hope it is correct.",),
    grader={"kind": "none"},
    max_new_tokens=512,
    temperature=0.1,
    through_seqio=True,
)

"""The task `hungarian`: the Hungarian national high-school finals exam in mathematics, 2023.

33 statements without a key: completions are graded by hand, so an evaluation writes them and a
grading sheet (`evaluation.grading_sheet`). The paper asks with one shot at temperature 0.1; that
shot is our own.
"""

from __future__ import annotations

from typing import Any

from restem.data import folder, prompts, registry

LAYOUTS = (
    folder.Layout("hungarian_exam/*.jsonl", {"test": ("hungarian_exam/test.jsonl*",)}),
    folder.Layout("keirp/hungarian_national_hs_finals_exam", {"test": ("test.jsonl",)}),
)
SOURCE = (
    "https://huggingface.co/datasets/keirp/hungarian_national_hs_finals_exam (as test.jsonl with a "
    "field 'problem')"
)


def hungarian(split: str, *, data_dir: str | None = None) -> list[dict[str, Any]]:
    """The 33 statements; there is only a test split."""
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
    prompt=lambda data_dir: prompts.own("hungarian_1shot"),
    stop=("\nProblem:",),
    stop_after=("I hope it is correct.",),
    grader={"kind": "none"},
    max_new_tokens=512,
    temperature=0.1,
)

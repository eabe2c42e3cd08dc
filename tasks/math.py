"""The task `math`: MATH (Hendrycks et al., 2021) with Minerva's 4-shot prompt.

MATH has 7,500 training and 5,000 test problems. Its validation split is ours: `validation_size`
training problems, chosen by a seeded hash of their text, which are not trained on.
"""

from __future__ import annotations

import hashlib
from typing import Any

import gin

from restem.data import folder, prompts, registry, splits
from restem.verify.answers import extract as math_answer

LAYOUTS = (
    folder.Layout(
        "math/*.jsonl",
        {
            "train": ("math/train.jsonl*",),
            "test": ("math/test.jsonl*",),
        },
    ),
    folder.Layout(
        "hendrycks/math",
        {
            "train": ("MATH/train/*/*.json",),
            "test": ("MATH/test/*/*.json",),
        },
    ),
)
SOURCE = "https://github.com/hendrycks/math (MATH.tar, unpacked)"

MINERVA = prompts.Published(
    file="prompts/minerva_math_4shot.jsonl.gz",
    sha256="b01348e31b4392a0aff3c3587bba7ccb2da4df065a56f85fce330b2f13e94419",
    shot=lambda shot: f"Problem:\n{shot['problem']}\n\nSolution:\n{shot['solution']}",
)
STOP = ("\nProblem:",)
STOP_AFTER = ("I hope it is correct.",)


@gin.configurable(module="restem.tasks")
def math(
    split: str,
    *,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    validation_size: int = 500,
    validation_seed: int = 0,
) -> registry.Records:
    """The problems of a split of MATH.

    Args:
      split: "train", "validation" or "test".
      data_dir: data folder.
      cache_dir: where TFDS keeps the prepared data set.
      validation_size: training problems held out as validation; 0 trains on all 7,500.
      validation_seed: of that choice.
    """
    from restem.data import tfds_builders

    layout, files = folder.find(data_dir, task="math", layouts=LAYOUTS, source=SOURCE)
    official = "test" if split == "test" else "train"
    folder.require_split(files, official, task="math", layout=layout)
    rows = tfds_builders.read(tfds_builders.RestemMath, files, official, cache_dir=cache_dir)
    notes = {"layout": layout.name, f"{official}_rows": len(rows)}
    if official == "train":
        rest, held_out = splits.carve(
            rows, validation_size, key=lambda r: r["problem"], seed=validation_seed, what="math"
        )
        rows = held_out if split == "validation" else rest
        notes["validation_size"] = validation_size
    return registry.Records([_record(row, official) for row in rows], notes)


def _record(row: dict[str, str], official: str) -> dict[str, Any]:
    # Two official training solutions end in an empty box: their answer is "", which nothing equals.
    gold = math_answer.extract_gold(row["solution"]) or ""
    digest = hashlib.sha256(row["problem"].encode()).hexdigest()
    closing = f"Final Answer: The final answer is ${gold}$. I hope it is correct."
    return {
        "problem_id": f"{official}-{digest[:16]}",
        "inputs": f"Problem:\n{row['problem']}\n\nSolution:",
        "answer": gold,
        "solutions": (f"\n{row['solution'].strip()}\n{closing}",) if gold else (),
        "metadata": {"level": row["level"], "type": row["type"], "source": row["source"]},
    }


registry.add(
    "math",
    source=math,
    prompt=prompts.published_or_own(MINERVA, "math_4shot"),
    stop=STOP,
    stop_after=STOP_AFTER,
    grader={"kind": "math", "extraction": "minerva"},
    max_new_tokens=512,
)

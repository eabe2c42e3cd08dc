"""The task `math`: MATH (Hendrycks et al., 2021) with Minerva's 4-shot prompt.

MATH has 7,500 training and 5,000 test problems. It has no validation split: `validation_size`
training problems, chosen by a seeded hash of their text, are held out as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import gin

from restem.data import folder, prompts, registry, splits
from restem.data.task_spec import IN_A_BOX
from restem.errors import UserError
from restem.runtime.checks import Check, at_least
from restem.tasks import shots
from restem.verify.answers.extract import extract_gold

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


LEVELS = Check(
    "some of the levels 1 to 5, such as (1, 2, 3)",
    lambda levels: len(levels) > 0 and all(level in range(1, 6) for level in levels),
)


@gin.configurable(module="restem.tasks")
def math(
    split: str,
    *,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    validation_size: Annotated[int, at_least(0)] = 500,
    validation_seed: int = 0,
    levels: Annotated[Sequence[int] | None, LEVELS] = None,
) -> registry.Records:
    """Returns the problems of a split of MATH.

    Args:
      split: "train", "validation" or "test".
      data_dir: data folder.
      cache_dir: folder for the data set that TFDS prepares.
      validation_size: number of training problems to hold out for validation; 0 trains on all
        7,500.
      validation_seed: seed of that choice.
      levels: levels to keep, from 1 (easiest) to 5, in every split, such as (1, 2, 3); None keeps
        all problems. Scores on some levels cannot be compared with scores on MATH, and the card's
        notes say which levels were kept.
    """
    from restem.data import tfds_builders

    layout, files = folder.find(data_dir, task="math", layouts=LAYOUTS, source=SOURCE)
    official = "test" if split == "test" else "train"
    folder.require_split(files, official, task="math", layout=layout)
    rows = tfds_builders.read(tfds_builders.RestemMath, files, official, cache_dir=cache_dir)
    notes: dict[str, Any] = {"layout": layout.name, f"{official}_rows": len(rows)}
    if levels is not None:
        rows = _of_levels(rows, levels)
        notes["levels"] = f"only {', '.join(map(str, sorted(set(levels))))} of 1 to 5"
        notes[f"{official}_rows_of_levels"] = len(rows)
    if official == "train":
        rest, held_out = splits.carve(
            rows,
            validation_size,
            key=lambda r: r["problem"],
            seed=validation_seed,
            setting="math.validation_size",
        )
        rows = held_out if split == "validation" else rest
        notes["validation_size"] = validation_size
    return registry.Records([_record(row, official) for row in rows], notes)


def _of_levels(rows: list[dict[str, str]], levels: Sequence[int]) -> list[dict[str, str]]:
    if not LEVELS.holds(levels):
        raise UserError(f"math.levels = {levels!r}: must be {LEVELS.allowed}")
    names = {f"Level {level}" for level in levels}
    return [row for row in rows if row["level"] in names]


def _record(row: dict[str, str], official: str) -> dict[str, Any]:
    # Two official training solutions have an empty box. Their answer is "", which equals no other.
    gold = extract_gold(row["solution"]) or ""
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
    form="Problem:\n{problem}\n\nSolution:",
    zero_shot=IN_A_BOX,
    prompt=shots.published_or_own(MINERVA, "math_4shot"),
    stop=STOP,
    stop_after=STOP_AFTER,
    grader={"kind": "math", "extraction": "minerva"},
    max_new_tokens=512,
    through_seqio=True,
)

"""The task `gsm8k`: GSM8K (Cobbe et al., 2021), with the 8 shots of Wei et al. (2022).

GSM8K has 7,473 training and 1,319 test problems. It has no validation split: `validation_size`
training problems, chosen by a seeded hash of their text, are held out as one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

import gin

from restem.data import folder, prompts, registry, splits
from restem.data.task_spec import IN_A_BOX, ZeroShot
from restem.errors import UserError
from restem.runtime.checks import at_least
from restem.tasks import shots

_OFFICIAL = "grade_school_math/data"
LAYOUTS = (
    folder.Layout(
        "gsm8k/*.jsonl", {"train": ("gsm8k/train.jsonl*",), "test": ("gsm8k/test.jsonl*",)}
    ),
    folder.Layout(
        "openai/grade-school-math",
        {"train": (f"{_OFFICIAL}/train.jsonl",), "test": (f"{_OFFICIAL}/test.jsonl",)},
    ),
)
SOURCE = f"https://github.com/openai/grade-school-math ({_OFFICIAL})"

COT_8SHOT = prompts.Published(
    file="prompts/gsm8k_cot_8shot.jsonl.gz",
    sha256="3d55795c084e26f6ebb6925833999a44f75c4280eb7ab4d66f9bb940244e4847",
    shot=lambda shot: f"Q: {shot['question']}\nA: {shot['target']}",
)

# Calculator annotations of the human solutions, as in "48/2 = <<48/2=24>>24".
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@gin.configurable(module="restem.tasks")
def gsm8k(
    split: str,
    *,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    validation_size: Annotated[int, at_least(0)] = 500,
    validation_seed: int = 0,
) -> registry.Records:
    """Returns the problems of a split of GSM8K.

    Args:
      split: "train", "validation" or "test".
      data_dir: data folder.
      cache_dir: folder for the data set that TFDS prepares.
      validation_size: number of training problems to hold out for validation; 0 trains on all
        7,473.
      validation_seed: seed of that choice.
    """
    from restem.data import tfds_builders

    layout, files = folder.find(data_dir, task="gsm8k", layouts=LAYOUTS, source=SOURCE)
    official = "test" if split == "test" else "train"
    folder.require_split(files, official, task="gsm8k", layout=layout)
    rows = tfds_builders.read(tfds_builders.RestemGsm8k, files, official, cache_dir=cache_dir)
    notes = {"layout": layout.name, f"{official}_rows": len(rows)}
    if official == "train":
        rest, held_out = splits.carve(
            rows,
            validation_size,
            key=lambda r: r["question"],
            seed=validation_seed,
            setting="gsm8k.validation_size",
        )
        rows = held_out if split == "validation" else rest
        notes["validation_size"] = validation_size
    return registry.Records([_record(row, official) for row in rows], notes)


def _record(row: dict[str, str], official: str) -> dict[str, Any]:
    reasoning, marker, gold = row["answer"].rpartition("####")
    if not marker:
        raise UserError(f"gsm8k, {row['source']}: the answer has no '####' before its number")
    gold = gold.strip().replace(",", "")
    digest = hashlib.sha256(row["question"].encode()).hexdigest()
    steps = [line.strip() for line in _CALCULATOR.sub("", reasoning).splitlines() if line.strip()]
    steps = [step if step.endswith((".", "!", "?")) else f"{step}." for step in steps]
    return {
        "problem_id": f"{official}-{digest[:16]}",
        "inputs": f"Q: {row['question']}\nA:",
        "answer": gold,
        "solutions": (f" {' '.join(steps)} The answer is {gold}.",),
        "metadata": {"source": row["source"]},
    }


registry.add(
    "gsm8k",
    source=gsm8k,
    form="Q: {problem}\nA:",
    zero_shot=ZeroShot(IN_A_BOX.query, {"kind": "numeric", "extraction": "boxed"}, 512),
    prompt=shots.published_or_own(COT_8SHOT, "gsm8k_8shot"),
    stop=("\nQ:", "\n\n"),
    grader={"kind": "numeric", "extraction": "answer_is"},
    max_new_tokens=256,
    through_seqio=True,
)

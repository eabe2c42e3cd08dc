"""BIG-Bench Hard (Suzgun et al., 2022) as tasks `bbh_cot_FILE` and `bbh_direct_FILE`.

27 files make up 23 tasks: logical deduction and tracking shuffled objects have three files each,
which count once. The groups `bbh_cot` and `bbh_direct` contain the 27 tasks of a style, and `bbh`
all 54; the macro average of a style is over the 23 tasks, as published. The prompts are the
published ones (three shots). restem has no prompts of its own for these tasks, because without the
data there are no problems either.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from restem.data import folder, prompts, registry
from restem.data.task_spec import ZeroShot
from restem.errors import UserError

_OBJECTS = ("three_objects", "five_objects", "seven_objects")
_AVERAGED = ("logical_deduction", "tracking_shuffled_objects")
_SINGLE = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa",
    "dyck_languages", "formal_fallacies", "geometric_shapes", "hyperbaton",
    "movie_recommendation", "multistep_arithmetic_two", "navigate", "object_counting",
    "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names",
    "salient_translation_error_detection", "snarks", "sports_understanding",
    "temporal_sequences", "web_of_lies", "word_sorting",
)  # fmt: skip

TASKS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in _SINGLE},
    **{name: tuple(f"{name}_{objects}" for objects in _OBJECTS) for name in _AVERAGED},
}
"""The 23 tasks, each with its files."""

FILES = tuple(sorted(file for files in TASKS.values() for file in files))
"""The 27 files."""

_TASK_OF = {file: task for task, files in TASKS.items() for file in files}

STYLES = ("cot", "direct")

SOURCE = "https://github.com/suzgunmirac/BIG-Bench-Hard"
LAYOUTS = (
    folder.Layout("bbh/*.jsonl", {"test": ("bbh/test.jsonl*",)}),
    folder.Layout("suzgunmirac/BIG-Bench-Hard", {"test": ("bbh/*.json",)}),
)
_PROMPTS = folder.Layout(
    "prompts", {"cot": ("bbh/prompts.jsonl*",), "direct": ("bbh/prompts.jsonl*",)}
)
_PROMPTS_OFFICIAL = folder.Layout("cot-prompts", {"cot": ("cot-prompts/*.txt",)})

# SHA-256 of "FILE\0PROMPT\0" over the 27 files in order.
_SHA256 = {
    "cot": "a57d674fc7e04ca38aba5aec3829dc9bff20dfa17d56b19970bf5258db1921ea",
    "direct": "5ffa791ba3edf01b88f9a73ca15a6d2827155994d3763ddda4f5a74da17f22f3",
}


def task_name(style: str, file: str) -> str:
    return f"bbh_{style}_{file}"


def read_prompts(style: str, data_dir: str | None) -> dict[str, str]:
    """Returns the published prompts of a style by file, without their canary line.

    Raises:
      UserError: if the prompts are absent, or are not the published ones.
    """
    layout, files = folder.find(
        data_dir, task=f"bbh_{style}", layouts=(_PROMPTS, _PROMPTS_OFFICIAL), source=SOURCE
    )
    folder.require_split(files, style, task=f"bbh_{style}", layout=_PROMPTS)
    if layout is _PROMPTS:
        found = {
            record["task"]: record[f"{style}_prompt"]
            for _, record in folder.read_jsonl(
                files[style][0], required=("task", f"{style}_prompt")
            )
        }
    else:
        found = {file.stem: _without_canary(folder.read_text(file)) for file in files[style]}
    found = {file: text.strip() for file, text in found.items()}
    where = files[style][0]
    missing = [file for file in FILES if file not in found]
    if missing:
        raise UserError(f"{where}: no prompt for {', '.join(missing)}; fetch it from {SOURCE}")
    digest = hashlib.sha256()
    for file in FILES:
        digest.update(f"{file}\0{found[file]}\0".encode())
    if digest.hexdigest() != _SHA256[style]:
        raise UserError(
            f"{where}: these are not the published {style} prompts (SHA-256 {digest.hexdigest()}, "
            f"not {_SHA256[style]}); fetch them from {SOURCE}"
        )
    return found


def _without_canary(text: str) -> str:
    # An official file begins with the canary line and a line of dashes.
    head, dashes, rest = text.partition("\n-----\n")
    return rest if dashes and "canary" in head.lower() else text


def _prompt(data_dir: str | None, *, style: str, file: str) -> prompts.Prompt:
    text = read_prompts(style, data_dir)[file]
    return prompts.Prompt(prompts.as_prefix(text), f"BIG-Bench-Hard {style} prompt of {file}")


def _read(
    split: str, data_dir: str | None = None, *, style: str, file: str
) -> list[dict[str, Any]]:
    layout, files = folder.find(data_dir, task="bbh", layouts=LAYOUTS, source=SOURCE)
    opening = "A: Let's think step by step." if style == "cot" else "A:"
    return [
        {
            "problem_id": f"{file}-{index:03d}",
            "inputs": f"Q: {example['input']}\n{opening}",
            "answer": str(example["target"]),
            "metadata": {"file": file},
        }
        for index, example in enumerate(_examples(layout, files[split], file))
    ]


def _examples(layout: folder.Layout, files: list[epath.Path], file: str) -> list[dict[str, Any]]:
    if layout is LAYOUTS[0]:
        required = ("task", "input", "target")
        rows = [row for path in files for _, row in folder.read_jsonl(path, required=required)]
        rows = [row for row in rows if row["task"] == file]
    else:
        named = [path for path in files if path.stem == file]
        rows = [
            row
            for path in named
            for row in folder.read_json(path, required=("examples",))["examples"]
        ]
    if not rows:
        raise UserError(f"{files[0].parent}: no examples of {file}; fetch them from {SOURCE}")
    return rows


for _style, _stop, _grader, _length, _form, _instruction in (
    (
        "cot", ("\nQ:",), {"kind": "exact", "prefix": "the answer is"}, 512,
        "Q: {problem}\nA: Let's think step by step.",
        "Think step by step, and end with a sentence of this form: So the answer is ANSWER.",
    ),
    (
        "direct", ("\n",), {"kind": "exact"}, 64,
        "Q: {problem}\nA:",
        "Reply with the answer only, in the form that the question asks for.",
    ),
):  # fmt: skip
    for _file in FILES:
        registry.add(
            task_name(_style, _file),
            source=functools.partial(_read, style=_style, file=_file),
            splits=("test",),
            form=_form,
            zero_shot=ZeroShot(f"{{problem}}\n\n{_instruction}"),
            prompt=functools.partial(_prompt, style=_style, file=_file),
            stop=_stop,
            grader=_grader,
            max_new_tokens=_length,
            groups=(f"bbh_{_style}", "bbh"),
            part_of=task_name(_style, _TASK_OF[_file]),
            through_seqio=True,
        )

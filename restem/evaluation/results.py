"""The files of a finished evaluation: `NAME.json` with its numbers, `NAME.parquet` with answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from restem import records
from restem.evaluation import grading_sheet, scores
from restem.records import Problem, Sample, TaskCard
from restem.runtime import storage


def write(
    stem: epath.Path,
    *,
    card: TaskCard,
    problems: Sequence[Problem],
    greedy: Sequence[Sample],
    sampled: Sequence[Sample] = (),
    base: Sequence[Sample] = (),
    policy: str,
    timing: Mapping[str, float],
) -> dict[str, Any]:
    """Writes `STEM.json` and `STEM.parquet`, and a grading sheet if the answers are ungraded.

    Args:
      stem: path of the files without their endings.
      card: task that was evaluated.
      problems: problems of one split that were asked.
      greedy: answer of each problem with sample index 0, scored for pass@1.
      sampled: further samples, the same number for each problem, for pass@k and maj@k.
      base: samples of the base policy, for the difficulty buckets; empty: `sampled` itself.
      policy: reference of the policy.
      timing: `seconds` and number of `tokens` of sampling.

    Returns:
      The contents of the JSON file.
    """
    report = scores.greedy_report(greedy)
    if sampled:
        report |= scores.sampled_report(sampled)
        report["difficulty"] = scores.difficulty_report(sampled, base or sampled)
    seconds = timing.get("seconds", 0.0)
    report |= {
        "task": card.task,
        "split": problems[0].split if problems else "test",
        "policy": policy,
        "seconds": seconds,
        "tokens_per_second": timing.get("tokens", 0) / seconds if seconds else None,
        "prompt_source": card.prompt_source,
        "prefix_sha256": card.prefix_sha256,
    }
    answers = sorted([*greedy, *sampled], key=lambda s: (s.problem_id, s.sample_index))
    if card.grader["kind"] == "none":
        report |= grading_sheet.write(stem, card, problems, answers)
    storage.write_table(stem.parent / f"{stem.name}.parquet", records.samples_to_table(answers))
    storage.write_json(stem.parent / f"{stem.name}.json", report)
    return report

"""The files of a finished evaluation: `NAME.json` with its numbers, `NAME.parquet` with answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging
from etils import epath

from restem import records
from restem.evaluation import grading_sheet, scores
from restem.records import Problem, Sample, TaskCard
from restem.runtime import storage

if TYPE_CHECKING:
    import pyarrow as pa


def write(
    stem: epath.Path,
    *,
    card: TaskCard,
    problems: Sequence[Problem],
    greedy: Sequence[pa.Table],
    sampled: Sequence[pa.Table] = (),
    of_base: Mapping[str, float] | None = None,
    policy: str,
    timing: Mapping[str, float],
) -> dict[str, Any]:
    """Writes `STEM.json` and `STEM.parquet`, and a grading sheet if the answers are ungraded.

    Answers come in the tables of their shards and become objects one shard at a time, since an
    object takes several times the memory of a row.

    Args:
      stem: path of the files without their endings.
      card: task that was evaluated.
      problems: problems of one split that were asked.
      greedy: answer of each problem with sample index 0, scored for pass@1.
      sampled: further samples, the same number for each problem, for pass@k and maj@k; of an
        ungraded task, they are stored but not scored.
      of_base: share of correct samples of the base policy by problem, for the difficulty buckets;
        None: that of `sampled` itself; empty: not known, and there are no buckets.
      policy: reference of the policy.
      timing: `seconds` and number of `tokens` of sampling.

    Returns:
      The contents of the JSON file.

    Raises:
      UserError: a grading sheet with points for other answers is in the way; nothing is written.
    """
    import pyarrow as pa

    sheet = None if card.is_graded else grading_sheet.Sheet.of(stem, card, problems, _rows(greedy))
    report = scores.greedy_report(_rows(greedy))
    if card.is_graded and (attempts := scores.attempts(_rows(sampled))):
        report |= scores.sampled_report(attempts, kind=card.grader["kind"])
        success = {problem_id: group.success for problem_id, group in attempts.items()}
        if of_base is None:
            of_base = success
        if of_base:
            report["difficulty"] = scores.difficulty_report(success, of_base)
        else:
            logging.warning(
                "%s: success by difficulty is left out, because the base policy was not evaluated"
                " with samples before; `restem evaluate --iteration=0` does so",
                stem.name,
            )
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
    order = [("problem_id", "ascending"), ("sample_index", "ascending")]
    answers = pa.concat_tables([*greedy, *sampled]).sort_by(order)
    if sheet is not None:
        report |= sheet.write()
    storage.write_table(stem.parent / f"{stem.name}.parquet", answers)
    storage.write_json(stem.parent / f"{stem.name}.json", report)
    return report


def _rows(tables: Sequence[pa.Table]) -> Iterator[Sample]:
    return (sample for table in tables for sample in records.samples_from_table(table))

"""Which samples the page embeds for its browser: a bounded number, spread fairly."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from restem import records
from restem.report.runs import Run, SampleTable

OUTCOME_NAMES = {"truncated": "cut off", "not kept": "correct, not kept"}
"""Outcomes that the page calls by other words than `runs.OUTCOMES`."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What the page's script gets."""

    samples: list[dict[str, Any]]
    questions: dict[str, dict[str, str]]
    """By problem: the query and the gold answer."""
    runs: list[str]
    """Labels; a sample names its run by position."""
    total: int
    """Samples and test answers that there are in all."""


def embed(
    runs: Sequence[Run],
    tables: Sequence[Mapping[int, SampleTable]],
    *,
    limit: int,
    characters: int,
) -> Embedded:
    """Chooses samples of every E-step and greedy test answers of every policy.

    Problems are taken in an order fixed by their names, the same in every iteration, so that one
    problem can be followed from the base policy on; of an E-step, up to four samples a problem,
    different outcomes first.

    Args:
      runs: of the report.
      tables: of each run, the samples of each iteration that has any.
      limit: most samples in all.
      characters: most characters of one text; what is cut says so.
    """
    groups: list[tuple[int, int, str, SampleTable, np.ndarray]] = []
    for index, (run, of_run) in enumerate(zip(runs, tables, strict=True)):
        for iteration in run.iterations:
            table = of_run.get(iteration.number)
            if table is not None:
                groups.append((index, iteration.number, "train", table, np.arange(len(table))))
            evaluation = iteration.evaluation(run.task)
            answers = iteration.answers(evaluation.name) if evaluation is not None else None
            if answers is not None:
                greedy = np.flatnonzero(answers.sample_index == 0)
                groups.append((index, iteration.number, "test", answers, greedy))
    groups.sort(key=lambda group: (group[0], group[2] == "test"))  # the E-steps first
    samples: list[dict[str, Any]] = []
    total, left = 0, limit
    for position, (index, number, kind, table, rows) in enumerate(groups):
        total += len(rows)
        share = left // (len(groups) - position)
        chosen = choose(table, rows, share)
        left -= len(chosen)
        selected = bool(table.kept.any())
        outcomes = table.outcome
        for row, sample in sorted(table.texts(chosen), key=lambda pair: chosen.index(pair[0])):
            outcome = str(outcomes[row])
            if outcome == "not kept" and not selected:
                outcome = "correct"
            verdict = sample.verdict
            samples.append(
                {
                    "run": index,
                    "iteration": number,
                    "set": kind,
                    "problem": sample.problem_id,
                    "index": sample.sample_index,
                    "outcome": OUTCOME_NAMES.get(outcome, outcome),
                    "reward": finite(table.reward[row]),
                    "reason": verdict.method or "" if verdict else "",
                    "detail": shorten(verdict.detail or "", 600) if verdict else "",
                    "extracted": shorten(verdict.extracted, 600)
                    if verdict and verdict.extracted is not None
                    else None,
                    "tokens": int(table.tokens[row]),
                    "finish": sample.finish_reason or "",
                    "logprob": finite(sample.logprob),
                    "text": shorten(sample.text, characters),
                }
            )
    wanted = {sample["problem"] for sample in samples}
    questions: dict[str, dict[str, str]] = {}
    for run in runs:
        for name, problem in run.problems().items():
            if name in wanted:
                question = {"inputs": shorten(problem.inputs, characters)}
                if problem.answer is not None:
                    question["answer"] = shorten(problem.answer, 600)
                questions.setdefault(name, question)
    return Embedded(samples, questions, [run.label for run in runs], total)


def choose(table: SampleTable, rows: np.ndarray, count: int, per_problem: int = 4) -> list[int]:
    """Up to `count` of the rows, problem by problem."""
    by_problem: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows.tolist():
        by_problem[table.problem_id[row]].append(row)
    outcomes = table.outcome
    chosen: list[int] = []
    for problem in sorted(by_problem, key=lambda p: (records.stable_key("browser", p), p)):
        if len(chosen) >= count:
            break
        seen: collections.Counter[str] = collections.Counter()
        ranked = []
        for row in by_problem[problem]:
            ranked.append((seen[outcomes[row]], row))
            seen[outcomes[row]] += 1
        ranked.sort()
        chosen += [row for _, row in ranked[:per_problem]]
    return chosen[:count]


def shorten(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[:characters]} […] ({len(text) - characters:,} more characters)"


def finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)

"""The samples that the page embeds for its sample browser: a bounded number, spread evenly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from restem import records
from restem.run import sample_table
from restem.run.reader import StoredRun
from restem.run.sample_stats import SampleStats, Shown

OUTCOME_NAMES = {"truncated": "cut off", "not kept": "correct, not kept"}
"""Names on the page of outcomes that differ from those in `sample_table.OUTCOMES`."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The data of the page's script."""

    samples: list[dict[str, Any]]
    questions: list[dict[str, str]]
    """Distinct pairs of query and gold answer; a sample names its own by position."""
    runs: list[str]
    """Labels of the runs; a sample names its run by position."""
    total: int
    """Total number of samples and test answers."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """The samples of one E-step, or the greedy test answers of one policy."""

    run: int
    """Position of the run."""
    iteration: int
    kind: str
    """"train" or "test"."""
    stats: SampleStats


def embed(
    runs: Sequence[StoredRun],
    stats: Sequence[Mapping[int, SampleStats]],
    *,
    limit: int,
    characters: int,
) -> Embedded:
    """Chooses samples of every E-step and greedy test answers of every policy.

    Problems are taken in an order that depends on their names, the same in every iteration, so
    that a reader can follow a problem from the base policy onwards. Each E-step contributes up to
    four samples per problem, different outcomes first.

    Args:
      runs: runs of the report.
      stats: for each run, counts and some samples of each iteration that has any.
      limit: maximum number of samples in all.
      characters: maximum number of characters of one text; shortened texts are marked.
    """
    groups = _groups(runs, stats, limit)
    samples: list[dict[str, Any]] = []
    for position, group in enumerate(groups):
        chosen = group.stats.shown((limit - len(samples)) // (len(groups) - position))
        samples += _cards(group, chosen, characters)
    total = sum(group.stats.total for group in groups)
    labels = [run.label for run in runs]
    return Embedded(samples, _add_questions(runs, samples, characters), labels, total)


def _groups(
    runs: Sequence[StoredRun], stats: Sequence[Mapping[int, SampleStats]], limit: int
) -> list[_Group]:
    """Returns the groups to choose from: for each run its E-steps, then its test answers."""
    groups = []
    for index, (run, of_run) in enumerate(zip(runs, stats, strict=True)):
        for iteration in run.iterations:
            n = iteration.number
            if n in of_run:
                groups.append(_Group(index, n, "train", of_run[n]))
            evaluation = iteration.evaluation(run.task)
            answers = iteration.answers(evaluation.name, limit) if evaluation is not None else None
            if answers is not None:
                groups.append(_Group(index, n, "test", answers))
    return sorted(groups, key=lambda group: (group.run, group.kind == "test"))


def _cards(group: _Group, chosen: Sequence[Shown], characters: int) -> list[dict[str, Any]]:
    """Returns the data that the page shows of the chosen samples, in their order."""
    is_selected = bool(group.stats.outcomes["kept"])
    full: dict[Shown, records.Sample] = {}
    for path in dict.fromkeys(shown.path for shown in chosen):
        inside = [shown for shown in chosen if shown.path == path]
        samples = sample_table.texts(path, [shown.row for shown in inside])
        full |= dict(zip(inside, samples, strict=True))
    cards = []
    for shown in chosen:
        sample, outcome = full[shown], shown.outcome
        if outcome == "not kept" and not is_selected:
            outcome = "correct"
        verdict = sample.verdict or records.Verdict(0.0)
        found = verdict.extracted
        cards.append(
            {
                "run": group.run,
                "iteration": group.iteration,
                "set": group.kind,
                "problem": sample.problem_id,
                "index": sample.sample_index,
                "outcome": OUTCOME_NAMES.get(outcome, outcome),
                "reward": finite(shown.reward),
                "reason": verdict.method or "",
                "detail": shorten(verdict.detail or "", 600),
                "extracted": None if found is None else shorten(found, 600),
                "tokens": shown.tokens,
                "finish": sample.finish_reason or "",
                "logprob": finite(sample.logprob),
                "text": shorten(sample.text, characters),
            }
        )
    return cards


def _add_questions(
    runs: Sequence[StoredRun], samples: Sequence[dict[str, Any]], characters: int
) -> list[dict[str, str]]:
    """Returns the distinct questions of samples; adds its position, or None, to each sample.

    An id names a problem only within a run and its task: other tasks, and runs on other files, may
    use the same ids. Runs on the same problems share their questions.
    """
    places: dict[tuple[str, str | None], int] = {}
    for index, run in enumerate(runs):
        of_run = [sample for sample in samples if sample["run"] == index]
        problems = run.problems({sample["problem"] for sample in of_run}) if of_run else {}
        for sample in of_run:
            problem = problems.get(sample["problem"])
            sample["question"] = None
            if problem is not None:
                answer = None if problem.answer is None else shorten(problem.answer, 600)
                key = shorten(problem.inputs, characters), answer
                sample["question"] = places.setdefault(key, len(places))
    return [{"inputs": i} if a is None else {"inputs": i, "answer": a} for i, a in places]


def shorten(text: str, characters: int) -> str:
    """Returns the beginning of a text, with a note if the rest is left out."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]} […] ({len(text) - characters:,} more characters)"


def finite(value: float | None) -> float | None:
    """Returns a number to three decimals; None if it is not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), 3)

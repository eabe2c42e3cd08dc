"""The headline of the report: how good the base policy was, and how good the result is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from restem.evaluation import comparisons
from restem.evaluation.paired_tests import PairedTest
from restem.report.marks import interval, p_value, policy, result_words, signed, tasks_of
from restem.report.plotting import Cell, percent
from restem.run.reader import Evaluation, StoredIteration, StoredRun, number

Change = Literal["better", "worse", "unclear"]
"""Whether the result differs from the base policy, at the 5% level of a paired test."""

_OTHERS = 3
"""Maximum number of further tasks with a column in the table of iterations."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chosen: tuple[int, ...]
    """Rows to highlight."""


@dataclasses.dataclass(frozen=True)
class Headline:
    """The first screen in words and numbers."""

    before: str
    """Pass@1 of the base policy; "" if it was not evaluated."""
    after: str | None
    """Pass@1 of the result; None until a trained policy is evaluated."""
    change: Change
    """Whether the page may show the second number as a change for better or worse."""
    sentence: str
    notes: tuple[str, ...]
    """Caveats that a reader must know to judge the numbers."""
    table: Table


def headline(runs: Sequence[StoredRun]) -> Headline:
    """Returns the headline of one run, or of the first of several with a row for each."""
    run = runs[0]
    base = _evaluation(run, run.base)
    result = run.result if run.result is not None and run.result.number else None
    final = _evaluation(run, result)
    before, after = "" if base is None else percent(base.pass1), None
    change: Change = "unclear"
    if final is None:
        sentence = _before_training(run, base)
    else:
        sentence = f"Greedy pass@1 on {final.count or '?'} test problems of {run.task}"
        how = "chosen by validation" if _is_chosen(run, result) else "the last one evaluated"
        if base is None:
            before = percent(final.pass1)
            sentence += f": iteration {result.number}, {how}. The base policy is not evaluated."
        else:
            after = percent(final.pass1)
            sentence += f", from the base policy to iteration {result.number} ({how})."
            test = paired(run.base, base, result, final)
            change = _change(test, base, final)
            sentence += comparison(test, base, final)
    table = _run_table(runs) if len(runs) > 1 else _iteration_table(run)
    return Headline(before, after, change, sentence, tuple(_notes(run, base, final)), table)


def _evaluation(run: StoredRun, iteration: StoredIteration | None) -> Evaluation | None:
    """Returns the evaluation of an iteration on the run's own task, if it has a pass@1."""
    found = iteration.evaluation(run.task) if iteration is not None else None
    return found if found is not None and found.pass1 is not None else None


def _is_chosen(run: StoredRun, iteration: StoredIteration) -> bool:
    return iteration.number == run.chosen_by_validation


def _before_training(run: StoredRun, base: Evaluation | None) -> str:
    """Returns the sentence for a run without a trained and evaluated policy."""
    if base is None:
        return "No policy is evaluated yet."
    asked = f"{base.count or '?'} test problems of {run.task}"
    bounds = f"(95% interval {interval(base)})"
    if not run.in_progress and len(run.iterations) == 1:  # a policy evaluated by itself
        return f"Greedy pass@1 of {run.model} on {asked} {bounds}."
    if run.result is not None and not run.in_progress:
        return (
            f"Greedy pass@1 on {asked} {bounds}. Validation chose the base policy: no iteration"
            " improved it."
        )
    return (
        f"Greedy pass@1 of the base policy on {asked} {bounds}; no trained policy is evaluated yet."
    )


def _notes(run: StoredRun, base: Evaluation | None, final: Evaluation | None) -> list[str]:
    notes = []
    if run.in_progress:
        notes.append("This run is in progress: the page shows what there is so far.")
    rewards = [e.mean_reward for e in (base, final) if e is not None]
    if any(reward is not None for reward in rewards):
        means = " to ".join("–" if r is None else f"{r:.3f}" for r in rewards)
        words = "goes from" if len(rewards) > 1 else "is"
        notes.append(
            "The rewards of this task are graded, not only right or wrong. Pass@1 counts the"
            f" answers that its grader calls correct; the mean reward {words} {means}."
        )
    overlap = run.contamination.get(run.task)
    if overlap and overlap["num_overlapping"]:
        notes.append(
            f"Contamination: {overlap['num_overlapping']:,} of {overlap['num_test']:,} test"
            f" problems share {overlap['n']} words in a row with a training problem,"
            f" {overlap['num_equal']:,} of them the whole text."
        )
    return notes


def _change(test: PairedTest | None, base: Evaluation, final: Evaluation) -> Change:
    """Returns whether the difference is significant, by the paired test or else the intervals."""
    if test is not None:
        is_clear = test.significant
    else:
        is_clear = _apart(base, final)
    if not is_clear:
        return "unclear"
    return "better" if final.pass1 > base.pass1 else "worse"


def _apart(base: Evaluation, final: Evaluation) -> bool:
    """Returns whether the 95% intervals of two evaluations do not overlap."""
    a, b = base.interval, final.interval
    return a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])


def comparison(test: PairedTest | None, base: Evaluation, final: Evaluation) -> str:
    """Returns the difference and its certainty in words."""
    if test is None:
        text = f" That is {signed(final.pass1 - base.pass1)} points"
        if base.interval and final.interval:
            overlap = "do not overlap" if _apart(base, final) else "overlap"
            text += f"; the two 95% intervals {overlap}"
        return text + "."
    low, high = test.ci
    p = f"p {p_value(test.p_value)}".replace(" ", "\u00a0")
    text = (
        f" That is {signed(test.difference)} points (95% interval {signed(low)} to {signed(high)};"
        f" paired {test.name}, {p}): {test.only_b:,} problems gained, {test.only_a:,}\u00a0lost."
    )
    if not test.significant:
        text += " The difference is not significant at the 5% level."
    return text


def paired(
    before: StoredIteration, base: Evaluation, after: StoredIteration, final: Evaluation
) -> PairedTest | None:
    """Returns the test of the greedy answers of two policies; None unless both files exist."""
    paths = [before.files.answers(base.name), after.files.answers(final.name)]
    if not all(path.exists() for path in paths):
        return None
    return comparisons.compare(*map(comparisons.read, paths)).get("greedy")


def _run_table(runs: Sequence[StoredRun]) -> Table:
    rows = []
    for run in runs:
        base, final = _evaluation(run, run.base), _evaluation(run, run.result)
        gain = chance = None
        if base is not None and final is not None and run.result.number:
            gain = final.pass1 - base.pass1
            test = paired(run.base, base, run.result, final)
            chance = None if test is None else p_value(test.p_value).removeprefix("= ")
        seconds = sum(sum(i.seconds.values()) for i in run.iterations)
        rows.append(
            (
                run.label,
                run.task,
                percent(base.pass1 if base is not None else None),
                percent(final.pass1 if final is not None else None),
                interval(final) if final is not None else None,
                signed(gain),
                chance,
                policy(run.result) if run.result is not None else None,
                duration(seconds) if seconds else None,
            )
        )
    columns = ("run", "task", "base", "pass@1", "95% interval", "gain, points", "p",
               "policy", "time")  # fmt: skip
    caption = f"Greedy pass@1 on the test split of {result_words(runs)}."
    return Table(caption, columns, tuple(rows), (0,))


def _iteration_table(run: StoredRun) -> Table:
    others = tasks_of([run])[1 : 1 + _OTHERS]
    evaluations = [i.evaluation(run.task) for i in run.evaluated]
    k = max((k for e in evaluations for k, _ in e.curve("pass@k")), default=0)
    curves = [n for n in ("pass@k", "maj@k") if k > 1 and any(e.curve(n) for e in evaluations)]
    is_graded = any(e.mean_reward is not None for e in evaluations)
    rows: list[tuple[Cell, ...]] = []
    chosen: list[int] = []
    columns: tuple[str, ...] = ("policy",)
    for i in run.iterations:
        if i.evaluation(run.task) is None and not i.selection:
            continue
        is_chosen = _is_chosen(run, i) and len(run.iterations) > 1
        cells = _cells(run, i, others, curves, k, is_graded)
        columns = ("policy", *cells)
        if is_chosen:
            chosen.append(len(rows))
        rows.append((policy(i) + (" (chosen)" if is_chosen else ""), *cells.values()))
    also = f", then of {' and '.join(others)}" if others else ""
    caption = (
        f"Greedy pass@1 on the test split of {run.task}{also}. p: paired comparison with the base"
        " policy (exact McNemar test). Solved: training problems with a correct sample. Examples:"
        " training examples of the iteration."
    )
    return Table(caption, columns, tuple(rows), tuple(chosen))


def _cells(
    run: StoredRun,
    iteration: StoredIteration,
    others: Sequence[str],
    curves: Sequence[str],
    k: int,
    is_graded: bool,
) -> dict[str, Cell]:
    """Returns the row of an iteration, by column; `curves` are shown at `k`."""
    e = iteration.evaluation(run.task)
    values = e.values if e is not None else {}
    cells: dict[str, Cell] = {
        "pass@1": percent(e.pass1) if e is not None else None,
        "95% interval": interval(e) if e is not None else None,
        "p": _chance(run, iteration, e),
    }
    if is_graded:
        reward = e.mean_reward if e is not None else None
        cells["mean reward"] = None if reward is None else f"{reward:.3f}"
    for name in curves:
        curve = dict(e.curve(name)) if e is not None else {}
        cells[name.replace("@k", f"@{k}")] = percent(curve.get(k))
    for task in others:
        other = iteration.evaluation(task)
        cells[task] = percent(other.pass1 if other is not None else None)
    cells["cut off"] = percent(number(values.get("truncated")))
    cells["no answer"] = percent(number(values.get("unformatted")))
    solved, asked, kept = (
        number(iteration.selection.get(name)) for name in ("problems_solved", "problems", "kept")
    )
    if not run.trains_on_human_solutions and not run.grades_without_gold:
        is_known = solved is not None and asked is not None
        cells["solved"] = f"{int(solved):,} of {int(asked):,}" if is_known else None
    cells["examples"] = None if kept is None else int(kept)
    cells["time"] = duration(sum(iteration.seconds.values())) if iteration.seconds else None
    return cells


def _chance(
    run: StoredRun, iteration: StoredIteration, evaluation: Evaluation | None
) -> str | None:
    """Returns the p-value of an iteration against the base policy."""
    base = run.base.evaluation(run.task) if run.base is not None else None
    if not iteration.number or base is None or evaluation is None:
        return None
    test = paired(run.base, base, iteration, evaluation)
    return None if test is None else p_value(test.p_value).removeprefix("= ")


def duration(seconds: float) -> str:
    """Returns a duration in its natural unit: "12 s", "3.4 min", "2.1 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"

"""The answer on the first screen: how good was the base policy, how good is the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from restem.evaluation import comparisons, paired_tests
from restem.report.marks import interval, policy, signed
from restem.report.plotting import Cell, percent
from restem.report.runs import Evaluation, Iteration, Run, number


@dataclasses.dataclass(frozen=True)
class Headline:
    """The first screen in words and numbers."""

    before: str
    """Pass@1 of the base policy; "" where it is not evaluated."""
    after: str | None
    """Pass@1 of the result; None where nothing was trained and evaluated yet."""
    sentence: str
    notes: tuple[str, ...]
    """What a reader must know to trust the numbers."""
    caption: str
    """Of the table."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chosen: tuple[int, ...]
    """Rows to set off."""


def headline(runs: Sequence[Run]) -> Headline:
    """The answer of one run, or of the first of several with a row for each."""
    run = runs[0]
    base = run.base.evaluation(run.task) if run.base is not None else None
    base = base if base is not None and base.pass1 is not None else None
    result = run.result
    final = result.evaluation(run.task) if result is not None and result.number else None
    notes = []
    if run.in_progress:
        notes.append("This run is in progress: the page shows what is there so far.")
    overlap = run.contamination.get(run.task)
    if overlap and overlap["num_overlapping"]:
        notes.append(
            f"Contamination: {overlap['num_overlapping']:,} of {overlap['num_test']:,} test"
            f" problems share {overlap['n']} words in a row with a training problem,"
            f" {overlap['num_equal']:,} of them the whole text."
        )
    if final is None:
        sentence = "No policy is evaluated yet."
        if base is not None:
            asked = f"{base.count or '?'} test problems of {run.task}"
            sentence = (
                f"Greedy pass@1 of the base policy on {asked} (95% interval {interval(base)}); no"
                " trained policy is evaluated yet."
            )
            if not run.in_progress and len(run.iterations) == 1:  # a policy evaluated by itself
                sentence = (
                    f"Greedy pass@1 of {run.model} on {asked} (95% interval {interval(base)})."
                )
            elif result is not None and not run.in_progress:
                sentence = (
                    f"Greedy pass@1 on {asked} (95% interval {interval(base)}). Validation chose"
                    " the base policy: no iteration improved it."
                )
        before, after = (percent(base.pass1) if base is not None else ""), None
    else:
        how = "chosen by validation" if result.chosen else "the last one evaluated"
        sentence = f"Greedy pass@1 on {final.count or '?'} test problems of {run.task}"
        before, after = "", percent(final.pass1)
        if base is None:
            sentence += f": iteration {result.number}, {how}. The base policy is not evaluated."
            before, after = after, None
        else:
            before = percent(base.pass1)
            sentence += f", from the base policy to iteration {result.number} ({how})."
            sentence += comparison(run, base, final, result)
    if len(runs) > 1:
        caption, columns, rows, chosen = _run_table(runs)
    else:
        caption, columns, rows, chosen = _iteration_table(run)
    return Headline(before, after, sentence, tuple(notes), caption, columns, rows, chosen)


def comparison(run: Run, base: Evaluation, final: Evaluation, result: Iteration) -> str:
    """How sure the difference is, in a sentence."""
    test = paired(run.base, base, result, final)
    if test is not None:
        low, high = test.ci
        p_value = f"p\u00a0=\u00a0{test.p_value:.2g}"
        if test.p_value < 1e-4:
            p_value = "p\u00a0<\u00a00.0001"
        name = "exact McNemar test" if test.method == "mcnemar" else "sign-flip test"
        return (
            f" That is {signed(test.difference)} points (95% interval {signed(low)} to"
            f" {signed(high)}; paired {name}, {p_value}): {test.only_b:,} problems gained,"
            f" {test.only_a:,}\u00a0lost."
        )
    text = f" That is {signed(final.pass1 - base.pass1)} points"
    if base.interval and final.interval:
        apart = base.interval[1] < final.interval[0] or final.interval[1] < base.interval[0]
        text += f"; the two 95% intervals {'do not overlap' if apart else 'overlap'}"
    return text + "."


def paired(
    before: Iteration, base: Evaluation, after: Iteration, final: Evaluation
) -> paired_tests.PairedTest | None:
    """The greedy answers of two policies, problem by problem; None without both files."""
    files = [
        iteration.path / "evals" / f"{evaluation.name}.parquet"
        for iteration, evaluation in ((before, base), (after, final))
    ]
    if not all(file.exists() for file in files):
        return None
    return comparisons.compare(*map(comparisons.read, files)).get("greedy")


def _run_table(runs: Sequence[Run]):
    rows = []
    for run in runs:
        base = run.base.evaluation(run.task) if run.base is not None else None
        result = run.result
        final = result.evaluation(run.task) if result is not None else None
        gain = chance = None
        if base is not None and final is not None and base.pass1 is not None and result.number:
            gain = final.pass1 - base.pass1
            test = paired(run.base, base, result, final)
            chance = None if test is None else f"{test.p_value:.2g}"
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
                policy(result) if result is not None else None,
                duration(seconds) if seconds else None,
            )
        )
    columns = ("run", "task", "base", "pass@1", "95% interval", "gain, points", "p",
               "policy", "time")  # fmt: skip
    caption = "The policy that validation chose in each run, on the test split, greedy"
    return caption, columns, tuple(rows), (0,)


def _iteration_table(run: Run):
    others = run.tasks[1:4]
    curves = [i.evaluation(run.task).curve("pass@k") for i in run.evaluated]
    ks = max((k for curve in curves for k, _ in curve), default=0)
    columns = ["policy", "pass@1", "95% interval", "p"]
    columns += [f"pass@{ks}", f"maj@{ks}"] if ks > 1 else []
    columns += others
    columns += ["cut off", "no answer", "solved", "examples", "time"]
    if run.human:
        columns.remove("solved")
    rows: list[tuple[Cell, ...]] = []
    chosen: list[int] = []
    for i in run.iterations:
        e = i.evaluation(run.task)
        if e is None and not i.selection:
            continue
        values = e.values if e is not None else {}
        row: list[Cell] = [policy(i) + (" (chosen)" if i.chosen else "")]
        row += [percent(e.pass1), interval(e)] if e is not None else [None, None]
        row.append(_chance(run, i, e))
        if ks > 1:
            for name in ("pass@k", "maj@k"):
                row.append(percent(dict(e.curve(name)).get(ks) if e is not None else None))
        for task in others:
            other = i.evaluation(task)
            row.append(percent(other.pass1 if other is not None else None))
        row += [percent(number(values.get(name))) for name in ("truncated", "unformatted")]
        solved, asked = (number(i.selection.get(k)) for k in ("problems_solved", "problems"))
        if not run.human:
            known = solved is not None and asked is not None
            row.append(f"{int(solved):,} of {int(asked):,}" if known else None)
        kept = number(i.selection.get("kept"))
        row.append(None if kept is None else int(kept))
        row.append(duration(sum(i.seconds.values())) if i.seconds else None)
        if i.chosen:
            chosen.append(len(rows))
        rows.append(tuple(row))
    also = f", then of {' and '.join(others)}" if others else ""
    caption = (
        f"Greedy pass@1 on the test split of {run.task}{also}. p: of the paired comparison with the"
        " base policy (exact McNemar test). Solved: training problems with a correct sample."
        " Examples: what the iteration was trained on."
    )
    return caption, tuple(columns), tuple(rows), tuple(chosen)


def _chance(run: Run, iteration: Iteration, evaluation: Evaluation | None) -> str | None:
    """The p-value of an iteration against the base policy."""
    base = run.base.evaluation(run.task) if run.base is not None else None
    if not iteration.number or base is None or evaluation is None:
        return None
    test = paired(run.base, base, iteration, evaluation)
    return None if test is None else f"{test.p_value:.2g}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"

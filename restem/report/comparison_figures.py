"""The paper's figures 6, 7 and 8 (left): runs compared by method and by training problems."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from restem.report import plotting
from restem.report.marks import (
    base_evaluation,
    horizontal_bars,
    interval,
    plot_points,
    signed,
    tasks_of,
)
from restem.report.plotting import Cell, Chart, Missing
from restem.run.reader import Evaluation, StoredRun, number


def methods(runs: Sequence[StoredRun]) -> Chart | Missing:
    title, mirrors = "Methods compared", "Figures 6 and 7"
    finals = {
        task: [(run, run.result.evaluation(task)) for run in runs if run.result is not None]
        for task in tasks_of(runs)
    }
    finals = {
        task: [(run, e) for run, e in pairs if e is not None and e.pass1 is not None]
        for task, pairs in finals.items()
    }
    shown = [task for task, pairs in finals.items() if len(pairs) > 1]
    if not shown:
        return Missing(title, mirrors, "Needs two runs: `restem report DIR DIR ...` compares them.")
    bases = {task: base_evaluation(runs, task) for task in shown}

    def draw(narrow: bool) -> Figure:
        bars = max(len(finals[task]) + (bases[task] is not None) for task in shown)
        figure, axes = plotting.panels(narrow, len(shown), height=0.75 + 0.36 * bars)
        for axis, task in zip(axes, shown, strict=True):
            entries = [("base policy", bases[task], plotting.MUTED)] if bases[task] else []
            entries += [(run.label, e, plotting.BLUE) for run, e in finals[task]]
            horizontal_bars(axis, entries)
            own = any(run.task == task for run in runs)
            axis.set_title(task if own else f"Transfer to {task}")
            plotting.percent_axis(axis, "test pass@1, greedy", horizontal=True)
        return figure

    rows: list[tuple[Cell, ...]] = []
    for task in shown:
        base = bases[task]
        if base is not None:
            rows.append((task, "base policy", plotting.percent(base.pass1), interval(base), None))
        for run, e in finals[task]:
            gain = None if base is None else e.pass1 - base.pass1
            rows.append((task, run.label, plotting.percent(e.pass1), interval(e), signed(gain)))
    return Chart(
        "methods", title, mirrors,
        "The policy that validation chose in each run, else its last one. Bars: 95% intervals.",
        draw, ("task", "run", "pass@1", "95% interval", "gain, points"), tuple(rows),
    )  # fmt: skip


def dataset_size(runs: Sequence[StoredRun]) -> Chart | Missing:
    title, mirrors = "How many training problems", "Figure 8, left"
    lines: dict[tuple[str, str], dict[int, tuple[StoredRun, Evaluation]]] = {}
    for run in runs:
        if run.trains_on_human_solutions:
            continue
        counts = [number(i.selection.get("problems")) for i in run.iterations]
        count = next((int(c) for c in counts if c), None)
        e = run.result.evaluation(run.task) if run.result is not None else None
        if count and e is not None and e.pass1 is not None:
            lines.setdefault((run.method, run.task), {}).setdefault(count, (run, e))
    shown = {key: sorted(line.items()) for key, line in lines.items() if len(line) > 1}
    if not shown:
        return Missing(
            title, mirrors, "Needs runs of one method that differ in their number of problems."
        )

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, 1)
        for index, ((method, task), line) in enumerate(shown.items()):
            base = base_evaluation([run for _, (run, _) in line], task)
            values = ([(0, base)] if base is not None else []) + [(x, e) for x, (_, e) in line]
            plot_points(
                axes[0], values, f"{method} on {task}" if method else task, plotting.series(index)
            )
        axes[0].set_xlabel("training problems (0 is the base policy)")
        axes[0].set_xlim(left=0)
        plotting.percent_axis(axes[0], "test pass@1, greedy")
        plotting.legend_above(figure, axes[0], narrow)
        return figure

    rows = tuple(
        (method or None, task, count, plotting.percent(e.pass1), interval(e))
        for (method, task), line in shown.items()
        for count, (_, e) in line
    )
    return Chart(
        "dataset_size", title, mirrors,
        "Results of runs that differ in their number of training problems. Bars: 95% intervals.",
        draw, ("method", "task", "problems", "pass@1", "95% interval"), rows,
    )  # fmt: skip

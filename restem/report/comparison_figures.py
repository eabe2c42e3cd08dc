"""The paper's figures 6, 7 and 8 (left): runs compared by method and by training problems."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from restem.report import plotting
from restem.report.marks import (
    base_evaluation,
    base_evaluations,
    horizontal_bars,
    interval,
    model_name,
    plot_points,
    result_words,
    signed,
    tasks_of,
)
from restem.report.plotting import Cell, Chart, Missing
from restem.run.reader import Evaluation, StoredRun


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
    bases = {task: _named_bases([run for run, _ in finals[task]], task) for task in shown}

    def draw(narrow: bool) -> Figure:
        bars = max(len(finals[task]) + len(bases[task]) for task in shown)
        figure, axes = plotting.panels(narrow, len(shown), height=0.75 + 0.36 * bars)
        for axis, task in zip(axes, shown, strict=True):
            entries = [(name, base, plotting.MUTED) for name, base in bases[task]]
            entries += [(run.label, e, plotting.BLUE) for run, e in finals[task]]
            horizontal_bars(axis, entries)
            own = any(run.task == task for run in runs)
            axis.set_title(task if own else f"Transfer to {task}")
            plotting.percent_axis(axis, "test pass@1, greedy", horizontal=True)
        return figure

    rows: list[tuple[Cell, ...]] = []
    for task in shown:
        for name, base in bases[task]:
            rows.append((task, name, plotting.percent(base.pass1), interval(base), None))
        for run, e in finals[task]:
            base = base_evaluation(run, task)
            gain = None if base is None else e.pass1 - base.pass1
            rows.append((task, run.label, plotting.percent(e.pass1), interval(e), signed(gain)))
    words = result_words(runs)
    return Chart(
        "methods", title, mirrors,
        f"{words[0].upper()}{words[1:]}. Gains are over the run's own base policy. Bars: 95%"
        " intervals.",
        draw, ("task", "run", "pass@1", "95% interval", "gain, points"), tuple(rows),
    )  # fmt: skip


def _named_bases(runs: Sequence[StoredRun], task: str) -> list[tuple[str, Evaluation]]:
    """Returns the distinct evaluations of base policies, named by their runs if there are more."""
    found = base_evaluations(runs, task)
    if len(found) == 1 and len({run.model for run in runs}) == 1:
        return [("base policy", found[0][1])]
    named = []
    for labels, e in found:
        more = f" and {len(labels) - 2} more" if len(labels) > 2 else ""
        named.append((f"base policy of {', '.join(labels[:2])}{more}", e))
    return named


def dataset_size(runs: Sequence[StoredRun]) -> Chart | Missing:
    title, mirrors = "How many training problems", "Figure 8, left"
    lines: dict[tuple[str, str, str], list[tuple[int, StoredRun, Evaluation]]] = {}
    for run in runs:
        e = run.result.evaluation(run.task) if run.result is not None else None
        if run.trains_on_human_solutions or e is None or e.pass1 is None:
            continue
        if count := run.train_problems:
            lines.setdefault((run.method, run.task, run.model), []).append((count, run, e))
    shown = [
        (key, sorted(line, key=lambda point: point[0]))
        for key, line in lines.items()
        if len({count for count, *_ in line}) > 1
    ]
    if not shown:
        return Missing(
            title, mirrors, "Needs runs of one method that differ in their number of problems."
        )
    models = {model for (*_, model), _ in shown}

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, 1)
        for index, ((method, task, _), line) in enumerate(shown):
            of_line = [run for _, run, _ in line]
            points = [(0, base) for _, base in base_evaluations(of_line, task)]
            points += [(count, e) for count, _, e in line]
            label = f"{method} on {task}" if method else task
            label += f", {model_name(of_line[0])}" if len(models) > 1 else ""
            _plot_means(axes[0], points, label, plotting.series(index))
        axes[0].set_xlabel("training problems (0 is the base policy)")
        axes[0].set_xlim(left=0)
        plotting.percent_axis(axes[0], "test pass@1, greedy")
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows = tuple(
        (run.label, run.method or None, run.task, model_name(run), count,
         plotting.percent(e.pass1), interval(e))
        for _, line in shown
        for count, run, e in line
    )  # fmt: skip
    return Chart(
        "dataset_size", title, mirrors,
        "Results of runs that differ in their number of training problems, one point per run."
        " Lines: means of the runs with as many problems. Bars: 95% intervals.",
        draw, ("run", "method", "task", "model", "problems", "pass@1", "95% interval"), rows,
    )  # fmt: skip


def _plot_means(
    axis: Axes, points: Sequence[tuple[int, Evaluation]], label: str, style: dict
) -> None:
    """Draws each of the points, ascending in x, and a line through the means of those that share
    an x."""
    groups = itertools.groupby(points, key=lambda point: point[0])
    means = [(x, np.mean([e.pass1 for _, e in group])) for x, group in groups]
    axis.plot(*zip(*means, strict=True), clip_on=False, **(style | {"marker": ""}))
    plot_points(axis, points, "_points", style | {"linestyle": ""})
    axis.plot([], [], label=label, **style)  # the legend shows line and marker

"""The paper's figures 2 to 8, drawn from one's own runs, and the list of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from restem.evaluation import metrics
from restem.report import plotting, transfer_figures
from restem.report.marks import (
    base_evaluation,
    before_and_after,
    horizontal_bars,
    interval,
    plot_points,
    points,
    policy,
    result_word,
    signed,
    tasks_of,
)
from restem.report.plotting import Cell, Chart, Missing
from restem.report.runs import Evaluation, Run, number


def charts(runs: Sequence[Run]) -> Iterator[Chart | Missing]:
    """Every figure of the paper that the runs have data for, and why the others are missing."""
    yield pass1_over_iterations(runs)
    yield train_test_gap(runs)
    yield pass_at_k(runs)
    yield methods(runs)
    yield dataset_size(runs)
    yield difficulty(runs)
    yield transfer_figures.suite(runs)
    yield transfer_figures.exam(runs)


def pass1_over_iterations(
    runs: Sequence[Run], tasks: Sequence[str] | None = None
) -> Chart | Missing:
    """Figures 2 and 3; of these tasks only, where given."""
    title, mirrors = "Test pass@1 over iterations, and transfer", "Figures 2 and 3"
    curves = [run for run in runs if not run.human] or list(runs)
    baselines = [run for run in runs if run.human and run not in curves]
    shown = [
        task
        for task in (tasks_of(runs) if tasks is None else tasks)
        if any(points(run, task) for run in curves + baselines)
    ]
    if not shown:
        return Missing(title, mirrors, "No evaluation on a test split is finished yet.")

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(shown))
        for axis, task in zip(axes, shown, strict=True):
            own = any(run.task == task for run in runs)
            axis.set_title(task if own else f"Transfer to {task}")
            ticks: list[int] = []
            for index, run in enumerate(curves):
                line = points(run, task)
                if line:
                    shift = 0.05 * (index - (len(curves) - 1) / 2)
                    plot_points(axis, line, run.label, plotting.series(index), shift)
                    ticks += [x for x, _ in line]
            if len(curves) == 1 and not baselines:
                line = points(curves[0], task)
                for (x, e), (_, after) in zip(line, [*line[1:], line[-1]], strict=True):
                    # On the side that the line does not leave by.
                    above = after.pass1 < e.pass1
                    axis.annotate(
                        plotting.percent(e.pass1), (x, e.pass1), (6, 4 if above else -11),
                        textcoords="offset points", fontsize=8.5, zorder=4,
                    )  # fmt: skip
            for index, run in enumerate(baselines):
                line = points(run, task)
                if line:
                    style = plotting.series(len(curves) + index)
                    axis.axhline(
                        line[-1][1].pass1, label=run.label, color=style["color"],
                        linestyle=style["linestyle"], linewidth=1.5,
                    )  # fmt: skip
            plotting.percent_axis(axis, "test pass@1, greedy")
            plotting.whole_ticks(axis, ticks)
            axis.set_xlabel("iteration (0 is the base policy)")
        full = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
        plotting.legend_above(figure, full, narrow)
        return figure

    rows = tuple(
        (run.label, task, x, plotting.percent(e.pass1), interval(e), e.count)
        for task in shown
        for run in [*curves, *baselines]
        for x, e in points(run, task)
    )
    lines = " Horizontal lines are runs fine-tuned on human solutions (SFT)." if baselines else ""
    return Chart(
        "pass1_over_iterations", title, mirrors,
        "Greedy pass@1 on the test split; bars are 95% Wilson intervals." + lines, draw,
        ("run", "task", "iteration", "pass@1", "95% interval", "problems"), rows,
    )  # fmt: skip


def train_test_gap(runs: Sequence[Run]) -> Chart | Missing:
    title, mirrors = "Gap between training and test problems", "Figure 4"
    shown = [r for r in runs if points(r, r.task) and points(r, r.task, "train")][:4]
    if not shown:
        return Missing(title, mirrors, "No run evaluated its policies on its training split.")

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(shown), share_y=True)
        for axis, run in zip(axes, shown, strict=True):
            for index, split in enumerate(("train", "test")):
                line = points(run, run.task, split)
                plot_points(axis, line, f"{split} problems", plotting.series(index))
            axis.set_title(f"{run.task}: {run.label}" if len(shown) > 1 else run.task)
            plotting.percent_axis(axis, "pass@1, greedy")
            plotting.whole_ticks(axis, [x for x, _ in points(run, run.task)])
            axis.set_xlabel("iteration (0 is the base policy)")
        plotting.legend_above(figure, axes[0], narrow)
        return figure

    rows = []
    for run in shown:
        train = dict(points(run, run.task, "train"))
        for x, e in points(run, run.task):
            gap = train[x].pass1 - e.pass1 if x in train else None
            of_train = train[x].pass1 if x in train else None
            rows.append(
                (run.label, x, plotting.percent(of_train), plotting.percent(e.pass1), signed(gap))
            )
    return Chart(
        "train_test_gap", title, mirrors,
        "Greedy pass@1 on the problems that were trained on and on those held out. A gap that"
        " widens while the test line falls is over-fitting.", draw,
        ("run", "iteration", "train pass@1", "test pass@1", "gap, points"), tuple(rows),
    )  # fmt: skip


def pass_at_k(runs: Sequence[Run]) -> Chart | Missing:
    title, mirrors = "Pass@k and majority vote before and after", "Figure 5"
    shown = []
    for run in runs:
        for task in run.tasks:
            pairs = [(i, i.evaluation(task)) for i in before_and_after(run)]
            pairs = [(i, e) for i, e in pairs if e is not None and e.curve("pass@k")]
            if pairs:
                shown.append((run, task, pairs))
    shown = shown[:4]
    if not shown:
        return Missing(
            title, mirrors, "No evaluation drew several samples a problem (evaluate.num_samples)."
        )
    word = policy if len(runs) == 1 else result_word

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(shown))
        for axis, (run, task, pairs) in zip(axes, shown, strict=True):
            axis.set_xscale("log", base=2)
            ks: set[int] = set()
            for i, e in pairs:
                style = plotting.series(0 if i.number else 1)
                for name, marker, dash in (("pass@k", "o", "-"), ("maj@k", "s", (0, (2, 1.5)))):
                    curve = e.curve(name)
                    if curve:
                        ks |= {k for k, _ in curve}
                        style |= {"marker": marker, "linestyle": dash}
                        axis.plot(*zip(*curve, strict=True), label=f"{name}, {word(i)}", **style)
            axis.set_title(f"{task}: {run.label}" if len(runs) > 1 else task)
            axis.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
            axis.minorticks_off()
            axis.set_xlabel("samples k (logarithmic)")
            plotting.percent_axis(axis, "share of test problems")
        plotting.legend_above(figure, axes[0], narrow)
        return figure

    rows = tuple(
        (run.label, task, policy(i), k, plotting.percent(value),
         plotting.percent(dict(e.curve("maj@k")).get(k)))
        for run, task, pairs in shown
        for i, e in pairs
        for k, value in e.curve("pass@k")
    )  # fmt: skip
    return Chart(
        "pass_at_k", title, mirrors,
        "Pass@k: the chance that one of k samples is right (unbiased, Chen et al. 2021). Maj@k: the"
        " chance that the most frequent answer of k is right, ties shared.", draw,
        ("run", "task", "policy", "k", "pass@k", "maj@k"), rows,
    )  # fmt: skip


def methods(runs: Sequence[Run]) -> Chart | Missing:
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
        return Missing(
            title, mirrors, "It takes two runs: `restem report DIR DIR ...` puts them side by side."
        )
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
        "The policy that each run's validation chose (else its last one); bars are 95% intervals.",
        draw, ("task", "run", "pass@1", "95% interval", "gain, points"), tuple(rows),
    )  # fmt: skip


def dataset_size(runs: Sequence[Run]) -> Chart | Missing:
    title, mirrors = "How many training problems", "Figure 8, left"
    lines: dict[tuple[str, str], dict[int, tuple[Run, Evaluation]]] = {}
    for run in runs:
        if run.human:
            continue
        counts = [number(i.selection.get("problems")) for i in run.iterations]
        count = next((int(c) for c in counts if c), None)
        e = run.result.evaluation(run.task) if run.result is not None else None
        if count and e is not None and e.pass1 is not None:
            lines.setdefault((run.method, run.task), {}).setdefault(count, (run, e))
    shown = {key: sorted(line.items()) for key, line in lines.items() if len(line) > 1}
    if not shown:
        return Missing(
            title, mirrors, "It takes runs of one method that differ in their number of problems."
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
        "Result of runs that differ in the number of training problems; bars are 95% intervals.",
        draw, ("method", "task", "problems", "pass@1", "95% interval"), rows,
    )  # fmt: skip


def difficulty(runs: Sequence[Run]) -> Chart | Missing:
    title, mirrors = "Success by difficulty of the problem", "Figure 8, right"
    shown = []
    for run in runs:
        pairs = []
        for iteration in before_and_after(run):
            e = iteration.evaluation(run.task)
            buckets = e.values.get("difficulty") if e is not None else None
            if isinstance(buckets, dict) and buckets:
                pairs.append((iteration, buckets))
        if pairs:
            shown.append((run, pairs))
    shown = shown[:4]
    if not shown:
        return Missing(
            title, mirrors, "No evaluation drew several samples a problem (evaluate.num_samples)."
        )
    names = metrics.DIFFICULTIES[::-1]
    word = policy if len(runs) == 1 else result_word

    def cell(buckets, name, what):
        return number((buckets.get(name) or {}).get(what))

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(shown), share_y=True)
        for axis, (run, pairs) in zip(axes, shown, strict=True):
            width = 0.8 / len(pairs)
            for index, (i, buckets) in enumerate(pairs):
                xs = [x + (index - (len(pairs) - 1) / 2) * width for x in range(len(names))]
                ys = [cell(buckets, name, "mean") or 0.0 for name in names]
                bars = axis.bar(
                    xs, ys, width * 0.94, label=word(i), edgecolor=plotting.PAPER,
                    color=plotting.BLUE if i.number else plotting.ORANGE,
                    hatch=None if i.number else "///",
                )  # fmt: skip
                labels = [plotting.percent(cell(buckets, name, "mean"), 0) for name in names]
                axis.bar_label(bars, labels, fontsize=8, padding=2)
            counts = [int(cell(pairs[-1][1], name, "n") or 0) for name in names]
            ticks = [f"{name}\n{n} problems" for name, n in zip(names, counts, strict=True)]
            axis.set_xticks(range(len(names)), ticks, fontsize=7.5 if narrow else 8)
            axis.set_title(run.label if len(shown) > 1 else run.task)
            plotting.percent_axis(axis, "average success")
        plotting.legend_above(figure, axes[0], narrow)
        return figure

    rows = tuple(
        (run.label, policy(i), name, cell(buckets, name, "n") and int(cell(buckets, name, "n")),
         plotting.percent(cell(buckets, name, "mean")))
        for run, pairs in shown
        for i, buckets in pairs
        for name in names
    )  # fmt: skip
    return Chart(
        "difficulty", title, mirrors,
        "Mean success of samples at T = 1.0. The base policy's own success makes the groups: easy"
        " from 75%, medium 50 to 75%, hard 25 to 50%, very hard below. Part of the rise of the"
        " hard groups and of the fall of the easy one is regression to the mean.", draw,
        ("run", "policy", "difficulty", "problems", "success"), rows,
    )  # fmt: skip

"""The paper's figures 2 to 8, drawn from the files of runs, and the list of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from restem.evaluation import metrics
from restem.report import comparison_figures, plotting, transfer_figures
from restem.report.marks import (
    before_and_after,
    interval,
    plot_points,
    points,
    policy,
    result_word,
    signed,
    tasks_of,
)
from restem.report.plotting import Cell, Chart, Missing
from restem.run.reader import StoredRun, number


def charts(runs: Sequence[StoredRun]) -> Iterator[Chart | Missing]:
    """Yields the paper's figures, or the reason why the runs have no data for one."""
    yield pass1_over_iterations(runs)
    yield train_test_gap(runs)
    yield pass_at_k(runs)
    yield comparison_figures.methods(runs)
    yield comparison_figures.dataset_size(runs)
    yield difficulty(runs)
    yield transfer_figures.suite(runs)
    yield transfer_figures.exam(runs)


def pass1_over_iterations(
    runs: Sequence[StoredRun], tasks: Sequence[str] | None = None
) -> Chart | Missing:
    """Returns figures 2 and 3, of all tasks or of those given."""
    title, mirrors = "Test pass@1 over iterations, and transfer", "Figures 2 and 3"
    curves = [run for run in runs if not run.trains_on_human_solutions] or list(runs)
    baselines = [run for run in runs if run.trains_on_human_solutions and run not in curves]
    shown = [
        task
        for task in (tasks_of(runs) if tasks is None else tasks)
        if any(points(run, task) for run in curves + baselines)
    ]
    if not shown:
        return Missing(title, mirrors, "No evaluation on a test split is finished yet.")

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(shown))
        apart = min(0.05, 0.4 / len(curves))  # so that many curves stay near their iteration
        for axis, task in zip(axes, shown, strict=True):
            own = any(run.task == task for run in runs)
            axis.set_title(task if own else f"Transfer to {task}")
            ticks: list[int] = []
            for index, run in enumerate(curves):
                line = points(run, task)
                if line:
                    shift = apart * (index - (len(curves) - 1) / 2)
                    plot_points(axis, line, run.label, plotting.series(index), shift)
                    ticks += [x for x, _ in line]
            if len(curves) == 1 and not baselines:
                line = points(curves[0], task)
                for (x, e), (_, after) in zip(line, [*line[1:], line[-1]], strict=True):
                    # on the side away from the line's next segment
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
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows = tuple(
        (run.label, task, x, plotting.percent(e.pass1), interval(e), e.count)
        for task in shown
        for run in [*curves, *baselines]
        for x, e in points(run, task)
    )
    lines = " Horizontal lines: runs fine-tuned on human solutions (SFT)." if baselines else ""
    return Chart(
        "pass1_over_iterations", title, mirrors,
        "Greedy pass@1 on the test split. Bars: 95% Wilson intervals." + lines, draw,
        ("run", "task", "iteration", "pass@1", "95% interval", "problems"), rows,
    )  # fmt: skip


def train_test_gap(runs: Sequence[StoredRun]) -> Chart | Missing:
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
        plotting.legend_above(figure, axes, narrow)
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
        "Greedy pass@1 on training problems and on held-out test problems. A gap that widens while"
        " the test line falls is overfitting.", draw,
        ("run", "iteration", "train pass@1", "test pass@1", "gap, points"), tuple(rows),
    )  # fmt: skip


def pass_at_k(runs: Sequence[StoredRun]) -> Chart | Missing:
    title, mirrors = "Pass@k and majority vote before and after", "Figure 5"
    shown = []
    for run in runs:
        for task in tasks_of([run]):
            pairs = [(i, i.evaluation(task)) for i in before_and_after(run)]
            pairs = [(i, e) for i, e in pairs if e is not None and e.curve("pass@k")]
            if pairs:
                shown.append((run, task, pairs))
    shown = shown[:4]
    if not shown:
        return Missing(
            title, mirrors, "No evaluation drew several samples per problem (evaluate.num_samples)."
        )
    word = policy if len(runs) == 1 else result_word
    votes = any(e.curve("maj@k") for *_, pairs in shown for _, e in pairs)
    if not votes:  # of programs, for example
        title = "Pass@k before and after"

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
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (run.label, task, policy(i), k, plotting.percent(value),
         *[plotting.percent(dict(e.curve("maj@k")).get(k))] * votes)
        for run, task, pairs in shown
        for i, e in pairs
        for k, value in e.curve("pass@k")
    )  # fmt: skip
    return Chart(
        "pass_at_k", title, mirrors,
        "Pass@k: the chance that one of k samples is right (unbiased, Chen et al. 2021)."
        + " Maj@k: the chance that the most frequent answer of k is right, ties shared." * votes,
        draw, ("run", "task", "policy", "k", "pass@k", *["maj@k"] * votes), rows,
    )  # fmt: skip


def difficulty(runs: Sequence[StoredRun]) -> Chart | Missing:
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
            title, mirrors, "No evaluation drew several samples per problem (evaluate.num_samples)."
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
        plotting.legend_above(figure, axes, narrow)
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
        "Average success of samples at T = 1.0, by the success of the base policy: easy from 75%,"
        " medium 50 to 75%, hard 25 to 50%, very hard below 25%. Part of the rise in the hard"
        " groups and of the fall in the easy one is regression to the mean.", draw,
        ("run", "policy", "difficulty", "problems", "success"), rows,
    )  # fmt: skip

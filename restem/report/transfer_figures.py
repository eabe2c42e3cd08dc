"""The paper's figures 9 and 10: BIG-Bench Hard task by task, and the Hungarian exam."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from restem.evaluation import metrics
from restem.report import plotting
from restem.report.marks import before_and_after, policy
from restem.report.plotting import Chart, Missing
from restem.report.runs import Iteration, Run, suite_part


def suite(runs: Sequence[Run]) -> Chart | Missing:
    """Figure 9, of the first run that was evaluated on BIG-Bench Hard: a panel for each style of
    prompt (chain of thought, direct)."""
    title, mirrors = "BIG-Bench Hard, task by task", "Figure 9"
    for run in runs:
        styles: dict[str, list[tuple[Iteration, dict[str, float]]]] = {}
        for iteration in before_and_after(run):
            scores: dict[str, dict[str, float]] = {}
            for e in iteration.evals.values():
                part = suite_part(e.task)
                if part is not None and e.pass1 is not None:
                    scores.setdefault(part[0], {})[part[1]] = e.pass1
            for style, parts in scores.items():
                styles.setdefault(style, []).append((iteration, parts))
        if styles:
            return _suite_chart(run, styles, title, mirrors)
    return Missing(title, mirrors, "No run was evaluated on BIG-Bench Hard.")


def macro_average(scores: Mapping[str, float]) -> float:
    """Mean over BBH's tasks: the files of a task that comes in three sizes count once together."""
    tasks = [re.sub(r" (three|five|seven) objects$", "", name) for name in scores]
    means = metrics.means_by_part(list(scores.values()), tasks)
    return sum(means.values()) / len(means)


def _suite_chart(run: Run, styles, title: str, mirrors: str) -> Chart:
    names = {style: sorted(set.intersection(*(set(parts) for _, parts in columns)))
             for style, columns in styles.items()}  # fmt: skip
    styles = {style: columns for style, columns in styles.items() if names[style]}
    words = {"cot": "chain of thought", "direct": "direct answer"}
    bars = {
        style: [
            (i, [*(parts[n] for n in names[style]),
                 macro_average({n: parts[n] for n in names[style]})])
            for i, parts in columns
        ]
        for style, columns in styles.items()
    }  # fmt: skip

    def draw(narrow: bool) -> Figure:
        most = max(map(len, names.values()))
        figure, axes = plotting.panels(narrow, len(styles), height=1.0 + 0.27 * (most + 1))
        for axis, style in zip(axes, styles, strict=True):
            shown = [*names[style], "Macro average"]
            for index, (i, values) in enumerate(bars[style]):
                width = 0.8 / len(bars[style])
                shift = (index - (len(bars[style]) - 1) / 2) * width
                axis.barh(
                    [y + shift for y in range(len(shown))], values, width * 0.94, label=policy(i),
                    color=plotting.BLUE if i.number else plotting.ORANGE, edgecolor=plotting.PAPER,
                    hatch=None if i.number else "///",
                )  # fmt: skip
            axis.set_title(words.get(style, style))
            axis.set_yticks(range(len(shown)), shown, fontsize=8 if len(styles) == 1 else 7)
            axis.set_ylim(len(shown) - 0.4, -0.6)
            axis.grid(axis="y", visible=False)
            axis.grid(axis="x", color=plotting.RULE, linewidth=0.7)
            axis.get_yticklabels()[-1].set_fontweight("bold")
            if not narrow and axis is not axes[0] and names[style] == next(iter(names.values())):
                axis.tick_params(labelleft=False)  # the first panel's labels serve both
            plotting.percent_axis(axis, "accuracy, greedy", horizontal=True)
        plotting.legend_above(figure, axes[0], narrow)
        return figure

    rows = tuple(
        (name, words.get(style, style), policy(i), plotting.percent(value))
        for style, columns in bars.items()
        for i, values in columns
        for name, value in zip([*names[style], "Macro average"], values, strict=True)
    )
    return Chart(
        "bbh", title, mirrors,
        f"Run {run.label}: base policy and result. The average counts tasks that come in three"
        " sizes once.", draw, ("task", "prompt", "policy", "accuracy"), rows,
    )  # fmt: skip


def exam(runs: Sequence[Run]) -> Chart | Missing:
    """Figure 10: the exam that people grade against GSM8K, which a policy may know too well."""
    title, mirrors = "Hungarian exam against GSM8K", "Figure 10"
    shown: list[tuple[Run, list[tuple[Iteration, float, float]]]] = []
    for run in runs:
        scores = [
            (i, i.evaluation("gsm8k"), i.evaluation("hungarian")) for i in before_and_after(run)
        ]
        line = [
            (i, x.pass1, y.pass1)
            for i, x, y in scores
            if x is not None and y is not None and x.pass1 is not None and y.pass1 is not None
        ]
        if line:
            shown.append((run, line))
    if not shown:
        reason = "No policy has a pass@1 on gsm8k and a grading sheet of hungarian added up."
        return Missing(title, mirrors, reason)

    def draw(narrow: bool) -> Figure:
        figure, (axis,) = plotting.panels(narrow, 1, height=3.2)
        labels: dict[tuple[float, float], str] = {}
        for index, (run, line) in enumerate(shown):
            style = plotting.series(index)
            axis.plot([x for _, x, _ in line], [y for *_, y in line], label=run.label, **style)
            for i, x, y in line:
                labels[x, y] = policy(i)  # runs share their base policy
        for point, label in labels.items():
            axis.annotate(label, point, (6, -12), textcoords="offset points", fontsize=8.5)
        axis.margins(0.2)
        plotting.percent_axis(axis, "GSM8K pass@1, greedy", horizontal=True)
        plotting.percent_axis(axis, "exam, share of the points")
        plotting.legend_above(figure, axis, narrow)
        return figure

    rows = tuple(
        (run.label, policy(i), plotting.percent(x), plotting.percent(y))
        for run, line in shown
        for i, x, y in line
    )
    return Chart(
        "hungarian_exam", title, mirrors,
        "Each line goes from the base policy to the run's result. A policy far below the others'"
        " trend knows GSM8K rather than mathematics.", draw,
        ("run", "policy", "GSM8K pass@1", "exam"), rows,
    )  # fmt: skip

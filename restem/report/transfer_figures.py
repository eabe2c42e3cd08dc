"""The paper's figures 9 and 10: BIG-Bench Hard task by task, and the Hungarian exam."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from restem.evaluation import groups
from restem.report import plotting
from restem.report.marks import before_and_after, policy
from restem.report.plotting import Chart, Missing
from restem.run.reader import StoredIteration, StoredRun

PROMPTS = {"bbh_cot": "chain of thought", "bbh_direct": "direct answer"}
"""Groups of BIG-Bench Hard by their style of prompt, in words."""

AVERAGE = "Macro average"

Bars = list[tuple[StoredIteration, dict[str, float]]]
"""Pass@1 of each task of a group, by policy."""


def suite(runs: Sequence[StoredRun]) -> Chart | Missing:
    """Returns figure 9 of the first run evaluated on BIG-Bench Hard, a panel per prompt style."""
    title, mirrors = "BIG-Bench Hard, task by task", "Figure 9"
    for run in runs:
        panels = {group: _bars(run, group) for group in PROMPTS}
        panels = {group: bars for group, bars in panels.items() if bars}
        if panels:
            return _suite_chart(run, panels, title, mirrors)
    return Missing(title, mirrors, "No run was evaluated on BIG-Bench Hard.")


def _bars(run: StoredRun, group: str) -> Bars:
    """Returns the tasks that all policies share and, of a complete group, the macro average."""
    found: Bars = []
    for iteration in before_and_after(run):
        evals = {n: e for n, e in iteration.evals.items() if e.pass1 is not None}
        members = groups.members(evals).get(group)
        if members:
            bars = {groups.label(name, group): evals[name].pass1 for name in members}
            average = groups.averages({n: e.values for n, e in evals.items()}).get(group)
            if average is not None:
                bars[AVERAGE] = average["pass@1"]
            found.append((iteration, bars))
    shared = [name for name in (found[0][1] if found else ()) if all(name in b for _, b in found)]
    return [(i, {name: bars[name] for name in shared}) for i, bars in found] if shared else []


def _suite_chart(run: StoredRun, panels: dict[str, Bars], title: str, mirrors: str) -> Chart:
    names = {group: list(bars[0][1]) for group, bars in panels.items()}

    def draw(narrow: bool) -> Figure:
        most = max(map(len, names.values()))
        figure, axes = plotting.panels(narrow, len(panels), height=1.0 + 0.27 * most)
        for axis, (group, bars) in zip(axes, panels.items(), strict=True):
            shown = names[group]
            width = 0.8 / len(bars)
            for index, (i, rates) in enumerate(bars):
                shift = (index - (len(bars) - 1) / 2) * width
                axis.barh(
                    [y + shift for y in range(len(shown))], list(rates.values()), width * 0.94,
                    label=policy(i), color=plotting.BLUE if i.number else plotting.ORANGE,
                    edgecolor=plotting.PAPER, hatch=None if i.number else "///",
                )  # fmt: skip
            axis.set_title(PROMPTS[group])
            axis.set_yticks(range(len(shown)), shown, fontsize=8 if len(panels) == 1 else 7)
            axis.set_ylim(len(shown) - 0.4, -0.6)
            axis.grid(axis="y", visible=False)
            axis.grid(axis="x", color=plotting.RULE, linewidth=0.7)
            if shown[-1] == AVERAGE:
                axis.get_yticklabels()[-1].set_fontweight("bold")
            if not narrow and axis is not axes[0] and shown == next(iter(names.values())):
                axis.tick_params(labelleft=False)  # the first panel's labels serve both
            plotting.percent_axis(axis, "accuracy, greedy", horizontal=True)
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows = tuple(
        (name, PROMPTS[group], policy(i), plotting.percent(rate))
        for group, bars in panels.items()
        for i, rates in bars
        for name, rate in rates.items()
    )
    return Chart(
        "bbh", title, mirrors,
        f"Run {run.label}: base policy and result. The macro average counts a task that comes in"
        " three sizes once; it needs all tasks.", draw,
        ("task", "prompt", "policy", "accuracy"), rows,
    )  # fmt: skip


def exam(runs: Sequence[StoredRun]) -> Chart | Missing:
    """Returns figure 10: pass@1 on GSM8K, plotted against an exam graded by humans."""
    title, mirrors = "Hungarian exam against GSM8K", "Figure 10"
    shown: list[tuple[StoredRun, list[tuple[StoredIteration, float, float]]]] = []
    for run in runs:
        scores = [
            (i, i.evaluation("hungarian"), i.evaluation("gsm8k")) for i in before_and_after(run)
        ]
        line = [
            (i, x.pass1, y.pass1)
            for i, x, y in scores
            if x is not None and y is not None and x.pass1 is not None and y.pass1 is not None
        ]
        if line:
            shown.append((run, line))
    if not shown:
        reason = "No policy has both a pass@1 on gsm8k and a graded sheet of hungarian."
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
        plotting.percent_axis(axis, "exam, share of the points", horizontal=True)
        plotting.percent_axis(axis, "GSM8K pass@1, greedy")
        plotting.legend_above(figure, [axis], narrow)
        return figure

    rows = tuple(
        (run.label, policy(i), plotting.percent(x), plotting.percent(y))
        for run, line in shown
        for i, x, y in line
    )
    return Chart(
        "hungarian_exam", title, mirrors,
        "Each line leads from the base policy to the run's result. A policy far above the trend of"
        " the others knows GSM8K rather than mathematics.", draw,
        ("run", "policy", "exam", "GSM8K pass@1"), rows,
    )  # fmt: skip

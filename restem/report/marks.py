"""What the figures of several runs share: points over iterations, labelled bars, words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes

from restem.report import plotting
from restem.report.runs import Evaluation, Iteration, Run


def points(run: Run, task: str, split: str = "test") -> list[tuple[int, Evaluation]]:
    """(iteration, evaluation) of a task, where there is a pass@1."""
    found = ((i.number, i.evaluation(task, split)) for i in run.iterations)
    return [(n, e) for n, e in found if e is not None and e.pass1 is not None]


def before_and_after(run: Run) -> list[Iteration]:
    """The base policy and the run's result, once where they are the same."""
    found = {i.number: i for i in (run.base, run.result) if i is not None}
    return [found[n] for n in sorted(found)]


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """The runs' own tasks first, then those they transfer to."""
    own = list(dict.fromkeys(run.task for run in runs))
    return own + sorted({t for run in runs for t in run.tasks} - set(own))


def plot_points(
    axis: Axes,
    line: Sequence[tuple[int, Evaluation]],
    label: str,
    style: dict,
    shift: float = 0.0,
) -> None:
    """A line over iterations, with the interval of each point where it has one.

    `shift` moves it sideways, so that the intervals of several lines do not cover each other.
    """
    xs = [x + shift for x, _ in line]
    ys = [e.pass1 for _, e in line]
    axis.plot(xs, ys, label=label, clip_on=False, zorder=3, **style)
    bars = [(x, e.pass1, e.interval) for x, e in line if e.interval is not None]
    if bars:
        below = [max(0.0, y - low) for _, y, (low, _) in bars]
        above = [max(0.0, high - y) for _, y, (_, high) in bars]
        axis.errorbar(
            [x for x, *_ in bars], [y for _, y, _ in bars], [below, above], fmt="none",
            ecolor=style["color"], elinewidth=1, capsize=2.5, alpha=0.75, zorder=2,
        )  # fmt: skip


def horizontal_bars(axis: Axes, entries: Sequence[tuple[str, Evaluation, str]]) -> None:
    """Labelled bars with intervals, first entry on top."""
    ends = []
    for y, (_, e, color) in enumerate(entries):
        low, high = e.interval or (e.pass1, e.pass1)
        axis.barh(
            y, e.pass1, 0.68, color=color, edgecolor=plotting.PAPER,
            hatch="///" if color == plotting.MUTED else None,
        )  # fmt: skip
        axis.errorbar(
            e.pass1, y, xerr=[[max(0.0, e.pass1 - low)], [max(0.0, high - e.pass1)]], fmt="none",
            ecolor=plotting.INK, elinewidth=1, capsize=2.5,
        )  # fmt: skip
        axis.annotate(
            plotting.percent(e.pass1), (high, y), (5, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
        ends.append(high)
    axis.set_xlim(0, max(ends) * 1.2 or 1)
    axis.set_yticks(range(len(entries)), [textwrap.fill(label, 20) for label, *_ in entries])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=plotting.RULE, linewidth=0.7)


def base_evaluation(runs: Sequence[Run], task: str) -> Evaluation | None:
    """The base policy's evaluation of a task, where all these runs start from the same model."""
    if len({run.model for run in runs}) != 1:
        return None
    found = (run.base.evaluation(task) for run in runs if run.base is not None)
    return next((e for e in found if e is not None and e.pass1 is not None), None)


def policy(iteration: Iteration) -> str:
    """What a legend calls the policy of an iteration."""
    return f"iteration {iteration.number}" if iteration.number else "base policy"


def interval(evaluation: Evaluation) -> str:
    if evaluation.interval is None:
        return "–"
    low, high = evaluation.interval
    return f"{plotting.percent(low)} to {plotting.percent(high)}"


def signed(difference: float | None) -> str:
    """A difference of two shares in points: "+3.1", "−0.4"."""
    return "–" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def result_word(iteration: Iteration) -> str:
    """The same where runs of several lengths share a legend."""
    return "result" if iteration.number else "base policy"

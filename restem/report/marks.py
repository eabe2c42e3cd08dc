"""Parts that figures and tables share: points over iterations, labelled bars, words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes

from restem.evaluation import groups
from restem.report import plotting
from restem.run.reader import Evaluation, StoredIteration, StoredRun, printable


def points(run: StoredRun, task: str, split: str = "test") -> list[tuple[int, Evaluation]]:
    """Returns (iteration, evaluation) of every pass@1 on a split of a task."""
    found = ((i.number, i.evaluation(task, split)) for i in run.iterations)
    return [(n, e) for n, e in found if e is not None and e.pass1 is not None]


def before_and_after(run: StoredRun) -> list[StoredIteration]:
    """Returns the base policy and the run's result, once if they are the same."""
    found = {i.number: i for i in (run.base, run.result) if i is not None}
    return [found[n] for n in sorted(found)]


def tasks_of(runs: Sequence[StoredRun]) -> list[str]:
    """Returns the tasks with a test evaluation, the runs' own first, without members of groups."""
    own = list(dict.fromkeys(run.task for run in runs))
    evals = (e for run in runs for i in run.iterations for e in i.evals.values())
    names = {e.task for e in evals if e.split == "test" and groups.group_of(e.task) is None}
    return own + sorted(names - set(own))


def plot_points(
    axis: Axes,
    line: Sequence[tuple[int, Evaluation]],
    label: str,
    style: dict,
    shift: float = 0.0,
) -> None:
    """Draws a line over iterations, with the intervals of its points.

    Args:
      axis: where to draw.
      line: (iteration, evaluation) of each point.
      label: name in the legend.
      style: keyword arguments of `Axes.plot`.
      shift: moves the line and its intervals sideways, so that those of several lines do not
        overlap.
    """
    xs = [x + shift for x, _ in line]
    ys = [e.pass1 for _, e in line]
    axis.plot(xs, ys, label=label, clip_on=False, zorder=3, **style)
    bars = [(x + shift, e.pass1, e.interval) for x, e in line if e.interval is not None]
    if bars:
        below = [max(0.0, y - low) for _, y, (low, _) in bars]
        above = [max(0.0, high - y) for _, y, (_, high) in bars]
        axis.errorbar(
            [x for x, *_ in bars], [y for _, y, _ in bars], [below, above], fmt="none",
            ecolor=style["color"], elinewidth=1, capsize=2.5, alpha=0.75, zorder=2,
        )  # fmt: skip


def horizontal_bars(axis: Axes, entries: Sequence[tuple[str, Evaluation, str]]) -> None:
    """Draws labelled bars with intervals, from (label, evaluation, colour), the first on top."""
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


def base_evaluation(run: StoredRun, task: str) -> Evaluation | None:
    """Returns the evaluation of a run's base policy on the test split of a task, with a pass@1."""
    found = run.base.evaluation(task) if run.base is not None else None
    return found if found is not None and found.pass1 is not None else None


def base_evaluations(runs: Sequence[StoredRun], task: str) -> list[tuple[list[str], Evaluation]]:
    """Returns the distinct evaluations of the runs' base policies, each with its runs' labels.

    Evaluations of one model are the same if their problems, correct answers and prompt are: runs
    with different seeds or prompts have bases of their own.
    """
    found: dict[tuple, tuple[list[str], Evaluation]] = {}
    for run in runs:
        e = base_evaluation(run, task)
        if e is not None:
            asked = (e.count, e.values.get("correct"), e.values.get("prefix_sha256"))
            labels, _ = found.setdefault((run.model, e.pass1, *map(str, asked)), ([], e))
            labels.append(run.label)
    return list(found.values())


def model_name(run: StoredRun, characters: int = 32) -> str:
    """Returns the reference of a run's base policy, shortened to its end."""
    name = printable(run.model, len(run.model)) or "unknown model"
    return name if len(name) <= characters else "…" + name[1 - characters :]


def result_words(runs: Sequence[StoredRun]) -> str:
    """Returns in words which policy of each run is its result."""
    chosen = [run.chosen_by_validation for run in runs if run.result is not None]
    results = [run.result.number for run in runs if run.result is not None]
    if chosen == results:
        return "the policy that validation chose in each run"
    if not any(a == b for a, b in zip(chosen, results, strict=True)):
        return "the last policy evaluated in each run"
    return "the policy that validation chose in each run, or else the last one evaluated"


def policy(iteration: StoredIteration) -> str:
    """Returns the name of an iteration's policy in a legend or table."""
    return f"iteration {iteration.number}" if iteration.number else "base policy"


def result_word(iteration: StoredIteration) -> str:
    """Returns one name for the results of runs of different lengths that share a legend."""
    return "result" if iteration.number else "base policy"


def interval(evaluation: Evaluation) -> str:
    """Returns the 95% interval of pass@1 in words."""
    if evaluation.interval is None:
        return "–"
    low, high = evaluation.interval
    return f"{plotting.percent(low)} to {plotting.percent(high)}"


def signed(difference: float | None) -> str:
    """Returns a difference of two shares in points: "+3.1", "−0.4"."""
    return "–" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Returns a p-value with its relation: "= 0.11", "< 0.0001"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"

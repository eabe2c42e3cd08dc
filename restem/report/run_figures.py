"""Figures of one run that the paper does not have: samples, cost and the M-step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from restem.report import plotting, sample_figures
from restem.report.plotting import BLUE, GREEN, PAPER, SKY, Chart, Missing
from restem.run.reader import StoredRun, curve, number
from restem.run.sample_stats import SampleStats

STEPS = (("generate", BLUE, None), ("improve", GREEN, "\\\\\\"), ("evaluate", SKY, None))
"""Steps in the order of the loop, each with the colour and hatch of its bar."""


def charts(
    run: StoredRun, samples: Mapping[int, SampleStats], suffix: str = ""
) -> Iterator[Chart | Missing]:
    """Yields all figures of one run.

    Args:
      run: the run.
      samples: counts of the samples of each iteration that has any.
      suffix: suffix of the figures' names, if several runs share a report.
    """
    yield sample_figures.where_samples_went(run, suffix)
    yield sample_figures.solved_problems(run, samples, suffix)
    yield sample_figures.lengths(run, samples, suffix)
    yield sample_figures.rewards(run, samples, suffix)
    yield cost(run, suffix)
    yield m_step(run, suffix)


def cost(run: StoredRun, suffix: str) -> Chart | Missing:
    title = "Cost of each step"
    shown = [i for i in run.iterations if any(i.seconds.values())]
    if not shown:
        return Missing(title, "", "No step is finished yet.")
    top = max(sum(i.seconds.values()) for i in shown)
    unit, scale = (
        ("hours", 3600) if top > 7200 else ("minutes", 60) if top > 180 else ("seconds", 1)
    )

    def draw(narrow: bool) -> Figure:
        figure, (axis,) = plotting.panels(narrow, 1, height=1.25 + 0.42 * len(shown))
        left = np.zeros(len(shown))
        for name, color, hatch in STEPS:
            widths = np.array([i.seconds.get(name, 0.0) for i in shown]) / scale
            if widths.any():
                axis.barh(range(len(shown)), widths, 0.7, left, color=color, hatch=hatch,
                          edgecolor=PAPER, label=name)  # fmt: skip
                left += widths
        for y, total in enumerate(left):
            axis.annotate(f"{total:.1f}", (total, y), (5, 0), textcoords="offset points",
                          va="center", fontsize=8.5)  # fmt: skip
        axis.set_xlim(0, float(left.max()) * 1.12)
        names = [f"iteration {i.number}" if i.number else "base policy" for i in shown]
        axis.set_yticks(range(len(shown)), names)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", color=plotting.RULE, linewidth=0.7)
        axis.set_xlabel(unit)
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3 if narrow else 5,
                      handlelength=1.4)  # fmt: skip
        return figure

    rows = []
    for i in shown:
        reports = {"generate": i.generation, "improve": i.improvement}
        for name, seconds in i.seconds.items():
            rate = number(reports.get(name, {}).get("tokens_per_second"))
            rate = None if rate is None else round(rate)
            rows.append((i.number, name, round(seconds, 1), rate))
    return Chart(
        f"cost{suffix}", title, "",
        "Wall-clock time of each step on the machine that ran it.", draw,
        ("iteration", "step", "seconds", "tokens/s"), tuple(rows),
    )  # fmt: skip


def m_step(run: StoredRun, suffix: str) -> Chart | Missing:
    title = "Inside the M-steps"
    found = [(i.number, curve(i.improvement.get("loss")), curve(i.improvement.get("validation")))
             for i in run.iterations]  # fmt: skip
    found = [(n, loss, reward) for n, loss, reward in found if loss or reward]
    if not found:
        return Missing(title, "", "No M-step is finished yet.")
    shown: list[Any] = [found[j] for j in plotting.spread(range(len(found)), 6)]
    parts = [(which, name) for which, name in
             ((1, "Loss on solution tokens"), (2, "Reward on validation problems"))
             if any(entry[which] for entry in shown)]  # fmt: skip

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(parts))
        for axis, (which, name) in zip(axes, parts, strict=True):
            for index, entry in enumerate(shown):
                if not entry[which]:
                    continue
                xs, ys = zip(*entry[which], strict=True)
                style = plotting.series(index)
                if which == 1:
                    style |= {"markevery": max(1, len(xs) // 8), "markersize": 4, "linewidth": 1.4}
                axis.plot(xs, ys, label=f"iteration {entry[0]}", **style)
                if which == 2:
                    best = int(np.argmax(ys))
                    axis.plot(xs[best], ys[best], "o", markersize=11, markerfacecolor="none",
                              markeredgecolor=style["color"], clip_on=False)  # fmt: skip
            axis.set_title(name)
            axis.set_xlabel("training step")
            axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if which == 1:
                axis.set_ylabel("nats per token")
                if axis.dataLim.y0 >= 0:  # below with negative weights, as in TRICE
                    axis.set_ylim(bottom=0)
            else:
                plotting.percent_axis(axis, "mean greedy reward")
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows = []
    for n, loss, reward in found:
        step, best = max(reward, key=lambda pair: pair[1], default=(None, None))
        ends = [round(y, 4) for _, y in (loss[0], loss[-1])] if loss else [None, None]
        step = None if step is None else int(step)
        rows.append((n, len(loss), *ends, step, plotting.percent(best)))
    return Chart(
        f"m_step{suffix}", title, "",
        "Left: reward-weighted negative log-likelihood (equation 3). Right: mean reward of greedy"
        " answers to validation problems, which decides when to stop (Algorithm 1); a ring marks"
        " the best.",
        draw,
        ("iteration", "losses logged", "first loss", "last loss", "best step", "best validation"),
        tuple(rows),
    )  # fmt: skip

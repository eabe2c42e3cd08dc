"""Figures of one run's samples: their outcomes, problems solved, lengths and rewards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from restem.evaluation import metrics
from restem.report import plotting
from restem.report.plotting import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILION,
    Chart,
    Missing,
)
from restem.run.reader import StoredRun, number
from restem.run.sample_stats import NEVER, SampleStats

BUCKETS: tuple[tuple[str, str, str, str | None], ...] = (
    ("truncated", "cut off", MUTED, None),
    ("unformatted", "no answer", VERMILION, "\\\\\\"),
    ("rejected", "rejected", ORANGE, None),
    ("duplicate", "duplicate", PURPLE, "///"),
    ("over_cap", "over the cap", SKY, None),
    ("over_total", "over the total", SKY, "xxx"),
    ("kept", "kept", BLUE, None),
)
"""(name in selection.json, name on the page, colour, hatch), in the order in which a sample can
fail, the training examples last."""

HUMAN = "The run trains on human solutions: its policy samples nothing."
"""Why figures of a policy's samples are left out."""

BLIND = "The run compares no sample with a gold answer."
"""Why figures of correct samples are left out."""


def funnel(selection: Mapping) -> dict[str, int]:
    """Returns the number of samples in each bucket, by its name on the page, without empty ones."""
    buckets = selection.get("buckets")
    buckets = buckets if isinstance(buckets, Mapping) else {}
    counts = {label: number(buckets.get(name)) for name, label, *_ in BUCKETS}
    return {label: int(count) for label, count in counts.items() if count}


def where_samples_went(run: StoredRun, suffix: str) -> Chart | Missing:
    title = "Where the samples went"
    found = [(i.number, funnel(i.selection)) for i in run.iterations]
    shown = [(n, counts) for n, counts in found if counts]
    if not shown:
        return Missing(title, "", "No selection is finished yet (selection.json).")

    def draw(narrow: bool) -> Figure:
        figure, (axis,) = plotting.panels(narrow, 1, height=1.25 + 0.42 * len(shown))
        most = max(sum(counts.values()) for _, counts in shown)
        for y, (_, counts) in enumerate(shown):
            left = 0
            for _, label, color, hatch in BUCKETS:
                count = counts.get(label, 0)
                if not count:
                    continue
                axis.barh(y, count, 0.7, left, color=color, edgecolor=PAPER, hatch=hatch)
                if count > (0.09 if narrow else 0.05) * most:
                    axis.annotate(
                        f"{count:,}", (left + count / 2, y), ha="center", va="center", fontsize=8,
                        color=INK, bbox={"boxstyle": "round,pad=0.18", "fc": PAPER, "ec": "none"},
                    )  # fmt: skip
                left += count
        axis.set_yticks(range(len(shown)), [f"iteration {n}" for n, _ in shown])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", color=plotting.RULE, linewidth=0.7)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_xlabel("samples")
        handles = [
            Patch(facecolor=color, edgecolor=PAPER, hatch=hatch, label=label)
            for _, label, color, hatch in BUCKETS
            if any(counts.get(label) for _, counts in shown)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if narrow else 6,
                      columnspacing=1.2, handlelength=1.4)  # fmt: skip
        return figure

    rows = []
    for n, counts in shown:
        total = sum(counts.values())
        for label, count in counts.items():
            rows.append((n, label, count, plotting.percent(count / total)))
    return Chart(
        f"where_samples_went{suffix}", title, "",
        "Every sample of an E-step is in exactly one bucket: the first reason that excluded it from"
        " the training set, or kept. Rejected: incorrect, or rejected by the method.", draw,
        ("iteration", "bucket", "samples", "share"), tuple(rows),
    )  # fmt: skip


def solved_problems(
    run: StoredRun, samples: Mapping[int, SampleStats], suffix: str
) -> Chart | Missing:
    title = "Problems solved"
    if run.trains_on_human_solutions:
        return Missing(title, "", HUMAN)
    if run.grades_without_gold:
        return Missing(title, "", BLIND)
    verified = {n: stats for n, stats in sorted(samples.items()) if stats.problems}
    if not verified:
        return Missing(title, "", "No verified samples yet.")
    ever = np.zeros(0, np.uint64)
    rows = []
    shares: dict[int, list[float]] = {}
    groups = (NEVER, *metrics.DIFFICULTIES[::-1])
    for n, stats in verified.items():
        ever = np.union1d(ever, stats.solved)
        counts = [stats.difficulties[group] for group in groups]
        shares[n] = [count / stats.problems for count in counts]
        rows.append((n, stats.problems, len(stats.solved), len(ever), *counts))

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, 2)
        numbers = [row[0] for row in rows]
        axes[0].plot(numbers, [r[2] for r in rows], label="solved", **plotting.series(0))
        axes[0].plot(numbers, [r[3] for r in rows], label="ever solved", **plotting.series(1))
        # A single iteration has no line, so each has a dash as well.
        axes[0].plot(numbers, [r[1] for r in rows], label="sampled", color=MUTED, linewidth=1,
                     marker="_", markersize=10)  # fmt: skip
        # With mini-batches, more problems are solved in time than an iteration samples.
        axes[0].set_ylim(0, max(max(r[1], r[3]) for r in rows) * 1.08)
        axes[0].set_title("Solved at least once")
        axes[0].set_ylabel("training problems")
        axes[0].legend(loc="upper left", bbox_to_anchor=(0.0, -0.27), borderaxespad=0.0,
                       ncols=1 if narrow else 2, handlelength=1.8, columnspacing=1.0)  # fmt: skip
        plotting.whole_ticks(axes[0], numbers)
        axes[0].set_xlabel("iteration sampled")
        looks = ((MUTED, None), (VERMILION, "\\\\\\"), (ORANGE, None), (SKY, "///"), (BLUE, None))
        bottom = np.zeros(len(numbers))
        for column, (group, (color, hatch)) in enumerate(zip(groups, looks, strict=True)):
            heights = np.array([shares[n][column] for n in numbers])
            axes[1].bar(numbers, heights, 0.7, bottom, color=color, hatch=hatch, edgecolor=PAPER,
                        label=group)  # fmt: skip
            bottom += heights
        axes[1].set_title("By success rate of their samples")
        plotting.percent_axis(axes[1], "share of problems")
        plotting.whole_ticks(axes[1], numbers)
        axes[1].set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
        axes[1].set_xlabel("iteration sampled")
        handles, labels = axes[1].get_legend_handles_labels()
        axes[1].legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5),
                       handlelength=1.4)  # fmt: skip
        return figure

    return Chart(
        f"solved_problems{suffix}", title, "",
        f"Training problems that an iteration sampled, and those with a correct sample by"
        f" {sampler(run)}, in this iteration or ever so far. Right: problems by the success rate of"
        " these samples; easy from 75%, medium 50 to 75%, hard 25 to 50%, very hard below 25%,"
        " never 0.", draw,
        ("iteration", "problems", "solved", "ever solved", *groups), tuple(rows),
    )  # fmt: skip


def lengths(run: StoredRun, samples: Mapping[int, SampleStats], suffix: str) -> Chart | Missing:
    title = "Length of the samples"
    if run.trains_on_human_solutions:
        return Missing(title, "", HUMAN)
    numbers = plotting.spread([n for n in sorted(samples) if samples[n].lengths], 4)
    if not numbers:
        return Missing(title, "", "No samples with token ids yet.")
    kinds = (("correct", BLUE, "-"), ("incorrect", ORANGE, (0, (4, 1.2))),
             ("unverified", PURPLE, (0, (6, 1.5, 1.5, 1.5))),
             ("cut off", MUTED, (0, (1.2, 1.2))))  # fmt: skip
    shown = {"incorrect": "not compared with gold"} if run.grades_without_gold else {}

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(numbers), height=2.2, share_y=True)
        longest = max(samples[n].longest() for n in numbers)
        bins = np.linspace(0, longest + 1, min(30, longest + 1) + 1)
        for axis, n in zip(axes, numbers, strict=True):
            for name, color, dash in kinds:
                by_length = samples[n].lengths.get(name)
                if by_length is not None:
                    counts, _ = np.histogram(np.arange(len(by_length)), bins, weights=by_length)
                    axis.stairs(counts, bins, color=color, linestyle=dash, linewidth=1.7,
                                label=shown.get(name, name), fill=False)  # fmt: skip
                    axis.stairs(counts, bins, color=color, alpha=0.15, fill=True)
            axis.set_title(f"Iteration {n}")
            axis.set_xlabel("tokens")
            if narrow or axis is axes[0]:
                axis.set_ylabel("samples")
        plotting.legend_above(figure, axes, narrow)
        return figure

    rows = []
    for n in numbers:
        for name, *_ in kinds:
            by_length = samples[n].lengths.get(name)
            if by_length is not None:
                count = int(by_length.sum())
                mean = int(by_length @ np.arange(len(by_length))) / count
                low, middle, high = (int(quantile(by_length, q)) for q in (0.1, 0.5, 0.9))
                rows.append((n, shown.get(name, name), count, round(mean, 1), low, middle, high))
    return Chart(
        f"lengths{suffix}", title, "",
        f"Tokens per sample by {sampler(run)}, by outcome. A peak at the right edge consists of"
        " samples cut off at the length limit.", draw,
        ("iteration", "samples", "count", "mean", "10th percentile", "median", "90th percentile"),
        tuple(rows),
    )  # fmt: skip


def sampler(run: StoredRun) -> str:
    """Returns in words which policy writes the samples of an iteration."""
    return "the teacher" if run.teacher else "the policy that the iteration started from"


def quantile(counts: np.ndarray, q: float) -> float:
    """Returns a quantile of whole numbers, interpolated linearly, as `numpy.quantile` does.

    Args:
      counts: how often each number from 0 on occurs, [n] int.
      q: the quantile, from 0 to 1.
    """
    ends = np.cumsum(counts)
    place = (int(ends[-1]) - 1) * q
    low, high = np.searchsorted(ends, [np.floor(place), np.ceil(place)], side="right").tolist()
    share = place - np.floor(place)
    # From the nearer end, which rounds as numpy does.
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def rewards(run: StoredRun, samples: Mapping[int, SampleStats], suffix: str) -> Chart | Missing:
    title = "Rewards"
    if run.grades_without_gold:
        return Missing(title, "", BLIND)
    values = {n: stats.rewards for n, stats in sorted(samples.items()) if stats.rewards}
    if not values:
        return Missing(title, "", "No verified samples yet.")
    distinct = sorted(set().union(*values.values()))
    if len(distinct) <= 6:
        labels = [f"{value:g}" for value in distinct]
        count = lambda r: [r[value] for value in distinct]
    else:
        edges = np.linspace(min(0.0, distinct[0]), distinct[-1], 11)
        labels = [f"{a:.2g} to {b:.2g}" for a, b in itertools.pairwise(edges)]
        count = lambda r: np.histogram([*r], edges, weights=[*r.values()])[0].tolist()
    numbers = plotting.spread(list(values), 6)

    def draw(narrow: bool) -> Figure:
        figure, (axis,) = plotting.panels(narrow, 1, height=2.4)
        width = 0.84 / len(numbers)
        hatches = (None, "///", "\\\\\\", "xxx", "---", "|||")
        for index, n in enumerate(numbers):
            xs = [x + (index - (len(numbers) - 1) / 2) * width for x in range(len(labels))]
            shares = [c / values[n].total() for c in count(values[n])]
            bars = axis.bar(xs, shares, width * 0.94, label=f"iteration {n}", edgecolor=PAPER,
                            color=plotting.COLORS[index], hatch=hatches[index])  # fmt: skip
            if len(labels) * len(numbers) <= 12:
                axis.bar_label(
                    bars, [plotting.percent(s, 0) for s in shares], fontsize=8, padding=2
                )
        axis.set_xticks(range(len(labels)), labels, rotation=35 if len(labels) > 6 else 0)
        axis.set_xlabel("reward")
        plotting.percent_axis(axis, "share of samples")
        plotting.legend_above(figure, [axis], narrow)
        return figure

    rows = tuple(
        (n, label, c, plotting.percent(c / values[n].total()))
        for n in numbers
        for label, c in zip(labels, count(values[n]), strict=True)
    )
    return Chart(
        f"rewards{suffix}", title, "", "Rewards of the verified samples of each E-step.", draw,
        ("iteration", "reward", "samples", "share"), rows,
    )  # fmt: skip

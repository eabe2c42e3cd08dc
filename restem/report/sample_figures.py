"""Figures of one run's samples: their outcomes, problems solved, lengths and rewards."""

from __future__ import annotations

import functools
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
from restem.run.sample_table import SampleTable

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


def success_rates(samples: SampleTable) -> dict[str, float]:
    """Returns the share of correct samples of each problem, among verified ones."""
    known = ~np.isnan(samples.reward)
    ids, inverse = np.unique(samples.problem_id[known].astype(str), return_inverse=True)
    right = np.bincount(inverse, samples.correct[known], minlength=len(ids))
    return dict(zip(ids.tolist(), (right / np.bincount(inverse)).tolist(), strict=True))


def solved_problems(
    run: StoredRun, samples: Mapping[int, SampleTable], suffix: str
) -> Chart | Missing:
    title = "Problems solved"
    rates = {n: success_rates(table) for n, table in sorted(samples.items())}
    rates = {n: of for n, of in rates.items() if of}
    if not rates:
        return Missing(title, "", "No verified samples yet.")
    ever: set[str] = set()
    rows = []
    shares: dict[int, list[float]] = {}
    groups = ("never", *metrics.DIFFICULTIES[::-1])
    for n, of in rates.items():
        solved = {p for p, rate in of.items() if rate > 0}
        ever |= solved
        names = metrics.difficulty(list(of.values()))
        buckets = [name if rate else "never" for rate, name in zip(of.values(), names, strict=True)]
        counts = [buckets.count(group) for group in groups]
        shares[n] = [count / len(of) for count in counts]
        rows.append((n, len(of), len(solved), len(ever), *counts))

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, 2)
        numbers = [row[0] for row in rows]
        axes[0].plot(numbers, [r[2] for r in rows], label="this iteration", **plotting.series(0))
        axes[0].plot(numbers, [r[3] for r in rows], label="ever so far", **plotting.series(1))
        axes[0].axhline(max(r[1] for r in rows), color=MUTED, linewidth=1, label="problems sampled")
        axes[0].set_ylim(0, max(r[1] for r in rows) * 1.08)
        axes[0].set_title("Solved at least once")
        axes[0].set_ylabel("training problems")
        axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=1 if narrow else 3,
                       handlelength=1.8, columnspacing=1.0)  # fmt: skip
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
        "Training problems with at least one correct sample, by the policy that the iteration"
        " started from. Right: problems by the success rate of these samples; easy from 75%, medium"
        " 50 to 75%, hard 25 to 50%, very hard below 25%, never 0.", draw,
        ("iteration", "problems", "solved", "ever solved", *groups), tuple(rows),
    )  # fmt: skip


def lengths(run: StoredRun, samples: Mapping[int, SampleTable], suffix: str) -> Chart | Missing:
    title = "Length of the samples"
    numbers = [n for n in plotting.spread(sorted(samples), 4) if len(samples[n])]
    if not numbers:
        return Missing(title, "", "No samples yet.")
    kinds = (("correct", BLUE, "-"), ("incorrect", ORANGE, (0, (4, 1.2))),
             ("cut off", MUTED, (0, (1.2, 1.2))))  # fmt: skip

    @functools.cache
    def split(n: int) -> dict[str, np.ndarray]:
        table = samples[n]
        cut = table.finish_reason == "length"
        right = table.correct > 0
        return {
            "correct": table.tokens[right & ~cut],
            "incorrect": table.tokens[~right & ~cut],
            "cut off": table.tokens[cut],
        }

    def draw(narrow: bool) -> Figure:
        figure, axes = plotting.panels(narrow, len(numbers), height=2.2, share_y=True)
        longest = max(int(samples[n].tokens.max()) for n in numbers)
        bins = np.linspace(0, longest + 1, min(30, longest + 1) + 1)
        for axis, n in zip(axes, numbers, strict=True):
            for name, color, dash in kinds:
                values = split(n)[name]
                if len(values):
                    counts, _ = np.histogram(values, bins)
                    axis.stairs(counts, bins, color=color, linestyle=dash, linewidth=1.7,
                                label=name, fill=False)  # fmt: skip
                    axis.stairs(counts, bins, color=color, alpha=0.15, fill=True)
            axis.set_title(f"Iteration {n}")
            axis.set_xlabel("tokens")
            if narrow or axis is axes[0]:
                axis.set_ylabel("samples")
        full = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
        plotting.legend_above(figure, full, narrow)
        return figure

    rows = []
    for n in numbers:
        for name, *_ in kinds:
            values = split(n)[name]
            if len(values):
                low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
                rows.append((n, name, len(values), round(float(values.mean()), 1),
                             int(low), int(middle), int(high)))  # fmt: skip
    return Chart(
        f"lengths{suffix}", title, "",
        "Tokens per sample, by outcome. A peak at the right edge consists of samples cut off at the"
        " length limit.", draw,
        ("iteration", "samples", "count", "mean", "10th percentile", "median", "90th percentile"),
        tuple(rows),
    )  # fmt: skip


def rewards(run: StoredRun, samples: Mapping[int, SampleTable], suffix: str) -> Chart | Missing:
    title = "Rewards"
    values = {n: t.reward[~np.isnan(t.reward)] for n, t in sorted(samples.items())}
    values = {n: r for n, r in values.items() if len(r)}
    if not values:
        return Missing(title, "", "No verified samples yet.")
    distinct = np.unique(np.concatenate(list(values.values())))
    if len(distinct) <= 6:
        labels = [f"{value:g}" for value in distinct]
        count = lambda r: [int(np.sum(r == value)) for value in distinct]
    else:
        edges = np.linspace(min(0.0, float(distinct[0])), float(distinct[-1]), 11)
        labels = [f"{a:.2g} to {b:.2g}" for a, b in itertools.pairwise(edges)]
        count = lambda r: np.histogram(r, edges)[0].tolist()
    numbers = plotting.spread(list(values), 6)

    def draw(narrow: bool) -> Figure:
        figure, (axis,) = plotting.panels(narrow, 1, height=2.4)
        width = 0.84 / len(numbers)
        hatches = (None, "///", "\\\\\\", "xxx", "---", "|||")
        for index, n in enumerate(numbers):
            xs = [x + (index - (len(numbers) - 1) / 2) * width for x in range(len(labels))]
            shares = [c / len(values[n]) for c in count(values[n])]
            bars = axis.bar(xs, shares, width * 0.94, label=f"iteration {n}", edgecolor=PAPER,
                            color=plotting.SERIES[index][0], hatch=hatches[index])  # fmt: skip
            if len(labels) * len(numbers) <= 12:
                axis.bar_label(
                    bars, [plotting.percent(s, 0) for s in shares], fontsize=8, padding=2
                )
        axis.set_xticks(range(len(labels)), labels, rotation=35 if len(labels) > 6 else 0)
        axis.set_xlabel("reward")
        plotting.percent_axis(axis, "share of samples")
        plotting.legend_above(figure, axis, narrow)
        return figure

    rows = tuple(
        (n, label, c, plotting.percent(c / len(values[n])))
        for n in numbers
        for label, c in zip(labels, count(values[n]), strict=True)
    )
    return Chart(
        f"rewards{suffix}", title, "", "Rewards of the verified samples of each E-step.", draw,
        ("iteration", "reward", "samples", "share"), rows,
    )  # fmt: skip

"""The style of figures, and the data that the page needs for each.

The colours are those of Okabe and Ito (2008), which remain distinct under common colour blindness.
They are never the only difference: lines also differ in marker and dash, bars in position, label
and hatch.
Every figure is drawn twice, wide (for a page and print) and narrow (for a phone), and comes with
its numbers as a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

# Okabe-Ito without its yellow, which is invisible on white. The page maps each colour to a variable
# of its theme.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
ORANGE, SKY, PURPLE = "#e69f00", "#56b4e9", "#cc79a7"
INK, MUTED, RULE, PAPER = "#1b1f24", "#5b636d", "#d9dde2", "#fefefe"
THEMED = {
    INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", BLUE: "blue",
    VERMILION: "vermilion", GREEN: "green", ORANGE: "orange", SKY: "sky", PURPLE: "purple",
}  # fmt: skip
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[str | tuple, ...] = (
    "-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)),
)  # fmt: skip
"""Looks of the first, second, ... line of a figure. The three numbers of looks have no common
divisor, so that of 30 lines any two differ in two of colour, marker and dash."""

Cell = str | float | int | None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure that has data."""

    key: str
    """Name of its files without their suffixes."""
    title: str
    mirrors: str
    """"Figure 4" of the paper; "" if the paper has none like it."""
    caption: str
    """What is plotted, and how to read it."""
    draw: Callable[[bool], Figure]
    """Draws the figure; True asks for the narrow form."""
    columns: tuple[str, ...]
    """Header of its table of numbers."""
    rows: tuple[tuple[Cell, ...], ...]


@dataclasses.dataclass(frozen=True)
class Missing:
    """A figure that lacks data."""

    title: str
    mirrors: str
    reason: str
    """Missing data, and how to obtain it."""


def series(index: int) -> dict:
    """Returns the line style of a series, as keyword arguments of `Axes.plot`."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.8, "markersize": 5.5, "markeredgecolor": PAPER, "markeredgewidth": 0.8,
    }  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Sets up Matplotlib for the report while figures are drawn and written."""
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "restem",
        # Labels contain names of tasks and folders, so a dollar sign does not start a formula.
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.labelsize": 9,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "text.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 2.6,
        "hatch.linewidth": 0.7,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(settings):
        yield


def panels(
    narrow: bool, count: int, *, height: float = 2.7, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of panels, side by side in the wide form, stacked in the narrow one.

    Args:
      narrow: make the figure 3.6 inches wide, instead of 7.2.
      count: number of panels.
      height: height of one panel in inches.
      share_y: whether the panels share one vertical scale.
    """
    columns = 1 if narrow else min(count, 2 if count % 3 else 3)
    rows = math.ceil(count / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(3.6 if narrow else 7.2, height * rows), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        axis.grid(axis="y", color=RULE, linewidth=0.7)
    return figure, axes[:count]


def percent_axis(axis: Axes, label: str = "", *, horizontal: bool = False) -> None:
    """Shows the fractions of an axis as percentages."""
    which = axis.xaxis if horizontal else axis.yaxis
    which.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    which.set_major_formatter(lambda value, _: f"{round(100 * value, 6) + 0.0:g}%")
    if label:
        (axis.set_xlabel if horizontal else axis.set_ylabel)(label)


def whole_ticks(axis: Axes, numbers: Sequence[int]) -> None:
    """Sets a tick at every iteration, or at regular ones if there are many."""
    numbers = sorted(set(numbers))
    step = math.ceil(len(numbers) / 10) or 1
    axis.set_xticks(numbers[::step], [str(n) for n in numbers[::step]])
    if numbers:
        axis.set_xlim(numbers[0] - 0.25, numbers[-1] + 0.25)


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """Returns a limited number of the numbers: the first, the last, and others evenly between."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most)]


def legend_above(figure: Figure, axes: Sequence[Axes], narrow: bool) -> None:
    """Draws one legend for all panels, above them, so that it covers no data.

    A name that several panels use stands for the same look in each, and appears once.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    handles, labels = list(found.values()), list(found)
    if len(labels) > 1:
        across = 2 if narrow else 4
        if max(map(len, labels)) > 22:
            across = 1 if narrow else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=min(across, len(labels)))


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a fraction as a percentage; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def svg(figure: Figure) -> str:
    """Returns the figure as the text of an SVG file."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": "restem"})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG on white, at 200 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=200, facecolor="white", metadata={"Software": "restem"}
    )
    return buffer.getvalue()


def inline(text: str, prefix: str, title: str) -> str:
    """Returns the text of an SVG file as an element of the page.

    Its identifiers get a prefix, since Matplotlib uses the same ones in every figure; its colours
    become variables of the theme, its fonts those of the page.
    """
    body = text[text.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid="|href="#|url\(#)', lambda m: f"{m.group(1)}{prefix}-", body)
    body = re.sub(r"#[0-9a-fA-F]{6}\b", _themed, body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"<[^>]+>", _rounded, body)
    body = re.sub(r"\n\s+", "\n", body)
    head = re.search(r'viewBox="([^"]+)"', body)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{head.group(1)}" role="img" aria-label="{escape(title)}">'
    )
    return opening + body[body.index(">") + 1 :]


def _rounded(tag: re.Match[str]) -> str:
    """Returns a tag with coordinates rounded to 0.01 points, which halves the size of the page."""
    return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m.group()):.2f}", tag.group())


def _themed(match: re.Match[str]) -> str:
    name = THEMED.get(match.group().lower())
    return f"var(--{name})" if name else match.group()

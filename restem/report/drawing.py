"""Drawing of a report's figures, and their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from restem.report import page, paper_figures, plotting, run_figures
from restem.report.plotting import Chart, Missing
from restem.run.reader import StoredRun
from restem.run.sample_stats import SampleStats
from restem.runtime import storage


@plotting.style()
def draw_sections(
    runs: Sequence[StoredRun], stats: Sequence[Mapping[int, SampleStats]], folder: epath.Path
) -> tuple[list[page.Section], list[Missing]]:
    """Draws all figures into `folder`; returns them by section, and those that lack data.

    Args:
      runs: runs of the report.
      stats: for each run, counts of the samples of each iteration that has any.
      folder: folder of the figures.
    """
    paper, missing = draw_all(paper_figures.charts(runs), folder)
    lead = "Drawn as in arXiv 2312.06585. “The numbers” opens the table of a figure."
    sections = [page.Section("paper", "The paper's figures", lead, paper)]
    several = len(runs) > 1
    for index, (run, found) in enumerate(zip(runs, stats, strict=True), start=1):
        charts = run_figures.charts(run, found, f"_{index}" if several else "")
        drawings, left_out = draw_all(charts, folder)
        missing += [m for m in left_out if m not in missing]
        sections.append(
            page.Section(
                f"run-{index}" if several else "run",
                f"Inside {run.label}" if several else "Inside the run",
                f"What the paper does not show: {run.task}, {run.model or 'unknown model'}.",
                drawings,
            )
        )
    return sections, missing


def draw_all(
    charts: Iterable[Chart | Missing], folder: epath.Path
) -> tuple[list[page.Drawing], list[Missing]]:
    """Draws charts into `folder`; returns them, and those that lack data."""
    drawings, missing = [], []
    for chart in charts:
        if isinstance(chart, Missing):
            missing.append(chart)
        else:
            drawings.append(draw(chart, folder))
    return drawings, missing


@plotting.style()
def draw_hero(runs: Sequence[StoredRun]) -> page.Drawing | None:
    """Draws the curve beside the headline; None if there are fewer than two points."""
    curve = paper_figures.pass1_over_iterations(runs, tasks=[runs[0].task])
    if isinstance(curve, Chart) and len(curve.rows) > 1:
        return draw(curve, None)
    return None


def draw(chart: Chart, folder: epath.Path | None) -> page.Drawing:
    """Draws a chart in both forms, and writes the files of the wide one if a folder is given."""
    wide = ""
    if folder is not None:
        figure = chart.draw(False)
        text = plotting.svg(figure)
        figure.set_layout_engine("none")  # the layout is computed now; once is enough
        image = plotting.png(figure)
        storage.write_bytes(folder / f"{chart.key}.svg", text.encode("utf-8", "replace"))
        storage.write_bytes(folder / f"{chart.key}.png", image)
        wide = plotting.inline(text, f"{chart.key}-wide", chart.title)
    prefix = f"{chart.key}-narrow" if folder is not None else f"{chart.key}-first"
    narrow = plotting.inline(plotting.svg(chart.draw(True)), prefix, chart.title)
    return page.Drawing(chart, wide, narrow)

"""The paper's figures and tables from the files of runs, as one page.

`report` reads what the other steps wrote and nothing else: no model, no network, no JAX. A run in
progress reports what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import gin
from etils import epath

import restem
from restem.errors import UserError
from restem.runtime import storage


@gin.configurable
def report(
    *,
    workdirs: Sequence[str],
    output: str | None = None,
    labels: Sequence[str] | None = None,
    max_samples: int = 400,
    max_characters: int = 4000,
    texts: bool = True,
) -> str:
    """Writes `index.html` and `figures/*.svg|png`.

    The page is one self-contained file. Several workdirs are compared in it, each also on its own;
    the first gives the headline.

    Args:
      workdirs: folders of runs, finished or not.
      output: folder of the report; None: `report/` in the first workdir.
      labels: what the figures call the runs; None: their methods where these are known and differ,
        else their folders' names.
      max_samples: most samples that the page carries for its browser.
      max_characters: most characters of one text there.
      texts: False leaves out problems and samples, for a page that may be published where the data
        set may not.

    Returns:
      The path of index.html.

    Raises:
      UserError: no workdir, one that is no run's, a file of it that cannot be read, or another
        number of labels than of workdirs.
    """
    # Matplotlib takes a second to import: only this step needs it.
    from restem.report import browser, page, paper_figures, plotting, results, run_figures
    from restem.report.runs import read_run

    if isinstance(workdirs, str) or not workdirs:
        raise UserError("report: name at least one workdir: `restem report DIR [DIR ...]`")
    if labels is not None and len(labels) != len(workdirs):
        raise UserError(f"report: {len(labels)} labels for {len(workdirs)} workdirs")
    names = list(labels) if labels is not None else [None] * len(workdirs)
    runs = [read_run(path, name) for path, name in zip(workdirs, names, strict=True)]
    runs = distinguish(runs if labels is not None else by_method(runs))
    folder = epath.Path(output) if output is not None else runs[0].path / "report"

    tables = []
    for run in runs:
        sampled = ((i.number, i.samples()) for i in run.iterations)
        tables.append({n: table for n, table in sampled if table is not None})

    limit = max_samples if texts else 0
    embedded = browser.embed(runs, tables, limit=limit, characters=max_characters)

    with plotting.house_style():
        missing: list[plotting.Missing] = []

        def drawn(charts) -> list[page.Drawing]:
            drawings = []
            for chart in charts:
                if isinstance(chart, plotting.Missing):
                    if chart not in missing:
                        missing.append(chart)
                else:
                    drawings.append(draw(chart, folder / "figures"))
            return drawings

        sections = [
            page.Section(
                "paper",
                "The paper's figures",
                "Drawn as in arXiv 2312.06585. “The numbers” opens a figure's table.",
                drawn(paper_figures.charts(runs)),
            )
        ]
        for index, (run, found) in enumerate(zip(runs, tables, strict=True)):
            several = len(runs) > 1
            sections.append(
                page.Section(
                    f"run-{index + 1}" if several else "run",
                    f"Inside {run.label}" if several else "Inside the run",
                    f"What the paper does not show: {run.task}, {run.model or 'unknown model'}.",
                    drawn(run_figures.charts(run, found, f"_{index + 1}" if several else "")),
                )
            )
        curve = paper_figures.pass1_over_iterations(runs, tasks=[runs[0].task])
        hero = None
        if isinstance(curve, plotting.Chart) and len(curve.rows) > 1:
            hero = draw(curve, None)

    run = runs[0]
    facts = [run.model, f"seed {run.seed}" if run.seed is not None else "", run.method]
    if run.in_progress:
        facts.append("in progress")
    if len(runs) > 1:
        facts.insert(0, f"{run.label} (first of {len(runs)} runs)")
    text = page.render(
        title=f"{run.task}: {run.label}" if len(runs) == 1 else f"{len(runs)} runs on {run.task}",
        subtitle=" · ".join(filter(None, facts)),
        headline=results.headline(runs),
        hero=hero,
        sections=sections,
        missing=missing,
        embedded=embedded,
        contamination=[(run.label, run.contamination) for run in runs if run.contamination],
        texts=texts,
        identities=[(run.label, dict(run.identity)) for run in runs if run.identity],
        version=restem.__version__,
    )
    index = folder / "index.html"
    storage.write_bytes(index, text.encode("utf-8", "replace"))
    return str(index)


def by_method(runs):
    """Labels the runs by their methods, where each has one of its own."""
    import dataclasses

    from restem.report.runs import printable

    methods = {run.method for run in runs}
    if len(runs) == 1 or len(methods) < len(runs) or "" in methods:
        return runs
    return [dataclasses.replace(run, label=printable(run.method)) for run in runs]


def distinguish(runs):
    """Runs of the same label get numbers, so that no two lines of a figure are called alike."""
    import dataclasses

    labels = [run.label for run in runs]
    result = []
    for index, run in enumerate(runs):
        if labels.count(run.label) > 1:
            position = labels[: index + 1].count(run.label)
            run = dataclasses.replace(run, label=f"{run.label} ({position})")
        result.append(run)
    return result


def draw(chart, folder):
    """Draws a chart in both forms; writes the wide one's files where a folder is given."""
    from restem.report import page, plotting

    wide = ""
    if folder is not None:
        figure = chart.draw(False)
        text = plotting.svg(figure)
        figure.set_layout_engine("none")  # It is laid out now: once is enough.
        image = plotting.png(figure)
        storage.write_bytes(folder / f"{chart.key}.svg", text.encode("utf-8", "replace"))
        storage.write_bytes(folder / f"{chart.key}.png", image)
        wide = plotting.inline(text, f"{chart.key}-wide", chart.title)
    prefix = f"{chart.key}-narrow" if folder is not None else f"{chart.key}-first"
    narrow = plotting.inline(plotting.svg(chart.draw(True)), prefix, chart.title)
    return page.Drawing(chart, wide, narrow)

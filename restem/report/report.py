"""The paper's figures and tables, drawn from the files of runs, as one page.

`report` reads only the files that the other steps wrote; it needs no model, network or JAX. It can
also report a run that is still in progress.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import gin
from etils import epath

import restem
from restem.errors import UserError
from restem.run.reader import StoredRun, printable, read_run
from restem.run.sample_stats import SampleStats
from restem.runtime import storage
from restem.runtime.checks import at_least

Stats = Sequence[Mapping[int, SampleStats]]
"""For each run, counts of the samples of each iteration that has any."""


@gin.configurable
def report(
    *,
    workdirs: Sequence[str],
    output: str | None = None,
    labels: Sequence[str] | None = None,
    max_samples: Annotated[int, at_least(0)] = 400,
    max_characters: Annotated[int, at_least(1)] = 4000,
    texts: bool = True,
) -> str:
    """Writes `index.html` and `figures/*.svg|png`; removes figures that only an earlier page had.

    The page is one self-contained file. It compares several workdirs and shows each on its own. The
    headline is that of the first.

    Args:
      workdirs: folders of runs, finished or not.
      output: folder of the report; None: `report/` in the first workdir.
      labels: names of the runs in the figures; None uses their methods if these are known and
        differ, else the names of their folders.
      max_samples: maximum number of samples that the page embeds for its sample browser.
      max_characters: maximum number of characters of one text there.
      texts: False leaves out problems and samples, so that the page may be published even if the
        data set may not.

    Returns:
      The path of index.html.

    Raises:
      UserError: if there is no workdir, one holds no run, a file in it cannot be read, or the
        numbers of labels and workdirs differ.
    """
    # Matplotlib takes a second to import, and only this step needs it.
    from restem.report import browser, drawing, headline, page

    runs = read_runs(workdirs, labels)
    folder = epath.Path(output) if output is not None else runs[0].files.report
    folder.mkdir(parents=True, exist_ok=True)  # before the drawing, if it cannot be written
    limit = max_samples if texts else 0
    stats = read_samples(runs, limit)
    embedded = browser.embed(runs, stats, limit=limit, characters=max_characters)
    sections, missing = drawing.draw_sections(runs, stats, folder / "figures")
    text = page.render(
        title=title(runs),
        subtitle=subtitle(runs),
        headline=headline.headline(runs),
        hero=drawing.draw_hero(runs),
        sections=sections,
        missing=missing,
        embedded=embedded,
        contamination=[(run.label, run.contamination) for run in runs if run.contamination],
        texts=texts,
        identities=[(run.label, dict(run.identity)) for run in runs if run.identity],
        version=restem.__version__,
    )
    index = folder / "index.html"
    earlier = index.read_bytes().decode("utf-8", "replace") if index.exists() else ""
    storage.write_bytes(index, text.encode("utf-8", "replace"))
    for name in linked_figures(earlier) - linked_figures(text):
        (folder / "figures" / name).unlink(missing_ok=True)
    return str(index)


def linked_figures(page: str) -> set[str]:
    """Returns the names of the figure files that a page links to; none if it is no report.

    A report escapes angle brackets in texts, so none of them looks like a link.
    """
    is_report = "<footer>Written by restem " in page
    links = re.findall(r'<a href="figures/(\w+\.(?:svg|png))">', page)
    return set(links) if is_report else set()


def read_runs(workdirs: Sequence[str], labels: Sequence[str] | None) -> list[StoredRun]:
    """Returns the runs with distinct labels.

    Raises:
      UserError: see `report`.
    """
    if isinstance(workdirs, str) or not workdirs:
        raise UserError("report: name at least one workdir: `restem report DIR [DIR ...]`")
    if labels is None:
        return distinguish(by_method([read_run(path) for path in workdirs]))
    if len(labels) != len(workdirs):
        raise UserError(f"report: {len(labels)} labels for {len(workdirs)} workdirs")
    return distinguish([read_run(p, label) for p, label in zip(workdirs, labels, strict=True)])


def by_method(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Labels the runs by their methods, if all methods differ."""
    methods = {run.method for run in runs}
    if len(runs) == 1 or len(methods) < len(runs) or "" in methods:
        return list(runs)
    return [dataclasses.replace(run, label=printable(run.method)) for run in runs]


def distinguish(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Numbers runs with the same label, so that no two lines of a figure have the same name."""
    labels = [run.label for run in runs]
    taken = set(labels)
    result = []
    for run in runs:
        if labels.count(run.label) > 1:
            names = (f"{run.label} ({i})" for i in itertools.count(1))
            run = dataclasses.replace(run, label=next(n for n in names if n not in taken))
            taken.add(run.label)
        result.append(run)
    return result


def read_samples(runs: Sequence[StoredRun], most_shown: int) -> Stats:
    """Returns counts of the samples of every iteration of every run.

    Args:
      runs: the runs.
      most_shown: number of problems of which samples are kept to be shown.
    """
    sampled = [{i.number: i.samples(most_shown) for i in run.iterations} for run in runs]
    return [{n: s for n, s in found.items() if s is not None} for found in sampled]


def title(runs: Sequence[StoredRun]) -> str:
    """Returns the first heading of the page."""
    if len(runs) == 1:
        return f"{runs[0].task}: {runs[0].label}"
    tasks = list(dict.fromkeys(run.task for run in runs))
    named = " and ".join(filter(None, [", ".join(tasks[:-1]), tasks[-1]]))
    return f"{len(runs)} runs on {named if len(tasks) <= 3 else f'{len(tasks)} tasks'}"


def subtitle(runs: Sequence[StoredRun]) -> str:
    """Returns model, seed, method and state of the first run."""
    run = runs[0]
    facts = [run.model, f"seed {run.seed}" if run.seed is not None else "", run.method]
    if run.in_progress:
        facts.append("in progress")
    if len(runs) > 1:
        facts.insert(0, f"{run.label} (first of {len(runs)} runs)")
    return " · ".join(filter(None, facts))

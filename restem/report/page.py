"""The page: one HTML file that needs no network and runs no script except its own.

Text from a model, a task or a folder's name is escaped here, or embedded as JSON that the script
shows as text. A content security policy with the script's hash is the second barrier.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from restem.report.browser import Embedded
from restem.report.headline import Headline
from restem.report.plotting import Cell, Chart, Missing


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A chart in the two forms that the page shows."""

    chart: Chart
    wide: str
    """An SVG element."""
    narrow: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    anchor: str
    title: str
    lead: str
    drawings: Sequence[Drawing]


def render(
    *,
    title: str,
    subtitle: str,
    headline: Headline,
    hero: Drawing | None,
    sections: Sequence[Section],
    missing: Sequence[Missing],
    embedded: Embedded,
    contamination: Sequence[tuple[str, Mapping[str, Any]]],
    texts: bool,
    identities: Sequence[tuple[str, Any]],
    version: str,
) -> str:
    """Returns the page as text.

    Args:
      title: first heading.
      subtitle: model, seed and state of the run.
      headline: two numbers, a sentence and a table.
      hero: curve beside the headline.
      sections: sections of figures.
      missing: figures that lack data.
      embedded: samples to browse.
      contamination: (label, contents of contamination.json by task) of each run that was checked.
      texts: whether texts of problems may appear on the page.
      identities: (label, contents of run.json) of each run.
      version: version of restem.
    """
    script = asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    filled = [section for section in sections if section.drawings]
    links = [(section.anchor, section.title) for section in filled]
    if embedded.samples:
        links.append(("samples", "Samples"))
    if contamination:
        links.append(("contamination", "Contamination"))
    links.append(("about", "About"))
    nav = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in links)
    body = "\n".join(
        [
            _answer(title, subtitle, headline, hero),
            *map(_section, filled),
            _samples(embedded) if embedded.samples else "",
            _contamination(contamination, texts) if contamination else "",
            _about(missing, identities),
        ]
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escape(title)} · restem report</title>
<style>{asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#answer">Skip to the result</a>
<header><div class="bar"><strong>restem report</strong><nav aria-label="Sections">{nav}</nav>
<button id="theme" type="button" hidden>Light / dark</button></div></header>
<main>
{body}
</main>
<footer>Written by restem {escape(version)} from the files of the run alone. The method is ReST-EM,
arXiv 2312.06585; figure numbers are those of that paper.</footer>
<script>{script}</script>
</body>
</html>
"""


def asset(name: str) -> str:
    """Returns the text of a file beside this module."""
    return importlib.resources.files("restem.report").joinpath(name).read_text("utf-8")


def as_json(value: Any) -> str:
    """Returns JSON that is safe inside a <script> element: none of its characters ends it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate has no UTF-8 form. Parquet cannot hold one, but a JSON file can.
    return text.encode("utf-8", "replace").decode()


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    label: str,
    chosen: Sequence[int] = (),
) -> str:
    """Returns an HTML table; columns of words are aligned left, columns of numbers right."""
    words = [
        index > 0 and any(isinstance(c := row[index], str) and c[:1].isalpha() for row in rows)
        for index in range(len(columns))
    ]
    mark = lambda index: ' class="text"' if words[index] else ""
    head = "".join(f'<th scope="col"{mark(i)}>{escape(c)}</th>' for i, c in enumerate(columns))
    lines = []
    for number, row in enumerate(rows):
        cells = [f'<th scope="row">{escape(show(row[0]))}</th>']
        cells += [
            f'<td{mark(i)} data-column="{escape(columns[i])}">{escape(show(row[i]))}</td>'
            for i in range(1, len(row))
        ]
        style = ' class="chosen"' if number in chosen else ""
        lines.append(f"<tr{style}>{''.join(cells)}</tr>")
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def show(cell: Cell) -> str:
    """Returns a cell as text; a dash for None."""
    if cell is None:
        return "–"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _answer(title: str, subtitle: str, headline: Headline, hero: Drawing | None) -> str:
    numbers = ""
    if headline.after is not None:
        numbers = (
            f'<p class="headline"><span>{escape(headline.before)}</span>'
            f'<span class="to" aria-label="to"> → </span>'
            f'<span class="after {headline.change}">{escape(headline.after)}</span></p>'
        )
    elif headline.before:
        numbers = f'<p class="headline"><span>{escape(headline.before)}</span></p>'
    picture = ""
    if hero is not None:
        picture = f'<figure aria-label="{escape(hero.chart.title)}">{hero.narrow}</figure>'
    notes = "".join(f'<p class="note small">{escape(note)}</p>' for note in headline.notes)
    rows = ""
    found = headline.table
    if found.rows:
        rows = table(found.columns, found.rows, label="Results", chosen=found.chosen)
        note = f'<p class="small muted">{escape(found.caption)}</p>'
        rows = f'<div class="results">{note}{rows}</div>'
    return f"""<div class="answer" id="answer">
<div><h1>{escape(title)}</h1>
<p class="small muted">{escape(subtitle)}</p>
{numbers}
<p class="verdict">{escape(headline.sentence)}</p>
{notes}</div>
{picture}
{rows}
</div>"""


def _section(section: Section) -> str:
    figures = "\n".join(map(_figure, section.drawings))
    return f"""<section id="{section.anchor}"><h2>{escape(section.title)}</h2>
<p class="lead">{escape(section.lead)}</p>
<div class="figures">{figures}</div></section>"""


def _figure(drawing: Drawing) -> str:
    chart = drawing.chart
    numbers = table(chart.columns, chart.rows, label=chart.title)
    return f"""<figure class="figure" id="{chart.key}">
<header><h3>{escape(chart.title)}</h3>{_mirrors(chart.mirrors)}</header>
<div class="wide">{drawing.wide}</div><div class="narrow">{drawing.narrow}</div>
<figcaption><p>{escape(chart.caption)}</p>
<p class="files"><a href="figures/{chart.key}.svg">SVG</a> ·
<a href="figures/{chart.key}.png">PNG</a></p></figcaption>
<details><summary>The numbers</summary>{numbers}</details>
</figure>"""


def _mirrors(figure: str) -> str:
    return f'<span class="mirrors">{escape(figure)} of the paper</span>' if figure else ""


def _samples(embedded: Embedded) -> str:
    selects = "".join(
        f'<label>{name}<select id="filter-{key}"></select></label>'
        for key, name in (
            ("where", "From"),
            ("outcome", "Outcome"),
            ("reason", "Decided by"),
            ("reward", "Reward"),
        )
    )
    data = as_json(
        {
            "samples": embedded.samples,
            "questions": embedded.questions,
            "runs": embedded.runs,
        }
    )
    if len(embedded.samples) < embedded.total:
        bound = (
            f"This page carries {len(embedded.samples):,} of the {embedded.total:,} samples and"
            " greedy test answers: the same problems in every iteration, different outcomes first."
            " They are not a random draw, so their proportions mean nothing. The Parquet files hold"
            " all of them; colab/browse_samples.ipynb opens these files."
        )
    else:
        bound = f"All {embedded.total:,} samples and greedy test answers of the run."
    return f"""<section id="samples"><h2>Samples</h2>
<p class="lead">{bound}</p>
<noscript><p>Browsing the samples needs JavaScript; the rest of the page does not.</p></noscript>
<div id="browser" hidden>
<div class="filters">{selects}
<label>Problem or text<input id="filter-text" type="search" autocomplete="off"></label></div>
<p class="found" id="found" role="status" aria-live="polite"></p>
<div class="cards" id="cards"></div>
<button class="more" id="more" type="button" hidden>Show more</button>
</div>
<script type="application/json" id="sample-data">{data}</script></section>"""


def _contamination(checks: Sequence[tuple[str, Mapping[str, Any]]], texts: bool) -> str:
    """Returns the section on test problems that share words with training problems."""
    tasks = [(label, task, found) for label, of in checks for task, found in of.items()]
    counts = table(
        ("task", "run", "test problems", "overlapping", "share", "whole text"),
        [
            (task, label, f["num_test"], f["num_overlapping"], f"{f['fraction']:.1%}",
             f["num_equal"])
            for label, task, f in tasks
        ],
        label="Test problems that share words with training problems",
    )  # fmt: skip
    worst = "\n".join(
        f"<details><summary>Worst pairs of {escape(task)}, {escape(label)}</summary>"
        + table(
            ("test problem", "training problem", "share of its word runs", "words in common"),
            [(o["test_id"], o["train_id"], f"{o['fraction']:.0%}", o["shared"])
             for o in found["overlapping"]],
            label=f"Worst pairs of {task}",
        )
        + "</details>"
        for label, task, found in tasks
        if texts and found["overlapping"]
    )  # fmt: skip
    runs = sorted({found["n"] for _, _, found in tasks})
    lead = f"Test problems that share {' or '.join(map(str, runs))} words in a row with a training"
    return f"""<section id="contamination"><h2>Contamination</h2>
<p class="lead">{lead} problem, or are the same text.</p>
{counts}
{worst}</section>"""


def _about(missing: Sequence[Missing], identities: Sequence[tuple[str, Any]]) -> str:
    parts = ['<section id="about"><h2>About</h2>']
    if missing:
        items = "".join(
            f"<li><b>{escape(m.title)}</b> {_mirrors(m.mirrors)}<br>{escape(m.reason)}</li>"
            for m in missing
        )
        parts.append(f'<h3>Figures left out</h3><ul class="left-out">{items}</ul><br>')
    for label, identity in identities:
        text = json.dumps(identity, indent=2, sort_keys=True, ensure_ascii=False)
        parts.append(
            f"<details><summary>run.json of {escape(label)}</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )
    parts.append("</section>")
    return "\n".join(parts)

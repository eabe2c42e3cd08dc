"""Grading sheets, for tasks without an answer key that humans grade, such as the Hungarian exam.

An evaluation writes `evals/TASK.sheet.csv` for a spreadsheet, and `TASK.sheet.html`, which needs
only a browser and saves the same CSV. `restem score --grades=FILE.csv` adds the points up. A sheet
that humans have filled in is never lost: a new one takes its points over, or is refused.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from restem.errors import UserError
from restem.records import Problem, Sample, TaskCard
from restem.runtime import storage

COLUMNS = ("task", "problem_id", "points", "max_points", "comment", "problem", "completion")

ENTERED = ("points", "max_points", "comment")
"""Columns that humans fill in."""

_TOTALS = ("points", "max_points", "score", "graded")
"""Fields that `add_up` adds to the evaluation's JSON."""


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The grading sheet of an evaluation, before it is written."""

    stem: epath.Path
    """Path of the evaluation's files without their suffix."""
    task: str
    rows: Sequence[Mapping[str, Any]]
    """One row per problem for its first answer, with what humans entered before."""
    is_as_stored: bool = False
    """Whether the sheet in the folder has these rows and no others."""
    totals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What `add_up` added to the evaluation's JSON, if the sheet in the folder stays."""

    @classmethod
    def of(
        cls,
        stem: epath.Path,
        card: TaskCard,
        problems: Sequence[Problem],
        answers: Iterable[Sample],
    ) -> Sheet:
        """Returns the sheet of an evaluation; points of an earlier sheet for the same answers stay.

        Args:
          stem: path of the evaluation's files without their suffix.
          card: task card.
          problems: problems in the order of the sheet.
          answers: answers to the problems; sample 0 is graded.

        Raises:
          UserError: the folder has a sheet with points for other answers, or a file that is no
            sheet.
        """
        texts = {a.problem_id: a.text for a in answers if a.sample_index == 0}
        rows = [
            {
                "task": card.task,
                "problem_id": p.problem_id,
                "points": "",
                "max_points": p.metadata.get("max_points", ""),
                "comment": "",
                "problem": p.inputs,
                "completion": texts[p.problem_id],
            }
            for p in problems
            if p.problem_id in texts
        ]
        path = _path(stem)
        if not path.exists():
            return cls(stem, card.task, rows)
        stored = {row["problem_id"]: row for row in _stored(path)}
        same = {r["problem_id"] for r in rows if _is_same(r, stored.get(r["problem_id"], {}))}
        maxima = {p.problem_id: str(p.metadata.get("max_points", "")) for p in problems}
        lost = [
            name
            for name, row in stored.items()
            if name not in same and _is_filled_in(row, maxima.get(name, ""))
        ]
        if lost:
            shown = ", ".join(lost[:5]) + (" and more" if len(lost) > 5 else "")
            raise UserError(
                f"{path}: has points or comments for other answers ({shown}); move it to another"
                " folder, or write the new scores there"
            )
        rows = [
            {**r, **{n: stored[r["problem_id"]].get(n) or r[n] for n in ENTERED}}
            if r["problem_id"] in same
            else r
            for r in rows
        ]
        is_as_stored = len(same) == len(rows) == len(stored)
        evaluation = stem.parent / f"{stem.name}.json"
        if not (is_as_stored and evaluation.exists()):
            return cls(stem, card.task, rows, is_as_stored)
        before = storage.read_json(evaluation, remedy="remove it and run the command again")
        totals = {name: before[name] for name in _TOTALS if name in before}
        return cls(stem, card.task, rows, is_as_stored, totals)

    def write(self) -> dict[str, Any]:
        """Writes `STEM.sheet.csv` and `.html`.

        Returns:
          The fields that the evaluation's JSON has in place of pass@1.
        """
        sheet = _path(self.stem)
        if not self.is_as_stored:  # a spreadsheet may have added columns of its own
            # The mark at the start tells Excel the encoding.
            storage.write_bytes(sheet, _csv(self.rows).encode("utf-8-sig"))
        page = _html(self.task, self.rows)
        path = self.stem.parent / f"{self.stem.name}.sheet.html"
        storage.write_bytes(path, page.encode("utf-8", "replace"))
        return {
            "pass@1": None, "ci95": None, "correct": None, "mean_reward": None,
            "unformatted": None, "binary": None, "sheet": sheet.name, **self.totals,
        }  # fmt: skip


def _path(stem: epath.Path) -> epath.Path:
    return stem.parent / f"{stem.name}.sheet.csv"


def _is_same(row: Mapping[str, Any], stored: Mapping[str, str]) -> bool:
    """Returns whether two rows have the same problem and completion.

    Spreadsheets and browsers may have changed the white space, or the mark before a formula.
    """
    plain = lambda text: " ".join(text.removeprefix("'").split())
    return all(plain(row[n]) == plain(stored.get(n, "")) for n in ("problem", "completion"))


def _is_filled_in(row: Mapping[str, str], maximum: str) -> bool:
    """Returns whether humans have entered anything in a row, where `maximum` was there before."""
    return bool(row["points"] or row.get("comment") or row["max_points"] not in ("", maximum))


def add_up(path: epath.Path, output: epath.Path | None = None) -> dict[str, Any]:
    """Adds up the points of a filled-in sheet.

    Args:
      path: the CSV file, separated by commas, semicolons or tabs.
      output: folder of the evaluation's `TASK.json`; None is the folder of the sheet.

    Returns:
      `task`, `points`, `max_points`, `score` (points / max_points), `graded` (number of problems),
      and `stored` (the evaluation's file that was updated, or None if it does not exist).

    Raises:
      UserError: if the sheet does not exist, or rows lack points; names the rows.
    """
    rows = _stored(path)
    if not rows:
        raise UserError(f"{path}: has no rows, so no answer was graded")
    points, most = [], []
    blank = [row["problem_id"] for row in rows if not (row["points"] and row["max_points"])]
    if blank:
        raise UserError(
            f"{path}: no points or no max_points for {', '.join(blank[:20])}"
            f"{' and more' if len(blank) > 20 else ''}; fill in both, 0 where nothing is right"
        )
    for row in rows:
        points.append(_number(path, row, "points"))
        most.append(_number(path, row, "max_points"))
        if not 0 <= points[-1] <= most[-1]:
            raise UserError(
                f"{path}: {row['problem_id']} has {points[-1]:g} of {most[-1]:g} points"
            )
    if not sum(most):
        raise UserError(f"{path}: max_points are all 0")
    tasks = {row["task"] for row in rows}
    if len(tasks) != 1:
        raise UserError(f"{path}: holds the tasks {', '.join(sorted(tasks))}; a sheet has one")
    found: dict[str, Any] = {
        "points": sum(points),
        "max_points": sum(most),
        "score": sum(points) / sum(most),
        "graded": len(rows),
    }
    task = tasks.pop()
    evaluation = (output or path.parent) / f"{task}.json"
    stored = evaluation.exists()
    if stored:
        storage.write_json(evaluation, {**storage.read_json(evaluation), **found})
    return {"task": task, "stored": str(evaluation) if stored else None, **found}


def _stored(path: epath.Path) -> list[dict[str, str]]:
    """Returns the rows of a sheet that a human or a spreadsheet may have changed.

    The columns of problem and completion may be missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; an evaluation writes TASK.sheet.csv") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 ({e}); save it as CSV UTF-8") from e
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = list(reader)
    needed = COLUMNS[:4]
    is_sheet = set(needed) <= set(reader.fieldnames or ())
    if not is_sheet or any(row[name] is None for row in rows for name in needed):
        raise UserError(f"{path}: not a grading sheet; its columns are {', '.join(COLUMNS)}")
    return [{n: row[n].strip() for n in COLUMNS if row.get(n) is not None} for row in rows]


def _number(path: epath.Path, row: Mapping[str, str], name: str) -> float:
    try:
        return float(row[name].replace(",", "."))
    except ValueError:
        raise UserError(f"{path}: {row['problem_id']}: {name} is {row[name]!r}") from None


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _inert(str(value)) for name, value in row.items()})
    return file.getvalue()


def _inert(text: str) -> str:
    """Returns model text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
article{border-top:1px solid #999;padding:1rem 0}pre{white-space:pre-wrap;overflow-wrap:anywhere;
background:#f3f3f0;color:#111;padding:.8rem;margin:.4rem 0}input[type=number]{width:5rem}
input[type=text]{width:60%}footer{position:sticky;bottom:0;background:#fff;color:#111;
border-top:2px solid;padding:.6rem 0}"""

_SCRIPT = """'use strict';
const articles = [...document.querySelectorAll('article')];
const field = (a, n) => a.querySelector(`[name=${n}]`).value;
const sum = n => articles.reduce((s, a) => s + (Number(field(a, n)) || 0), 0);
function show() {
  const open = articles.filter(a => field(a, 'points') === '' || field(a, 'max_points') === '');
  document.getElementById('total').textContent =
    `${sum('points')} of ${sum('max_points')} points, ${open.length} problems open`;
}
const cell = t => '"' + String(t).replaceAll('"', '""') + '"';
const inert = t => /^[=+@\\t\\r-]/.test(t) ? "'" + t : t;
document.addEventListener('input', show);
function sheet() {
  const lines = articles.map(a => {
    const [problem, completion] = [...a.querySelectorAll('pre')].map(p => inert(p.textContent));
    return [a.dataset.task, a.id, field(a, 'points'), field(a, 'max_points'),
            inert(field(a, 'comment')), problem, completion].map(cell).join(',');
  });
  return '\\ufeff' + [COLUMNS.join(','), ...lines, ''].join('\\r\\n');
}
document.getElementById('save').addEventListener('click', () => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([sheet()], {type: 'text/csv'}));
  link.download = `${articles[0].dataset.task}.sheet.csv`;
  link.click();
});
show();
"""


def _decimal(entered: Any) -> str:
    """Returns a number as a browser takes it; a spreadsheet may have written a decimal comma."""
    return escape(str(entered).replace(",", "."))


def _html(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    script = f"const COLUMNS = {list(COLUMNS)!r};\n{_SCRIPT}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    articles = "\n".join(
        f"""<article id="{escape(row["problem_id"])}" data-task="{escape(task)}">
<h2>{escape(row["problem_id"])}</h2>
<pre aria-label="problem">\n{escape(row["problem"])}</pre>
<pre aria-label="completion">\n{escape(row["completion"])}</pre>
<label>points <input type="number" name="points" min="0" step="any"
 value="{_decimal(row["points"])}"></label>
<label>of <input type="number" name="max_points" min="0" step="any"
 value="{_decimal(row["max_points"])}"></label>
<label>comment <input type="text" name="comment" value="{escape(str(row["comment"]))}"></label>
</article>"""
        for row in rows
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(task)}: grading sheet</title><style>{_STYLE}</style></head>
<body><h1>{escape(task)}: grading sheet</h1>
<p>Give each answer its points and each problem its maximum, then save: the CSV file is what
<code>restem score --grades=FILE.csv</code> adds up.</p>
{articles}
<footer><span id="total" role="status"></span>
<button id="save" type="button">Save as CSV</button></footer>
<script>{script}</script></body></html>
"""

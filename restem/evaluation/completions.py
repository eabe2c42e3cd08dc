"""Outputs that some other program sampled, scored by a task's own grader without any model.

A file holds JSON lines, one a query, or one JSON object or list of such rows. A row says what was
asked, by `problem_id` (or the data set's `task_id`) or by the text of the query, and what came out,
in `output`, `outputs` (several samples) or `prediction`:

    {"problem_id": "HumanEval/0", "outputs": ["    return ...", "    for ..."]}
    {"input": "not ( True ) and ( True ) is", "output": "... So the answer is False."}

A query is the one that the run would ask, the data set's own question without the form around it,
or a whole prompt that ends with the query; white space makes no difference.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.table
from absl import logging
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import records, verify
from restem.data import folder, registry
from restem.data.materializer import materialize
from restem.errors import UserError
from restem.evaluation import grading_sheet, groups
from restem.records import Problem, Sample, TaskCard
from restem.run import layout
from restem.runtime import storage
from restem.sampling.stopping import Stops
from restem.steps import evaluate

IDS = ("problem_id", "task_id")
QUERIES = ("inputs", "input", "question", "problem", "prompt", "text")
OUTPUTS = ("outputs", "output", "prediction", "completion")

_FORM_ROWS = 32
"""Rows that are looked at to find the form around a question."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """One row of a file."""

    where: str
    """File and line, for messages."""
    problem_id: str | None
    """As the row names it; None where it does not."""
    query: str | None
    """What was asked; None where the row does not say."""
    outputs: tuple[str, ...]
    """What came out, one a sample."""
    finish_reason: str
    """"eos", "stop" or "length" where the row says so; else ""."""
    target: str | None = None
    """The gold answer where the row repeats it; evidence for what was asked, never graded by."""


def read(paths: Sequence[epath.Path | str]) -> list[Completion]:
    """All rows of files, `.jsonl`, `.json`, `.gz` or not.

    Raises:
      UserError: a file is missing, or a row lacks a query or an output; names file and line.
    """
    return [_completion(where, row) for path in paths for where, row in _rows(epath.Path(path))]


def _rows(path: epath.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.name.removesuffix(".gz").endswith(".json"):
        for number, row in folder.read_jsonl(path):
            yield f"{path}, line {number}", row
        return
    try:
        found = json.loads(folder.read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg})") from e
    if isinstance(found, dict):  # as BIG-Bench Hard's outputs: one list beside a note
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        raise UserError(f"{path}: holds neither a list of rows nor an object with one such list")
    for number, row in enumerate(found, start=1):
        folder.require(row, (), where=f"{path}, row {number}")
        yield f"{path}, row {number}", row


def _completion(where: str, row: Mapping[str, Any]) -> Completion:
    first = lambda names: next((row[n] for n in names if row.get(n) is not None), None)
    identity, query, outputs = first(IDS), first(QUERIES), first(OUTPUTS)
    if isinstance(outputs, str):
        outputs = [outputs]
    if not isinstance(outputs, list) or not outputs or not all(isinstance(o, str) for o in outputs):
        raise UserError(f"{where}: no output; a row has {' or '.join(map(repr, OUTPUTS))}: text")
    if identity is None and not isinstance(query, str):
        raise UserError(
            f"{where}: does not say what was asked; a row has {' or '.join(map(repr, IDS))}, or"
            f" the query in {' or '.join(map(repr, QUERIES))}"
        )
    return Completion(
        where=where,
        problem_id=None if identity is None else str(identity),
        query=query if isinstance(query, str) else None,
        outputs=tuple(outputs),
        finish_reason=str(row.get("finish_reason") or ""),
        target=None if row.get("target") is None else str(row["target"]),
    )


Key = tuple[str, str]
"""(task, problem_id): ids are unique within a task only."""


class Matcher:
    """Finds the problem that a row is about.

    By id: the same, or a number where ids are a word and that number ("train-2361" for APPS's
    2361). By query, white space made alike: the problem's query; else the end of the row's text,
    which is then a whole prompt; else the query within the form that the task puts around it. That
    form is what most of the first rows are found in, if all queries begin and end with it: "Q: "
    and "A:" of GSM8K. Problems that are asked in the same words take the rows in turn.
    """

    def __init__(self, problems: Mapping[Key, Problem], completions: Iterable[Completion]):
        """Args: problems to find; completions from which the form is learnt."""
        self._by_id: dict[str, list[Key]] = {}
        self._by_query: dict[str, list[Key]] = {}
        for key, problem in problems.items():
            self._by_id.setdefault(key[1], []).append(key)
            self._by_query.setdefault(_plain(problem.inputs), []).append(key)
        for name in list(self._by_id):
            if number := re.fullmatch(r"[^\d]+0*(\d+)", name):
                self._by_id.setdefault(number[1], []).extend(self._by_id[name])
        self._lengths = sorted({len(query) for query in self._by_query}, reverse=True)
        self._turns: collections.Counter[str] = collections.Counter()
        self._inside: dict[str, list[Key]] = {}
        head, tail = self._form([_plain(c.query) for c in completions if c.query])
        if head or tail:
            for query, keys in self._by_query.items():
                self._inside[query[len(head) : len(query) - len(tail)].strip()] = keys

    def find(self, completion: Completion) -> Key | None:
        """The problem; None where there is none, or where an id names several."""
        if completion.problem_id is not None:
            keys = self._by_id.get(completion.problem_id, [])
            if len(keys) == 1 or completion.query is None:
                return keys[0] if len(keys) == 1 else None
        text = _plain(completion.query or "")
        keys = self._by_query.get(text) or self._at_the_end(text) or self._inside.get(text, [])
        if not keys:
            return None
        turn = self._turns[text] % len(keys)
        self._turns[text] += 1
        return keys[turn]

    def _at_the_end(self, text: str) -> list[Key]:
        for length in self._lengths:
            # A whole word apart, so that "3 + 4" does not end "13 + 4".
            if 0 < length < len(text) and text[-length - 1].isspace():
                keys = self._by_query.get(text[-length:])
                if keys:
                    return keys
        return []

    def _form(self, texts: Sequence[str]) -> tuple[str, str]:
        """(head, tail) that the task puts around a question."""
        queries = list(self._by_query)
        if not queries:
            return "", ""
        common_head = _shared(queries)
        common_tail = _shared([query[::-1] for query in queries])[::-1]
        votes: collections.Counter[tuple[str, str]] = collections.Counter()
        for text in [t for t in texts if t and t not in self._by_query][:_FORM_ROWS]:
            for query in queries:
                head, found, tail = query.partition(text)
                if found and common_head.startswith(head) and common_tail.endswith(tail):
                    votes[head, tail] += 1
        return votes.most_common(1)[0][0] if votes else ("", "")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _shared(texts: Sequence[str]) -> str:
    """The beginning that all texts have in common."""
    low, high = min(texts), max(texts)
    length = 0
    while length < min(len(low), len(high)) and low[length] == high[length]:
        length += 1
    return low[:length]


def score(
    *,
    files: Sequence[str],
    tasks: Sequence[str],
    output: str,
    split: str = "test",
    data_dir: str | None = None,
    allow_weak_sandbox: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores files of outputs and writes `TASK.json` and `TASK.parquet` to `output`.

    The problems go to `output/problems/TASK.parquet`, and the macro average of a group of tasks to
    `GROUP.json`. What follows a stop string of the task is cut off, as sampling would have done. A
    problem without a row is counted as missing, not as wrong.

    Args:
      files: see the module.
      tasks: tasks or groups, whose problems the rows are about.
      output: folder to write.
      split: of the problems.
      data_dir: where the published data sets lie; None: the environment's RESTEM_DATA_DIR.
      allow_weak_sandbox: run programs even where the machine allows no isolation but limits.

    Returns:
      What the JSON files hold, by name.

    Raises:
      UserError: a row that cannot be read, or that is about no problem of these tasks.
    """
    completions = read(files)
    names = registry.expand(tasks)
    run_files = layout.Workdir(output)
    materialize(
        {
            run_files.problems(name): dict(task=name, data_dir=data_dir)
            for name in names
            if not run_files.problems(name).exists()
        },
        modules=["restem.tasks"],
    )
    cards: dict[str, TaskCard] = {}
    problems: dict[Key, Problem] = {}
    for name in names:
        cards[name], found = run_files.read_problems(name)
        problems |= {(name, p.problem_id): p for p in found if p.split == split}
    samples = match(completions, problems, cards, what=f"{split} problem of {', '.join(tasks)}")
    reports: dict[str, dict[str, Any]] = {}
    for name, card in cards.items():
        asked = [p for (task, _), p in problems.items() if task == name]
        answers = samples.get(name, [])
        if not answers:
            continue
        by_id = {p.problem_id: p for p in asked}
        verdicts = verify.shared_verifier(card.grader, allow_weak_sandbox).grade(
            [by_id[s.problem_id] for s in answers], [s.text for s in answers]
        )
        answers = [records.regraded(s, v) for s, v in zip(answers, verdicts, strict=True)]
        reports[name] = {
            **report_of(answers),
            "task": name,
            "split": split,
            "missing": len(asked) - len({s.problem_id for s in answers}),
            "completions": [str(file) for file in files],
        }
        path = epath.Path(output)
        if card.grader["kind"] == "none":
            reports[name] |= grading_sheet.write(path / name, card, asked, answers)
        storage.write_table(path / f"{name}.parquet", records.samples_to_table(answers))
        storage.write_json(path / f"{name}.json", reports[name])
    for group, average in groups.averages(reports).items():
        reports[group] = average
        storage.write_json(epath.Path(output) / f"{group}.json", average)
    return reports


def match(
    completions: Sequence[Completion],
    problems: Mapping[Key, Problem],
    cards: Mapping[str, TaskCard],
    *,
    what: str,
) -> dict[str, list[Sample]]:
    """Samples by task, in the order of problem and sample index, not graded yet.

    Args:
      completions: what was read.
      problems: those that may have been asked.
      cards: of their tasks, by name.
      what: the problems in a word or two, for the message.

    Raises:
      UserError: rows that are about none of the problems; lists them.
    """
    matcher = Matcher(problems, completions)
    keys = _between_neighbours([matcher.find(c) for c in completions], completions, problems)
    outputs: dict[Key, list[tuple[str, str]]] = {}
    unmatched = []
    for completion, key in zip(completions, keys, strict=True):
        if key is None:
            unmatched.append(completion)
            continue
        texts = [(text, completion.finish_reason) for text in completion.outputs]
        outputs.setdefault(key, []).extend(texts)
    if unmatched:
        shown = "; ".join(
            f"{c.where}: {_plain(c.problem_id or c.query or '')[-60:]!r}" for c in unmatched[:20]
        )
        more = f"; and {len(unmatched) - 20} more" if len(unmatched) > 20 else ""
        raise UserError(
            f"{len(unmatched)} of {len(completions)} rows are about no {what} ({shown}{more});"
            " name the task that they belong to, or give problem_id"
        )
    samples: dict[str, list[Sample]] = {}
    for (task, problem_id), found in sorted(outputs.items()):
        stops = Stops.of(cards[task].stop, cards[task].stop_after)
        for index, (text, finish_reason) in enumerate(found):
            samples.setdefault(task, []).append(
                Sample(
                    problem_id=problem_id,
                    sample_index=index,
                    text=cut(text, stops),
                    token_ids=(),
                    logprob=float("nan"),
                    finish_reason=finish_reason,
                    source="completions",
                )
            )
    return samples


def _between_neighbours(
    keys: Sequence[Key | None],
    completions: Sequence[Completion],
    problems: Mapping[Key, Problem],
) -> list[Key | None]:
    """Fills a gap that nothing but one problem fits.

    A published statement may be damaged: "(A) The NB" is all of the 89th of BIG-Bench Hard's snarks
    that its file holds, while the published outputs answer the whole of it. Such a row stands for
    the one problem between those of its neighbours, if no other row does and their golds agree.
    """
    order = list(problems)
    place = {key: index for index, key in enumerate(order)}
    filled = list(keys)
    for i in range(1, len(keys) - 1):
        before, after = keys[i - 1], keys[i + 1]
        if keys[i] is not None or before is None or after is None:
            continue
        if place[after] - place[before] == 2:
            key = order[place[before] + 1]
            if key not in keys and problems[key].answer == completions[i].target:
                logging.warning(
                    "%s: taken for %s of %s, which its neighbours leave open",
                    completions[i].where, key[1], key[0],
                )  # fmt: skip
                filled[i] = key
    return filled


def cut(text: str, stops: Stops) -> str:
    """The text up to where sampling would have stopped; blank lines before it stop nothing."""
    blank = len(text) - len(text.lstrip())
    data = text[blank:].encode("utf-8", "surrogatepass")
    found = stops.find(data, 0)
    return text if found is None else text[:blank] + data[: found[1]].decode("utf-8", "replace")


def report_of(answers: Sequence[Sample]) -> dict[str, Any]:
    """Pass@1 with its interval; with several outputs a problem, pass@k and maj@k too.

    Of one output a problem the interval is Wilson's, as for greedy answers; of several, pass@1 is
    the average success and its interval the bootstrap's over problems.
    """
    report = evaluate.greedy_report([s for s in answers if s.sample_index == 0])
    if len(answers) > report["n"]:
        sampled = evaluate.sampled_report(answers)
        report |= sampled | {
            "pass@1": sampled["average_success"],
            "ci95": sampled["average_success_ci95"],
        }
    # A file of texts does not say how many tokens they had, nor, as a rule, how they ended.
    report["mean_tokens"] = None
    if not any(s.finish_reason for s in answers):
        report["truncated"] = None
    return report


def table(reports: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    """The scores at a glance; groups last."""
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    shown.add_column("task")
    for heading in ("problems", "pass@1 (95% interval)", "missing"):
        shown.add_column(heading, justify="right", no_wrap=True)
    members = {name: g for g, report in reports.items() for name in report.get("members", ())}
    for name, report in reports.items():
        is_group = "members" in report
        label = name.removeprefix(f"{members.get(name)}_")
        if report["pass@1"] is None:
            score = f"graded by hand: {report['sheet']}"
        else:
            low, high = report["ci95"]
            score = f"{100 * report['pass@1']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        shown.add_row(
            f"[bold]{name}, macro average[/bold]" if is_group else label,
            f"{report['n']:,}", score, "" if is_group else str(report["missing"]),
        )  # fmt: skip
    return shown

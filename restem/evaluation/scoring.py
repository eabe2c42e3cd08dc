"""Scoring of files of outputs with the graders of their tasks, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.table
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import records, verify
from restem.data import registry
from restem.data.materializer import materialize
from restem.evaluation import completions, grading_sheet, groups, scores
from restem.evaluation.matching import Key, match
from restem.records import Problem, Sample, TaskCard
from restem.runtime import storage


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
    `GROUP.json`. Text after a stop string of the task is cut off, as in sampling. A problem without
    a row counts as missing, not as wrong.

    Args:
      files: paths of the files; see `restem.evaluation.completions` for their form.
      tasks: tasks, or groups of tasks, that the rows belong to.
      output: folder to write to.
      split: split that the rows belong to.
      data_dir: folder of the published data sets; None is the environment's RESTEM_DATA_DIR.
      allow_weak_sandbox: run programs even if the machine allows no isolation but limits.

    Returns:
      The contents of the JSON files, by task or group.

    Raises:
      UserError: if a row cannot be read, or matches no problem of these tasks, or a grading sheet
        with points for other answers is in the way; nothing is scored then.
    """
    rows = completions.read(files)
    folder, names = epath.Path(output), registry.expand(tasks)
    folder.mkdir(parents=True, exist_ok=True)  # before any work, if it cannot be written
    tables = _problems(names, folder, data_dir)
    problems: dict[Key, Problem] = {
        (name, p.problem_id): p
        for name, (_, all_) in tables.items()
        for p in all_
        if p.split == split
    }
    cards = {name: card for name, (card, _) in tables.items()}
    samples = match(rows, problems, cards, what=f"{split} problem of {', '.join(tasks)}")
    names = [name for name in cards if name in samples]
    asked = {name: [p for (task, _), p in problems.items() if task == name] for name in names}
    sheets = {
        name: grading_sheet.Sheet.of(folder / name, cards[name], asked[name], samples[name])
        for name in names
        if not cards[name].is_graded
    }
    reports: dict[str, dict[str, Any]] = {}
    for name in names:
        verifier = verify.shared_verifier(cards[name].grader, allow_weak_sandbox)
        report = _score_task(folder / name, cards[name], asked[name], samples[name], verifier)
        if name in sheets:
            report |= sheets[name].write()
        reports[name] = report | {"split": split, "completions": [str(file) for file in files]}
        storage.write_json(folder / f"{name}.json", reports[name])
    for group, average in groups.averages(reports).items():
        reports[group] = average
        storage.write_json(folder / f"{group}.json", average)
    return reports


def _problems(
    names: Sequence[str], folder: epath.Path, data_dir: str | None
) -> dict[str, tuple[TaskCard, list[Problem]]]:
    """Returns the card and the problems of each task, materialised in `folder`.

    They are read anew each time: the task's files or settings may have changed since.
    """
    paths = {name: folder / "problems" / f"{name}.parquet" for name in names}
    materialize(
        {path: dict(task=name, data_dir=data_dir) for name, path in paths.items()},
        modules=["restem.tasks"],
    )
    read = lambda path: records.problems_from_table(storage.read_table(path))
    return {name: read(path) for name, path in paths.items()}


def _score_task(
    stem: epath.Path,
    card: TaskCard,
    problems: Sequence[Problem],
    answers: Sequence[Sample],
    verifier: verify.Verifier | verify.ClusterVerifier,
) -> dict[str, Any]:
    """Grades the answers of one task; writes `STEM.parquet`, returns the contents of the JSON."""
    by_id = {p.problem_id: p for p in problems}
    verdicts = verifier.grade([by_id[s.problem_id] for s in answers], [s.text for s in answers])
    answers = [records.regraded(s, v) for s, v in zip(answers, verdicts, strict=True)]
    storage.write_table(stem.parent / f"{stem.name}.parquet", records.samples_to_table(answers))
    return report_of(answers, card) | {
        "task": card.task,
        "missing": len(problems) - len({s.problem_id for s in answers}),
    }


def report_of(answers: Sequence[Sample], card: TaskCard) -> dict[str, Any]:
    """Returns pass@1 with its interval; for several outputs per problem, pass@k and maj@k too.

    With one output per problem, the interval is Wilson's, as for greedy answers. With several,
    pass@1 is the average success, and its interval comes from the bootstrap over problems;
    `correct` is the number of problems that one output of each is expected to solve, n x pass@1,
    and the other shares and means are over all outputs. Ungraded outputs have no pass@k or maj@k.

    Args:
      answers: graded outputs of one task.
      card: the task.
    """
    report = scores.greedy_report(answers)
    attempts = scores.attempts(answers)
    if len(answers) > len(attempts):
        report["n"] = len(attempts)
        if card.is_graded:
            report |= scores.sampled_report(attempts, kind=card.grader["kind"])
            report["pass@1"] = report["average_success"]
            report["ci95"] = report["average_success_ci95"]
            report["correct"] = report["n"] * report["pass@1"]
    # A file of texts has neither the number of tokens nor, usually, how generation ended.
    report["mean_tokens"] = None
    if not any(s.finish_reason for s in answers):
        report["truncated"] = None
    return report


def table(reports: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    """Returns the scores as a table, groups last."""
    graded = any(report.get("binary") is False for report in reports.values())
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    shown.add_column("task")
    headings = ("problems", "pass@1 (95% interval)", *["mean reward"] * graded, "missing")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    members = {name: g for g, report in reports.items() for name in report.get("members", ())}
    for name, report in reports.items():
        is_group = "members" in report
        label = name.removeprefix(f"{members.get(name)}_")
        if report["pass@1"] is None:
            score = f"to be graded: {report['sheet']}"
        else:
            low, high = report["ci95"]
            score = f"{100 * report['pass@1']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        reward = report.get("mean_reward")
        cells = [f"{report['n']:,}", score]
        cells += ["" if reward is None else f"{reward:.3f}"] * graded
        cells.append("" if is_group else str(report["missing"]))
        shown.add_row(f"[bold]{name}, macro average[/bold]" if is_group else label, *cells)
    return shown

"""The summary of a run: `summary.json`, and the table shown at the end.

Both are derived from the files of the iterations, so they can be rebuilt at any time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.table

from restem.evaluation import comparisons, groups
from restem.run import reader, trackers
from restem.run.layout import Workdir
from restem.run.reader import StoredIteration, StoredRun
from restem.runtime import distributed, storage


def write(files: Workdir) -> dict[str, Any]:
    """Writes `summary.json` on the primary host; returns its contents on every host."""
    summary = summarize(reader.read_run(files.path))
    if distributed.is_primary():
        storage.write_json(files.summary, summary)
        for entry in summary["iterations"]:
            trackers.log(entry["iteration"], _scalars(entry))
    return summary


def summarize(run: StoredRun) -> dict[str, Any]:
    """Returns the contents of `summary.json`: the run, and one entry per iteration."""
    entries = [_entry(run, i) for i in run.iterations]
    return {
        "task": run.task,
        "model": run.model,
        "seed": run.seed,
        "method": run.method,
        "evaluations": run.evaluations,
        "chosen": run.chosen,
        "grades_without_gold": run.grades_without_gold,
        "iterations": entries,
    }


def _entry(run: StoredRun, iteration: StoredIteration) -> dict[str, Any]:
    """Returns an iteration's evaluations, selection, training, and seconds and rates per step."""
    evals = {name: e.values for name, e in iteration.evals.items()}
    entry: dict[str, Any] = {
        "iteration": iteration.number,
        "chosen": iteration.number == run.chosen,
        "evals": evals,
        "groups": groups.averages(evals),
        "validation_reward": run.validation_rewards.get(iteration.number),
        "seconds": dict(iteration.seconds),
    }
    if iteration.number and run.base is not None:
        entry["versus_base"] = _versus(run.base, iteration)
    steps = {
        "generate": iteration.generation,
        "selection": iteration.selection,
        "train": iteration.improvement,
    }
    return entry | {name: dict(report) for name, report in steps.items() if report}


def _versus(base: StoredIteration, iteration: StoredIteration) -> dict[str, Any]:
    """Returns the paired comparisons with the base policy, by evaluation."""
    found = {}
    for name, evaluation in iteration.evals.items():
        paths = [i.files.answers(name) for i in (base, iteration)]
        if evaluation.values.get("pass@1") is not None and all(path.exists() for path in paths):
            tests = comparisons.compare(*map(comparisons.read, paths))
            found[name] = {kind: dataclasses.asdict(test) for kind, test in tests.items()}
    return found


def _scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scalars of an iteration that no single step can compute."""
    averages = {f"evaluate/{g}/macro_average": a["pass@1"] for g, a in entry["groups"].items()}
    return averages | {f"seconds/{step}": s for step, s in entry["seconds"].items()}


def table(summary: Mapping[str, Any]) -> rich.console.Group:
    """Returns the summary as tables: the iterations, then the tasks of each group."""
    entries = summary["iterations"]
    title = f"{summary['task']}, {summary['model']}, seed {summary['seed']}"
    shown = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD)
    shown.add_column("policy", no_wrap=True)
    in_groups = {g: average for e in entries for g, average in e["groups"].items()}
    members = {name for average in in_groups.values() for name in average["members"]}
    single = [name for name in summary["evaluations"] if name not in members]
    graded = _rewards_are_graded(entries)
    for name in single:
        shown.add_column(f"{name}\npass@1", justify="right")
    for group in in_groups:
        shown.add_column(f"{group}\nmacro average", justify="right")
    is_blind = summary.get("grades_without_gold", False)
    samples = "mean reward\nof samples" if graded else "correct\nsamples"
    if is_blind:
        samples = "samples"
    for heading in ("validation\nreward", samples, "training\nexamples", "minutes"):
        shown.add_column(heading, justify="right")
    for entry in entries:
        name = _policy(entry)
        is_set_off = entry["chosen"] and len(entries) > 1
        cells = [f"[bold]{name} *[/bold]" if is_set_off else name]
        cells += [_cell(entry, name) for name in single]
        cells += [_rate(entry["groups"].get(group)) for group in in_groups]
        cells.append(_reward(entry["validation_reward"], graded))
        cells += _of_samples(entry.get("selection"), graded, is_blind)
        cells.append(f"{sum(entry['seconds'].values()) / 60:.1f}")
        shown.add_row(*cells)
    shown.caption = "95% intervals in brackets; below, points and p against the base policy"
    if any(e["validation_reward"] is not None for e in entries) and len(entries) > 1:
        shown.caption += "; * chosen by the validation reward"
    return rich.console.Group(shown, *(_members(entries, group) for group in in_groups))


def _members(entries: list[Mapping[str, Any]], group: str) -> rich.table.Table:
    """Returns a table of a group's tasks, with one column per evaluated policy."""
    entries = [e for e in entries if group in e["groups"]]
    shown = rich.table.Table("task", title=f"{group}, pass@1")
    for entry in entries:
        shown.add_column(_policy(entry), justify="right")
    for name in entries[0]["groups"][group]["members"]:
        rates = [f"{100 * e['evals'][name]['pass@1']:.1f}%" for e in entries]
        shown.add_row(name.removeprefix(f"{group}_"), *rates)
    averages = [f"{100 * e['groups'][group]['pass@1']:.1f}%" for e in entries]
    shown.add_row("[bold]macro average[/bold]", *averages)
    return shown


def _rewards_are_graded(entries: list[Mapping[str, Any]]) -> bool:
    """Returns whether any reward is neither 1 for a correct nor 0 for an incorrect sample."""
    return any(report.get("binary") is False for e in entries for report in e["evals"].values())


def _policy(entry: Mapping[str, Any]) -> str:
    return f"iteration {entry['iteration']}" if entry["iteration"] else "base"


def _cell(entry: Mapping[str, Any], name: str) -> str:
    """Returns pass@1 of an evaluation and, below it, the difference from the base policy."""
    report = entry["evals"].get(name)
    lines = [_rate(report)]
    reward = reader.number(report.get("mean_reward")) if report is not None else None
    if reward is not None and report.get("binary") is False:
        lines.append(f"mean reward {reward:.3f}")
    test = entry.get("versus_base", {}).get(name, {}).get("greedy")
    if test is not None:
        p_value = f"p = {test['p_value']:.2g}" if test["p_value"] >= 1e-4 else "p < 0.0001"
        lines.append(f"{100 * test['difference']:+.1f}, {p_value}")
    return "\n".join(lines)


def _rate(report: Mapping[str, Any] | None) -> str:
    """Returns pass@1 and its interval, as far as the report has them."""
    if report is None:
        return ""
    rate, score = (reader.number(report.get(name)) for name in ("pass@1", "score"))
    if rate is None:
        if score is not None:
            return f"{100 * score:.1f}% of points"
        return "to be graded" if "sheet" in report else ""
    match report.get("ci95"):
        case [int() | float() as low, int() | float() as high]:
            return f"{100 * rate:.1f}%\n({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * rate:.1f}%"


def _reward(reward: float | None, graded: bool) -> str:
    if reward is None:
        return ""
    return f"{reward:.3f}" if graded else f"{100 * reward:.1f}%"


def _of_samples(
    selection: Mapping[str, Any] | None, graded: bool, is_blind: bool
) -> tuple[str, str]:
    """Returns what became of the samples, and the number of examples.

    That is the number of correct samples or the mean reward, or the number of samples alone if
    none was compared with a gold answer.
    """
    if selection is None:
        return "", ""
    names = ("correct", "sampled", "mean_reward", "kept")
    correct, sampled, reward, kept = (reader.number(selection.get(name)) for name in names)
    cell = ""
    if is_blind:
        cell = "" if sampled is None else f"{sampled:.0f}"
    elif graded and reward is not None:
        cell = f"{reward:.3f}"
    elif not graded and correct is not None and sampled is not None:
        cell = f"{correct:.0f} of {sampled:.0f}"
    return cell, "" if kept is None else f"{kept:.0f}"

"""What a run has come to: `summary.json`, TensorBoard scalars and the table shown at its end.

All of it is read off the files of the iterations, so it can be made again at any time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import rich.box
import rich.console
import rich.table

from restem.evaluation import comparisons, groups
from restem.run.layout import IterationDir
from restem.run.run import Run
from restem.runtime import distributed, storage


def summarize(run: Run) -> dict[str, Any]:
    """One entry an iteration: evaluations, selection, training, seconds and rates of each step."""
    iterations = [_iteration(run, i) for i in sorted({0, *run.files.iterations()})]
    chosen = chosen_iteration(iterations)
    for entry in iterations:
        entry["chosen"] = entry["iteration"] == chosen
    return {
        "task": run.task,
        "model": run.base,
        "seed": run.seed,
        "method": run.method,
        "evaluations": [name for name, _, _ in run.evaluated_sets],
        "chosen": chosen,
        "iterations": iterations,
    }


def _iteration(run: Run, i: int) -> dict[str, Any]:
    directory = run.directory(i)
    entry: dict[str, Any] = {"iteration": i, "evals": {}, "seconds": {}}
    for name, _, _ in run.evaluated_sets:
        if report := _read(directory, directory.evaluation(name)):
            entry["evals"][name] = report
            seconds = entry["seconds"].get("evaluate", 0.0) + report["seconds"]
            entry["seconds"]["evaluate"] = seconds
    entry["groups"] = groups.averages(entry["evals"])
    if i:
        entry["versus_base"] = _versus_base(run, directory, entry["evals"])
    if report := _read(directory, directory.generation):
        entry["generate"] = report
        entry["seconds"]["generate"] = report["seconds"]
    if report := _read(directory, directory.selection):
        entry["selection"] = report
    if report := _read(directory, directory.improvement):
        entry["train"] = report
        entry["seconds"]["improve"] = report["seconds"]
    return entry


def _versus_base(run: Run, directory: IterationDir, evals: dict[str, Any]) -> dict[str, Any]:
    """The paired comparison of an iteration with the base policy, by evaluation."""
    found = {}
    for name, report in evals.items():
        files = [d.answers(name) for d in (run.directory(0), directory)]
        if report["pass@1"] is not None and all(file.exists() for file in files):
            tests = comparisons.compare(*map(comparisons.read, files))
            found[name] = {kind: dataclasses.asdict(test) for kind, test in tests.items()}
    return found


def _read(directory: IterationDir, path) -> Any:
    return storage.read_json(path) if path.exists() else None


def chosen_iteration(iterations: list[dict[str, Any]]) -> int:
    """The iteration of the highest validation reward, the earliest of equals; else the last.

    The reward of the base policy is the one measured before the first step of an M-step that starts
    from it.
    """
    rewards = {}
    for entry in iterations:
        train = entry.get("train")
        if train is None:
            continue
        if entry["iteration"] == 1 and train["validation"]:
            rewards[0] = train["validation"][0][1]
        if train["best_validation"] is not None:
            rewards[entry["iteration"]] = train["best_validation"]
    if not rewards:  # trained without validation problems
        return max((e["iteration"] for e in iterations if "train" in e), default=0)
    return min(rewards, key=lambda i: (-rewards[i], i))


def write(run: Run) -> dict[str, Any]:
    """Writes `summary.json` and the TensorBoard scalars beside it, on the first host."""
    summary = summarize(run)
    if distributed.is_first():
        storage.write_json(run.files.summary, summary)
        _write_scalars(run, summary)
    return summary


def _write_scalars(run: Run, summary: dict[str, Any]) -> None:
    from tensorboardX import SummaryWriter

    folder = run.files.path / "tensorboard"
    if "://" in str(folder):
        return  # the event writer knows local folders only; summary.json holds the same numbers
    if folder.exists():
        folder.rmtree()  # made anew from the files each time, so that a resume repeats no point
    with SummaryWriter(logdir=str(folder)) as writer:
        for entry in summary["iterations"]:
            i = entry["iteration"]
            for task, report in entry["evals"].items():
                if report["pass@1"] is not None:
                    writer.add_scalar(f"evaluate/{task}/pass@1", report["pass@1"], i)
            for group, average in entry["groups"].items():
                writer.add_scalar(f"evaluate/{group}/macro_average", average["pass@1"], i)
            for step, seconds in entry["seconds"].items():
                writer.add_scalar(f"seconds/{step}", seconds, i)
            if "selection" in entry:
                for name in ("sampled", "correct", "kept", "problems_solved"):
                    writer.add_scalar(f"select/{name}", entry["selection"][name], i)
            for step, loss in entry.get("train", {}).get("loss", ()):
                writer.add_scalar(f"improve/loss/iteration_{i:03d}", loss, step)
            for step, reward in entry.get("train", {}).get("validation", ()):
                writer.add_scalar(f"improve/validation/iteration_{i:03d}", reward, step)


def table(summary: dict[str, Any]) -> rich.console.Group:
    """The end of a run at a glance: the iterations, then the tasks of each group."""
    title = f"{summary['task']}, {summary['model']}, seed {summary['seed']}"
    shown = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD)
    shown.add_column("policy", no_wrap=True)
    in_groups = {g: a for e in summary["iterations"] for g, a in e["groups"].items()}
    members = {name: group for group, a in in_groups.items() for name in a["members"]}
    single = [name for name in summary["evaluations"] if name not in members]
    for name in single:
        shown.add_column(f"{name}\npass@1", justify="right")
    for group in in_groups:
        shown.add_column(f"{group}\nmacro average", justify="right")
    for heading in ("validation", "correct\nsamples", "trained\non", "minutes"):
        shown.add_column(heading, justify="right")
    validated = False
    for entry in summary["iterations"]:
        train = entry.get("train")
        reward = train and train["best_validation"]
        validated |= reward is not None
        name = _policy(entry)
        cells = [f"[bold]{name} *[/bold]" if entry["chosen"] and len(summary["iterations"]) > 1
                 else name]  # fmt: skip
        cells += [_cell(entry, name) for name in single]
        cells += [_rate(entry["groups"].get(group)) for group in in_groups]
        cells.append(f"{100 * reward:.1f}%" if reward is not None else "")
        selection = entry.get("selection")
        cells.append(f"{selection['correct']} of {selection['sampled']}" if selection else "")
        cells.append(f"{selection['kept']}" if selection else "")
        cells.append(f"{sum(entry['seconds'].values()) / 60:.1f}")
        shown.add_row(*cells)
    shown.caption = "in brackets 95% intervals; below, points and p against the base policy"
    if validated:
        shown.caption += "; * chosen by the validation reward"
    return rich.console.Group(shown, *(_members(summary, group) for group in in_groups))


def _members(summary: dict[str, Any], group: str) -> rich.table.Table:
    """The tasks of a group, a column for each policy that was evaluated on them."""
    entries = [e for e in summary["iterations"] if group in e["groups"]]
    shown = rich.table.Table("task", title=f"{group}, pass@1")
    for entry in entries:
        shown.add_column(_policy(entry), justify="right")
    for name in entries[0]["groups"][group]["members"]:
        rates = [f"{100 * e['evals'][name]['pass@1']:.1f}%" for e in entries]
        shown.add_row(name.removeprefix(f"{group}_"), *rates)
    averages = [f"{100 * e['groups'][group]['pass@1']:.1f}%" for e in entries]
    shown.add_row("[bold]macro average[/bold]", *averages)
    return shown


def _policy(entry: dict[str, Any]) -> str:
    return f"iteration {entry['iteration']}" if entry["iteration"] else "base"


def _cell(entry: dict[str, Any], name: str) -> str:
    """Pass@1 of an evaluation and, below it, how it differs from the base policy's."""
    report = entry["evals"].get(name)
    test = entry.get("versus_base", {}).get(name, {}).get("greedy")
    if test is None:
        return _rate(report)
    p_value = f"p = {test['p_value']:.2g}" if test["p_value"] >= 1e-4 else "p < 0.0001"
    return f"{_rate(report)}\n{100 * test['difference']:+.1f}, {p_value}"


def _rate(report: dict[str, Any] | None) -> str:
    if report is None:
        return ""
    if report["pass@1"] is None:  # graded by hand
        return f"{100 * report['score']:.1f}% of points" if "score" in report else "to be graded"
    low, high = report["ci95"]
    return f"{100 * report['pass@1']:.1f}%\n({100 * low:.1f} to {100 * high:.1f})"

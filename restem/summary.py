"""What a run has come to: `summary.json`, TensorBoard scalars and the table shown at its end.

All of it is read off the files of the iterations, so it can be made again at any time.
"""

from __future__ import annotations

from typing import Any

import rich.table

from restem import distributed, workdir
from restem.run import Run
from restem.workdir import IterationDir


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
        "evaluations": list(run.evaluations),
        "chosen": chosen,
        "iterations": iterations,
    }


def _iteration(run: Run, i: int) -> dict[str, Any]:
    directory = run.directory(i)
    entry: dict[str, Any] = {"iteration": i, "evals": {}, "seconds": {}}
    for task in run.evaluations:
        if report := _read(directory, directory.evaluation(task)):
            entry["evals"][task] = report
            seconds = entry["seconds"].get("evaluate", 0.0) + report["seconds"]
            entry["seconds"]["evaluate"] = seconds
    if report := _read(directory, directory.generation):
        entry["generate"] = report
        entry["seconds"]["generate"] = report["seconds"]
    if report := _read(directory, directory.selection):
        entry["selection"] = report
    if report := _read(directory, directory.improvement):
        entry["train"] = report
        entry["seconds"]["improve"] = report["seconds"]
    return entry


def _read(directory: IterationDir, path) -> Any:
    return workdir.read_json(path) if path.exists() else None


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
        workdir.write_json(run.files.summary, summary)
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
                writer.add_scalar(f"evaluate/{task}/pass@1", report["pass@1"], i)
            for step, seconds in entry["seconds"].items():
                writer.add_scalar(f"seconds/{step}", seconds, i)
            if "selection" in entry:
                for name in ("sampled", "correct", "kept", "problems_solved"):
                    writer.add_scalar(f"select/{name}", entry["selection"][name], i)
            for step, loss in entry.get("train", {}).get("loss", ()):
                writer.add_scalar(f"improve/loss/iteration_{i:03d}", loss, step)
            for step, reward in entry.get("train", {}).get("validation", ()):
                writer.add_scalar(f"improve/validation/iteration_{i:03d}", reward, step)


def table(summary: dict[str, Any]) -> rich.table.Table:
    """The end of a run at a glance."""
    shown = rich.table.Table(title=f"{summary['task']}, {summary['model']}, seed {summary['seed']}")
    shown.add_column("policy")
    for task in summary["evaluations"]:
        shown.add_column(f"{task} pass@1 (95% interval)", justify="right")
    shown.add_column("validation", justify="right")
    shown.add_column("correct samples", justify="right")
    shown.add_column("trained on", justify="right")
    shown.add_column("minutes", justify="right")
    for entry in summary["iterations"]:
        i = entry["iteration"]
        name = "base" if i == 0 else f"iteration {i}"
        cells = [f"[bold]{name} *[/bold]" if entry["chosen"] else name]
        for task in summary["evaluations"]:
            report = entry["evals"].get(task)
            if report is None:
                cells.append("")
                continue
            low, high = report["ci95"]
            cells.append(f"{100 * report['pass@1']:.1f}% ({100 * low:.1f} to {100 * high:.1f})")
        train = entry.get("train")
        validated = train and train["best_validation"] is not None
        cells.append(f"{100 * train['best_validation']:.1f}%" if validated else "")
        selection = entry.get("selection")
        cells.append(f"{selection['correct']} of {selection['sampled']}" if selection else "")
        cells.append(f"{selection['kept']}" if selection else "")
        cells.append(f"{sum(entry['seconds'].values()) / 60:.1f}")
        shown.add_row(*cells)
    shown.caption = "* chosen by the validation reward"
    return shown

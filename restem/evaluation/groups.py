"""Groups of tasks that are reported as one number, such as the 23 tasks of BIG-Bench Hard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import registry
from restem.evaluation import metrics


def group_of(task: str) -> str | None:
    """Returns the group that a task counts in, which is its first; None if it has no group."""
    if task not in registry.names():
        return None
    groups = registry.get(task).groups
    return groups[0] if groups else None


def members(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Returns the tasks of each group, in the given order, without tasks that have no group."""
    found: dict[str, list[str]] = {}
    for task in tasks:
        if (group := group_of(task)) is not None:
            found.setdefault(group, []).append(task)
    return found


_NEEDED = ("pass@1", "ci95", "n")


def averages(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the macro average of each group whose tasks are all evaluated.

    Tasks that are parts of one task (`TaskSpec.part_of`), such as the three files of BIG-Bench
    Hard's logical deduction, count once, with their mean.

    Args:
      reports: contents of `evals/TASK.json` by task; a group of which a task lacks `pass@1`, `ci95`
        or `n` has no average.

    Returns:
      By group: `pass@1` (the macro average), `ci95`, `n` (problems), `members` (names in `reports`)
      and `tasks`, the pass@1 of each task, parts averaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for group, names in members(registry.names()).items():
        if any(reports.get(name, {}).get(k) is None for name in names for k in _NEEDED):
            continue
        parts = [registry.get(name).part_of or name for name in names]
        rates = [reports[name]["pass@1"] for name in names]
        average, interval = metrics.macro_average(
            rates, [reports[name]["ci95"] for name in names], parts
        )
        found[group] = {
            "pass@1": average,
            "ci95": list(interval),
            "n": sum(reports[name]["n"] for name in names),
            "members": names,
            "tasks": metrics.means_by_part(rates, parts),
        }
    return found


def label(task: str, group: str) -> str:
    """Returns the name of a task within its group, in words: "Date understanding"."""
    return task.removeprefix(f"{group}_").replace("_", " ").capitalize()

"""Groups of tasks that are reported as one number, such as the 23 tasks of BIG-Bench Hard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import registry
from restem.evaluation import metrics


def averages(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The macro average of each group all of whose tasks are evaluated.

    A task counts in its first group. Tasks that are parts of one (`TaskSpec.part_of`), as the three
    files of BIG-Bench Hard's logical deduction, count once with their mean.

    Args:
      reports: what `evals/TASK.json` holds, by task; `pass@1`, `ci95` and `n` are read.

    Returns:
      By group: `pass@1` (the macro average), `ci95`, `n` (problems), `members` (names in `reports`)
      and `tasks`, the pass@1 of each task, parts averaged.
    """
    known = {name: registry.get(name) for name in registry.names()}
    names = dict.fromkeys(spec.groups[0] for spec in known.values() if spec.groups)
    found: dict[str, dict[str, Any]] = {}
    for group in names:
        members = [n for n, spec in known.items() if spec.groups and spec.groups[0] == group]
        if any(reports.get(name, {}).get("pass@1") is None for name in members):
            continue
        parts = [known[name].part_of or name for name in members]
        rates = [reports[name]["pass@1"] for name in members]
        average, interval = metrics.macro_average(
            rates, [reports[name]["ci95"] for name in members], parts
        )
        found[group] = {
            "pass@1": average,
            "ci95": list(interval),
            "n": sum(reports[name]["n"] for name in members),
            "members": members,
            "tasks": metrics.means_by_part(rates, parts),
        }
    return found

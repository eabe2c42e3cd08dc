"""Materialisation of a task: its source is read once, and its records become problems.

Every later step of a run reads `problems/*.parquet` instead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gin

from restem.data import chat as chat_settings
from restem.data import registry, rows, seqio_tasks, splits
from restem.data.task_spec import TaskSpec
from restem.errors import UserError
from restem.records import Problem, TaskCard


@gin.configurable
def materialize(
    task: str,
    *,
    splits: Sequence[str] = registry.SPLITS,
    data_dir: str | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
    chat: bool = False,
) -> tuple[TaskCard, list[Problem]]:
    """Returns the card of a task and its problems, in the order of `splits`.

    Args:
      task: registered name, or the scope of a `file_task` that gin binds.
      splits: splits to read; those that the task lacks are skipped.
      data_dir: data folder; None uses gin's macro DATA_DIR, then $RESTEM_DATA_DIR.
      limits: maximum number of problems per split, a random subset chosen by `seed`; a smaller
        limit gives a subset of that of a larger one.
      seed: seed of that choice.
      cache_dir: folder for prepared data sets; None is the user's cache folder.
      chat: whether an instruct model is prompted, as `data.chat` says.

    Raises:
      UserError: if the task, the split or the data does not exist, or a record is bad.
    """
    return of_spec(
        registry.get(task), splits, data_dir=data_dir, limits=limits, seed=seed,
        cache_dir=cache_dir, chat=chat_settings.of_task(task) if chat else None,
    )  # fmt: skip


def of_spec(
    spec: TaskSpec,
    splits: Sequence[str] = registry.SPLITS,
    *,
    data_dir: str | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
    chat: chat_settings.ChatSettings | None = None,
) -> tuple[TaskCard, list[Problem]]:
    """Like `materialize`, for a task that need not be registered, and with settings of `chat`."""
    task = spec.name
    limits = dict(limits or {})
    unknown = sorted((set(splits) | set(limits)) - set(registry.SPLITS))
    if unknown:
        raise UserError(f"task {task}: no split {unknown[0]!r}; use {', '.join(registry.SPLITS)}")
    prompt = spec.read_prompt(data_dir)
    notes: dict[str, Any] = {}
    problems: list[Problem] = []
    for split, found in _read(spec, splits, data_dir=data_dir, cache_dir=cache_dir, notes=notes):
        if split in limits:
            found = _subset(found, limits[split], seed=seed)
        logging.info("task %s: %d %s problems", task, len(found), split)
        problems += found
    _check_unique(problems, task=task)
    if notes:
        logging.info("task %s: %s", task, json.dumps(notes, sort_keys=True))
    card = TaskCard(
        task=spec.name,
        prefix=prompt.prefix,
        opening=_common_opening([p.inputs for p in problems]),
        stop=spec.stop,
        stop_after=spec.stop_after,
        grader=dict(spec.grader),
        prompt_source=prompt.source,
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        notes=notes,
    )
    return (card if chat is None else chat.put(card, spec)), problems


def _read(
    spec: TaskSpec,
    wanted: Sequence[str],
    *,
    data_dir: str | None,
    cache_dir: str | None,
    notes: dict[str, Any],
) -> Iterable[tuple[str, list[Problem]]]:
    """Yields each wanted split that the task has, with its problems."""
    options: dict[str, Any] = {"data_dir": data_dir, "cache_dir": cache_dir, "notes": notes}
    provider = seqio_tasks.seqio_task(spec, **options) if spec.needs_seqio else None
    available = tuple(provider.splits) if provider else spec.splits
    present = [split for split in wanted if split in available]
    if not present:
        raise UserError(
            f"task {spec.name} has no split {' or '.join(wanted)}; it has {', '.join(available)}"
        )
    for split in present:
        if provider:
            yield split, seqio_tasks.read(provider, split)
        else:
            found = rows.of_function(spec, split, **options)
            yield split, [rows.to_problem(r, split=split, index=i) for i, r in enumerate(found)]


def _subset(problems: list[Problem], limit: int, *, seed: int) -> list[Problem]:
    return splits.subset(problems, limit, key=lambda p: p.problem_id, seed=seed)


def _common_opening(texts: Sequence[str]) -> str:
    """Returns the longest text with which all of `texts` begin."""
    first, last = min(texts, default=""), max(texts, default="")
    pairs = zip(first, last, strict=False)
    return first[: next((i for i, (a, b) in enumerate(pairs) if a != b), len(first))]


def _check_unique(problems: Iterable[Problem], *, task: str) -> None:
    seen: dict[str, str] = {}
    for problem in problems:
        if problem.problem_id in seen:
            raise UserError(
                f"task {task}: problem_id {problem.problem_id!r} occurs twice "
                f"({seen[problem.problem_id]} and {problem.split}); ids must be unique within a "
                "task"
            )
        seen[problem.problem_id] = problem.split

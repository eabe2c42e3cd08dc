"""Progress of a long step: a bar on a terminal, plain lines with time stamps in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.progress
from absl import logging

CONSOLE = rich.console.Console(stderr=True)
"""Console for progress on stderr; without colours if NO_COLOR is set."""

_quiet = threading.Event()

SECONDS_BETWEEN_LINES = 15.0
"""Seconds between log lines when there is no terminal."""


def be_quiet() -> None:
    """Stops showing progress; log files still receive progress lines."""
    _quiet.set()


def is_quiet() -> bool:
    """Returns whether `be_quiet` was called."""
    return _quiet.is_set()


class Progress:
    """Progress towards `total`, with a note beside the count, such as the number correct."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0, bar=None):
        self._what, self._total, self._unit = what, total, unit
        self._done = self._start = done
        self._began = self._last_line = time.monotonic()
        self._bar = bar
        self._id = None
        if bar is not None:
            self._id = bar.add_task(what, total=total, completed=done, unit=unit, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(self._id, advance=count, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._last_line = now
            self._log(now, note)

    def wait(self, what: str) -> None:
        """Shows immediately what the step is waiting for, such as "compiling decode"."""
        if self._bar is not None:
            self._bar.update(self._id, note=what)
        else:
            logging.info("%s: %s", self._what, what)

    def _log(self, now: float, note: str) -> None:
        rate = (self._done - self._start) / max(now - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        eta = f", {left:.0f} s left" if 0 < left < float("inf") else ""
        logging.info(
            "%s: %d/%d %s, %.2g/s%s%s",
            self._what, self._done, self._total, self._unit, rate, eta, f", {note}" if note else "",
        )  # fmt: skip


@contextmanager
def progress(what: str, *, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Shows the progress of a block.

    Args:
      what: name of the step, such as "iteration 1: sampling".
      total: number of units of the step.
      unit: name of the units, such as "samples".
      done: units already finished when a step resumes, which do not count towards the rate.
    """
    if is_quiet() or not CONSOLE.is_terminal:
        yield Progress(what, total, unit, done)
        return
    columns = (
        rich.progress.TextColumn("[bold]{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[unit]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns, console=CONSOLE, transient=False) as bar:
        yield Progress(what, total, unit, done, bar)

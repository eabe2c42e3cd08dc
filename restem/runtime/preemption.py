"""Preemption: a run that is about to lose its machines saves its work, then exits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from restem.runtime import coordination
from restem.runtime.coordination import several

EXIT_PREEMPTED = 75
"""Exit code after SIGTERM or a preemption notice, once the work is saved."""

LEFT = "restem/left"
"""Key under which a host records why it left: `DONE`, `PREEMPTED`, or what went wrong."""

DONE, PREEMPTED = "done", "preempted"


class PreemptedError(SystemExit):
    """Exits the process with `EXIT_PREEMPTED`; raise it only once the work is saved."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class Preemption:
    """The signal that this run is about to lose its machines.

    On a single host, SIGTERM sets a flag. On many hosts, a notice to any host (SIGTERM, or the
    machine's own notice) reaches all hosts through JAX's coordination service. In a loop that all
    hosts run in lockstep, the service picks a round that no host has passed, so that all hosts stop
    at the same round:

        with PREEMPTION:
            for batch in batches:
                state = step(state, batch)
                if PREEMPTION.reached():
                    save(state)
                    PREEMPTION.leave_if(True)

    A host in its own loop (its share of the samples) exits once it has `noticed`; the hosts that
    wait for it then exit too.

    On a single host, a loop `with PREEMPTION.deferring()` also takes Ctrl-C for a notice, and ends
    with `KeyboardInterrupt` once its work is saved; a second Ctrl-C ends it at once.
    """

    def __init__(self):
        self._flag = threading.Event()
        self._rounds = 0
        self._previous: dict[int, Any] = {}
        self._deferring = self._interrupted = False

    def __enter__(self) -> Preemption:
        # With many processes, JAX has a handler; only the main thread may install another.
        if not several() and threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGTERM] = signal.signal(
                signal.SIGTERM, lambda *_: self._flag.set()
            )
            # A job in a shell's background may ignore Ctrl-C, and continues to do so.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, previous in self._previous.items():
            # If several hosts have joined since, the handler of SIGTERM is JAX's and must stay.
            if number != signal.SIGTERM or not several():
                signal.signal(number, previous)
        self._previous = {}
        self._interrupted = False
        self._flag.clear()

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Lets the first Ctrl-C wait for `leave_if`, as a notice does."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _interrupt(self, *_: object) -> None:
        if not self._deferring or self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._flag.set()
        logging.warning("interrupted: this step is saved first; Ctrl-C again stops at once")

    def noticed(self) -> bool:
        """Returns whether this host has received a notice."""
        if several() and not self._flag.is_set():
            return coordination.is_set("RECEIVED_PREEMPTION_NOTICE")  # set by JAX
        return self._flag.is_set()

    def reached(self) -> bool:
        """Returns whether to save and exit now; every host must call it once per round of a loop.

        Once True, it stays True.
        """
        if several() and not self._flag.is_set():
            # The service requires rounds to increase over the lifetime of a process.
            self._rounds += 1
            if multihost_utils.reached_preemption_sync_point(self._rounds):
                self._flag.set()
        return self._flag.is_set()

    def leave_if(self, condition: bool) -> None:
        """Exits with `EXIT_PREEMPTED` if `condition` holds; the work must be on disk.

        Raises:
          PreemptedError: as said.
          KeyboardInterrupt: the notice was a Ctrl-C.
        """
        if condition and self._interrupted:
            raise KeyboardInterrupt
        if condition:
            logging.warning("preempted: the work so far is saved; the same command continues")
            if several():
                coordination.put(f"{LEFT}/{jax.process_index()}", PREEMPTED)
            raise PreemptedError


PREEMPTION = Preemption()
"""The instance of this process."""

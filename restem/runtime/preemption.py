"""Preemption: a run that is about to lose its machines saves its work, then exits."""

from __future__ import annotations

import signal
import threading
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
    """

    def __init__(self):
        self._flag = threading.Event()
        self._rounds = 0
        self._previous: Any = None

    def __enter__(self) -> Preemption:
        # With many processes, JAX has a handler; only the main thread may install another.
        if not several() and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._flag.set())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            # If several hosts have joined since, the handler is JAX's and must stay.
            if not several():
                signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
        self._flag.clear()

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
        """Exits with `EXIT_PREEMPTED` if `condition` holds; the work must be on disk."""
        if condition:
            logging.warning("preempted: the work so far is saved; the same command continues")
            if several():
                coordination.put(f"{LEFT}/{jax.process_index()}", PREEMPTED)
            raise PreemptedError


PREEMPTION = Preemption()
"""The instance of this process."""

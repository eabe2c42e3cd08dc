"""Preemption: a run that is about to lose its machines saves its work and exits."""

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
    """Whether this run is about to lose its machines.

    On a single host, SIGTERM sets a flag. On many, a notice to any host (SIGTERM, or the machine's
    own) reaches all through JAX's coordination service. In a loop that all hosts run in step, the
    service picks a round that no host has passed, so that all stop at the same one:

        with PREEMPTION:
            for batch in batches:
                state = step(state, batch)
                if PREEMPTION.reached():
                    save(state)
                    PREEMPTION.leave_if(True)

    A host in a loop of its own (its share of the samples) exits when it has `noticed`; the hosts
    that wait for it then exit as well.
    """

    def __init__(self):
        self._flag = threading.Event()
        self._rounds = 0
        self._previous: Any = None

    def __enter__(self) -> Preemption:
        # With many processes JAX has a handler; and only the main thread may install one.
        if not several() and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._flag.set())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            # If several hosts have started since, the handler is JAX's, and stays.
            if not several():
                signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
        self._flag.clear()

    def noticed(self) -> bool:
        """Whether this host knows of a notice."""
        if several() and not self._flag.is_set():
            return coordination.is_set("RECEIVED_PREEMPTION_NOTICE")  # put there by JAX
        return self._flag.is_set()

    def reached(self) -> bool:
        """Whether to save and exit now; in a loop in which every host asks once per round.

        Once True, it stays True.
        """
        if several() and not self._flag.is_set():
            # The service wants rounds to increase over the whole life of a process.
            self._rounds += 1
            if multihost_utils.reached_preemption_sync_point(self._rounds):
                self._flag.set()
        return self._flag.is_set()

    def leave_if(self, condition: bool) -> None:
        """Exits with `EXIT_PREEMPTED` if `condition` holds; the work has to be on disk."""
        if condition:
            logging.warning("preempted: the work so far is saved; the same command continues")
            if several():
                coordination.put(f"{LEFT}/{jax.process_index()}", PREEMPTED)
            raise PreemptedError


PREEMPTION = Preemption()
"""The one of this process."""

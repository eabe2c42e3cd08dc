"""Preemption: a job that is about to be taken off its machines saves its work and leaves."""

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
"""Where a host says why it left: `DONE`, `PREEMPTED`, or what went wrong."""

DONE, PREEMPTED = "done", "preempted"


class PreemptedError(SystemExit):
    """Leaves the process with `EXIT_PREEMPTED`; raise it only when the work is saved."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class Preemption:
    """Whether this job is about to be taken off its machines.

    One process: SIGTERM sets a flag. Many: a notice to any host (SIGTERM, or the machine's own)
    reaches all through JAX's coordination service. In a loop that all hosts run in step with one
    another it picks a round that no host has passed, so that all stop at the same one:

        with PREEMPTION:
            for batch in batches:
                state = step(state, batch)
                if PREEMPTION.reached():
                    save(state)
                    PREEMPTION.leave()

    A host in a loop of its own (its share of the samples) leaves when it has `noticed`; those that
    wait for it then leave as well.
    """

    def __init__(self):
        self._flag = threading.Event()
        self._rounds = 0
        self._previous: Any = None

    def __enter__(self) -> Preemption:
        # With many processes JAX has its own handler; and only a main thread may install one.
        if not several() and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._flag.set())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            # The handler that JAX installs since then, at the start of a job of many, stays.
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
        """Whether to save and leave now; in a loop in which every host asks once a round.

        It stays True once it was.
        """
        if several() and not self._flag.is_set():
            # The service wants rounds to rise over the whole life of a job, over several loops.
            self._rounds += 1
            if multihost_utils.reached_preemption_sync_point(self._rounds):
                self._flag.set()
        return self._flag.is_set()

    def leave_if(self, condition: bool) -> None:
        """Leaves with `EXIT_PREEMPTED` where `condition` holds; the work is on disk already."""
        if condition:
            logging.warning("preempted: the work so far is saved; the same command continues")
            if several():
                coordination.put(f"{LEFT}/{jax.process_index()}", PREEMPTED)
            raise PreemptedError


PREEMPTION = Preemption()
"""This process's."""

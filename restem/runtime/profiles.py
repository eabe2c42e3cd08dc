"""Traces of device activity, for TensorBoard's profiler (XProf).

`restem run --profile` traces some rounds of the decode loop and some training steps, once their
programs are compiled, into DIR/profile/decode and DIR/profile/train:

    pip install xprof && xprof --logdir=DIR/profile/decode
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator

import jax
from absl import logging
from etils import epath

from restem.runtime import storage

SKIP = 4
"""Rounds before a trace begins, because the first ones compile."""

ROUNDS = 6
"""Rounds per trace. A trace of a minute would take gigabytes."""


class Profile:
    """A profiler that records at most one trace per kind of loop in a process."""

    def __init__(self, folder: epath.PathLike | None = None):
        """Writes traces to `folder`/KIND, which may be in a bucket; None: records no traces."""
        self.folder = None if folder is None else epath.Path(folder)
        self._kind: str | None = None
        self._traced: set[str] = set()

    @contextlib.contextmanager
    def traced(self, kind: str) -> Iterator[Callable[..., None]]:
        """Yields a function to call at the end of each round of a loop.

            with PROFILE.traced("train") as advance:
                for batch in batches:
                    state = step(state, batch)
                    advance()

        A loop of fewer than `SKIP` rounds leaves no trace, and the next loop of its kind may be
        traced. Loops inside a traced loop are not traced.
        """
        rounds = 0

        def advance(*_) -> None:
            nonlocal rounds
            rounds += 1
            if rounds == SKIP and self._kind is None and kind not in self._traced:
                self._start(kind)
            elif rounds == SKIP + ROUNDS and self._kind == kind:
                self._stop(kind)

        try:
            yield advance
        finally:
            if self._kind == kind:
                self._stop(kind)

    def _start(self, kind: str) -> None:
        if self.folder is None or jax.process_index():
            return
        self._kind = kind
        self._local = tempfile.TemporaryDirectory()
        jax.profiler.start_trace(self._local.name)

    def _stop(self, kind: str) -> None:
        jax.profiler.stop_trace()
        self._kind = None
        self._traced.add(kind)
        assert self.folder is not None  # a trace starts only with a folder
        storage.copy_folder(epath.Path(self._local.name), self.folder / kind)
        self._local.cleanup()
        logging.info("a trace of %s is in %s", kind, self.folder / kind)


PROFILE = Profile()
"""The instance of this process; `--profile` sets its folder."""

"""TensorBoard: event files in `tensorboard/` of the run's folder, which may be a bucket."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

from restem.run.layout import Workdir
from restem.run.trackers.mirror import Mirror


@contextlib.contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Makes imports of modules that are not loaded yet fail as if they were not installed."""
    hidden = [name for name in modules if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


# tensorboardX imports these where they are installed, which takes 2 seconds. PyTorch is for tensors
# of its own, and the mirror copies to buckets.
with _hidden("torch", "boto3", "google.cloud.storage"):
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto.event_pb2 import Event

FLUSH_S = 20.0
"""Seconds after which scalars are flushed to the file."""


class TensorBoard:
    """Writes scalars to event files, one file per process.

    tensorboardX's `SummaryWriter` writes in a thread, and a thread that a full disk has ended would
    let the next `log` wait forever.
    """

    def __init__(self, files: Workdir):
        self._mirror = Mirror(files.path / "tensorboard")
        self._events = event_file_writer.EventsWriter(str(self._mirror.path / "events"))
        self._flushed = -FLUSH_S

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            event = Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
            self._events.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_S:
            self._events.flush()
            self._flushed = time.monotonic()
        self._mirror.update()

    def close(self) -> None:
        self._events.close()
        self._mirror.close()

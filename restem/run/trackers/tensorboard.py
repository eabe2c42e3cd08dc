"""TensorBoard: event files in `tensorboard/` of the run's folder, which may be a bucket."""

from __future__ import annotations

import contextlib
import sys
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
    from tensorboardX import SummaryWriter


class TensorBoard:
    """Writes scalars to event files, one file per process."""

    def __init__(self, files: Workdir):
        self._mirror = Mirror(files.path / "tensorboard")
        self._writer = SummaryWriter(logdir=str(self._mirror.path), flush_secs=20)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._mirror.update()

    def close(self) -> None:
        self._writer.close()
        self._mirror.close()

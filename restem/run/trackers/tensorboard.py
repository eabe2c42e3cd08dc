"""TensorBoard: event files in `tensorboard/` of the run's folder, which may be a bucket."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX import SummaryWriter

from restem.run.layout import Workdir
from restem.run.trackers.mirror import Mirror


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

"""Trackers: where the scalars of a run go as they arise.

`log` writes to all trackers of the run. `metrics.jsonl` in the run's folder is always one of them,
and it is the memory of the others: a resumed run logs no point twice. `Run.trackers` names further
ones: "tensorboard", "wandb" (`restem[wandb]`), "mlflow" (`restem[mlflow]`). The two services read
their own environment variables. Without a network: WANDB_MODE=offline, or MLFLOW_TRACKING_URI=file:
FOLDER with MLFLOW_ALLOW_FILE_STORE=true.

Only the first host logs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from restem.errors import UserError
from restem.run.layout import Workdir
from restem.run.trackers.jsonl import JsonLines
from restem.runtime import distributed

MODULES = {
    "tensorboard": ("restem.run.trackers.tensorboard", "TensorBoard"),
    "wandb": ("restem.run.trackers.wandb", "WeightsAndBiases"),
    "mlflow": ("restem.run.trackers.mlflow", "MLflow"),
}
"""Trackers that `Run.trackers` can name."""


class Tracker(Protocol):
    """Receives scalars."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes scalars by name, at a step that increases per name."""

    def close(self) -> None:
        """Writes what is not written yet."""


class Trackers:
    """All trackers of a run; a context manager."""

    def __init__(self, files: Workdir, names: Iterable[str]):
        """Opens the trackers.

        Args:
          files: the run's folder.
          names: keys of `MODULES`.

        Raises:
          UserError: the package of a tracker is not installed.
        """
        self._lines = JsonLines(files)
        self._last = self._lines.last_steps()
        self._others = [_open(name, files) for name in names]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars by name, except for those that a process before a resume has logged."""
        new = {n: float(v) for n, v in values.items() if step > self._last.get(n, -1)}
        if not new:
            return
        self._last |= dict.fromkeys(new, step)
        self._lines.log(step, new)
        for tracker in self._others:
            tracker.log(step, new)

    def close(self) -> None:
        for tracker in (self._lines, *self._others):
            tracker.close()


_current: list[Trackers] = []


def start(files: Workdir, names: Iterable[str]) -> None:
    """Makes `log` write to the trackers of a run, until `stop`; nothing on other hosts."""
    stop()
    if distributed.is_primary():
        _current.append(Trackers(files, names))


def stop() -> None:
    """Closes the trackers of the run."""
    while _current:
        _current.pop().close()


def log(step: int, values: Mapping[str, float | None]) -> None:
    """Logs scalars of the run; without a started run, and for values of None, does nothing.

    Args:
      step: iteration, or step within one; increases per name, also in a resumed run.
      values: scalars by name, such as "evaluate/math/pass@1".
    """
    for trackers in _current:
        trackers.log(step, {name: v for name, v in values.items() if v is not None})


def _open(name: str, files: Workdir) -> Tracker:
    module, attribute = MODULES[name]
    try:
        return getattr(importlib.import_module(module), attribute)(files)
    except ModuleNotFoundError as error:
        if error.name != name.replace("tensorboard", "tensorboardX"):
            raise
        raise UserError(
            f"Run.trackers: {name!r} needs a package that is not installed;"
            f" pip install 'restem[{name}]', or leave it out"
        ) from error

"""Trackers: destinations of a run's scalars, which are logged as they are measured.

`log` writes to all trackers of the run. `metrics.jsonl` in the run's folder is always one of them,
and it records what has been logged, so that a resumed run logs no point twice. `Run.trackers` names
additional trackers: "tensorboard", "wandb" (`restem[wandb]`), "mlflow" (`restem[mlflow]`). The two
services know a run by the id in `tracker_id.json` of its folder (`trackers.ids`), and read their
own environment variables. Without a network: WANDB_MODE=offline, or
MLFLOW_TRACKING_URI=file:FOLDER with MLFLOW_ALLOW_FILE_STORE=true.

Only the primary host logs.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from typing import Protocol

from absl import logging

from restem.errors import UserError
from restem.run.layout import Workdir
from restem.run.trackers import ids
from restem.run.trackers.jsonl import JsonLines
from restem.runtime import distributed

MODULES = {
    "tensorboard": ("restem.run.trackers.tensorboard", "TensorBoard"),
    "wandb": ("restem.run.trackers.wandb", "WeightsAndBiases"),
    "mlflow": ("restem.run.trackers.mlflow", "MLflow"),
}
"""Trackers that `Run.trackers` can name."""


class Tracker(Protocol):
    """A destination of scalars."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars by name; the step must increase for each name."""

    def close(self) -> None:
        """Flushes pending scalars and closes the tracker."""


class Trackers:
    """All trackers of a run; a context manager."""

    def __init__(self, files: Workdir, names: Iterable[str]):
        """Opens the trackers.

        Args:
          files: the run's folder.
          names: keys of `MODULES`.

        Raises:
          UserError: a tracker cannot be opened.
        """
        self._lines = JsonLines(files)
        self._last = self._lines.last_steps()
        ids.claim(files, has_logged=bool(self._last))  # even if no service is named yet
        self._others = {name: _open(name, files) for name in names}

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars by name, except those that an earlier process logged before a resume."""
        new = {n: float(v) for n, v in values.items() if step > self._last.get(n, -1)}
        if not new:
            return
        self._last |= dict.fromkeys(new, step)
        self._lines.log(step, new)
        for name, tracker in list(self._others.items()):
            try:
                tracker.log(step, new)
            except Exception as error:  # a service that is down; the run continues
                del self._others[name]
                logging.warning(
                    "%s gets no more scalars from this process (%s); metrics.jsonl has them all",
                    name, _in_a_line(error),
                )  # fmt: skip

    def close(self) -> None:
        for name, tracker in self._others.items():
            try:
                tracker.close()
            except Exception as error:
                logging.warning(
                    "%s: the last scalars were not written (%s); metrics.jsonl has them all",
                    name, _in_a_line(error),
                )  # fmt: skip
        self._lines.close()


_current: list[Trackers] = []


def start(files: Workdir, names: Iterable[str]) -> None:
    """Makes `log` on the primary host write to a run's trackers, until `stop`; all hosts call it.

    Raises:
      UserError: a tracker cannot be opened.
    """
    stop()
    atexit.register(stop)  # a Python program need not call it
    distributed.run_on_primary("trackers", lambda: _current.append(Trackers(files, names)))


def check(names: Iterable[str]) -> None:
    """Raises `UserError` if the package of a tracker is not installed."""
    for name in names:
        package = "tensorboardX" if name == "tensorboard" else name
        if sys.modules.get(package) is None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"Run.trackers: {name!r} needs a package that is not installed;"
                f" pip install 'restem[{name}]', or leave it out"
            )


def stop() -> None:
    """Closes the trackers of the run."""
    while _current:
        try:
            _current.pop().close()
        except OSError as error:
            logging.warning("the last scalars were not written: %s", error)


def log(step: int, values: Mapping[str, float | None]) -> None:
    """Logs scalars of the run; without a started run, and for values of None, does nothing.

    Args:
      step: iteration, or step within an iteration; increases for each name, also across resumes.
      values: scalars by name, such as "evaluate/math/pass@1".
    """
    for trackers in _current:
        trackers.log(step, {name: v for name, v in values.items() if v is not None})


def _open(name: str, files: Workdir) -> Tracker:
    check([name])
    module, attribute = MODULES[name]
    try:
        return getattr(importlib.import_module(module), attribute)(files)
    except OSError:
        raise
    except Exception as error:  # each service has errors of its own, as for a missing login
        raise UserError(
            f"Run.trackers: {name!r} cannot be opened ({_in_a_line(error)}); log in, work offline"
            " (WANDB_MODE=offline, MLFLOW_TRACKING_URI=file:FOLDER), or leave it out"
        ) from error


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

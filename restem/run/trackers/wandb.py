"""Weights & Biases; WANDB_PROJECT, WANDB_MODE and the other variables of `wandb` apply."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import wandb

from restem.run.layout import Workdir
from restem.run.trackers import ids


class WeightsAndBiases:
    """Logs scalars to one W&B run per run folder, which a resumed run continues."""

    def __init__(self, files: Workdir):
        path = str(files.path)
        self._run = wandb.init(
            id=ids.of_run(files),
            name=files.path.name,
            resume="allow",
            # W&B writes its own local files, which cannot be in a bucket.
            dir=tempfile.mkdtemp(prefix="restem_wandb") if "://" in path else path,
            config={"workdir": path},
        )
        # Steps restart in every iteration, so they are logged as a value, not as W&B's own counter.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()

"""The disk space that the checkpoints of a run need, compared with what is free.

An M-step that runs out of space loses hours, so the comparison is made before the first one. While
an M-step runs, its folder holds up to three states of training (the last two, and the one being
written), each with the best policy so far; afterwards, it holds one policy.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil

import jax
from absl import logging

from restem import checkpoints, models
from restem.errors import MachineError, UserError
from restem.models import lora
from restem.run import reader
from restem.run.layout import Workdir
from restem.runtime import storage
from restem.steps.settings import Settings

_STATES = 3
"""States of training on disk at a time."""

_STATE_SIZE = 4
"""Size of a state in policies: parameters, the optimizer's two moments, the best policy so far."""


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that the rest of a run writes as checkpoints."""

    iterations: int
    """Number of iterations that have yet to be trained."""
    policy: int
    """Bytes of the policy, or adapter, of an iteration."""
    m_step: int
    """Bytes that an M-step holds on disk at a time."""

    @property
    def total(self) -> int:
        """Bytes at the end of the last M-step, before its working files are removed."""
        return self.m_step + (self.iterations - 1) * self.policy if self.iterations else 0


def need(settings: Settings, files: Workdir) -> Need | None:
    """Returns what the rest of a run needs; None if the base policy cannot be read.

    Args:
      settings: settings of the run and its steps.
      files: the run's folder, whose finished iterations need nothing more.
    """
    base = settings.run.base
    if not isinstance(base, str):  # none is named, or gin requires one
        return None
    try:
        config = checkpoints.load_header(base).config
    except (UserError, OSError, ValueError, KeyError):
        return None  # loading it says what is wrong
    if settings.loop.improve is not None:  # such as many_shot, which trains nothing
        return Need(0, 0, 0)
    improve = settings.improve
    shapes = models.param_shapes(config, improve.param_dtype or settings.run.dtype)
    if improve.adapter is not None:
        shapes = lora.shapes(shapes, improve.adapter)
    policy = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    states = _STATES * _STATE_SIZE if improve.save_every else _STATE_SIZE  # if preempted
    finished = len(reader.finished(files)) if files.path.exists() else 0
    left = max(0, settings.loop.iterations - finished)
    return Need(left, policy, (states + 1) * policy)


def free(files: Workdir) -> int | None:
    """Returns the free bytes where a run's folder is or will be; None for a bucket."""
    if storage.is_remote(files.path):
        return None
    folder = pathlib.Path(files.path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check(settings: Settings, files: Workdir) -> None:
    """Compares the free space with what checkpoints need; warns if only a part of them fits.

    Raises:
      MachineError: not even one M-step fits.
    """
    there = free(files)
    if there is None:
        return
    wanted = need(settings, files)
    if wanted is None or there >= wanted.total:
        return
    remedy = "free some space or use another --workdir"
    if settings.improve.save_every:
        remedy = "free some space, use another --workdir, or set improve.save_every = 0"
    if there < wanted.m_step:
        raise MachineError(
            f"{files.path}: {size(there)} are free, but the checkpoints of an M-step take up to"
            f" {size(wanted.m_step)}; {remedy}"
        )
    logging.warning(
        "%s: %s are free, but the checkpoints of the %d iterations to come take up to %s; %s",
        files.path, size(there), wanted.iterations, size(wanted.total), remedy,
    )  # fmt: skip


def size(count: int) -> str:
    """Returns a number of bytes for human readers, such as "1.5 GiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count / 1024:.0f} KiB"

"""The optimizer's state, where the M-steps of a run share it: online methods (IML, TRICE).

`iteration_NNN/optimizer` holds it beside the policy that it belongs to. The next M-step that starts
from this policy reads it and, at its own end, deletes it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from absl import logging

from restem.checkpoints import orbax
from restem.checkpoints.damage import DamagedError
from restem.checkpoints.policy import Policy
from restem.run.layout import IterationDir
from restem.runtime import distributed
from restem.training import Trainer, TrainState


def continued(
    state: TrainState, trainer: Trainer, start: Policy, directory: IterationDir
) -> TrainState:
    """Returns the state before the first step, with the moments that the last M-step ended with.

    The schedule of the learning rate starts again. Without moments, as after the base policy, the
    state stays as it is.

    Args:
      state: the state before the first step, with a fresh optimizer.
      trainer: the trainer whose state it is.
      start: policy that training starts from.
      directory: directory of this iteration.
    """
    last = directory.of_policy(start.reference)
    path = None if last is None else last.optimizer
    if not distributed.run_on_primary(
        "are there moments", lambda: path is not None and path.exists()
    ):
        if last is not None:
            logging.info("%s: no moments of %s are left", directory.path.name, last.path.name)
        return state
    logging.info("%s: continues with the moments of %s", directory.path.name, path)
    shardings = trainer.state_shardings()
    try:
        opt_state = orbax.restore_tree(
            path, state.opt_state, shardings=shardings and shardings.opt_state
        )
    except DamagedError as error:
        raise DamagedError(f"{error}; delete it, and the optimizer starts afresh") from error
    is_schedule = lambda part: isinstance(part, optax.ScaleByScheduleState)
    restarted = jax.tree.map(
        lambda part: jax.tree.map(jnp.zeros_like, part) if is_schedule(part) else part,
        opt_state,
        is_leaf=is_schedule,
    )
    return dataclasses.replace(state, opt_state=restarted)


def keep(state: TrainState, directory: IterationDir) -> None:
    """Writes the moments after the last step; every host must call this."""
    orbax.save_tree(directory.optimizer, state.opt_state, overwrite=True)


def discard(start: str, directory: IterationDir) -> None:
    """Deletes the moments that a finished M-step started with, if it made another policy.

    Args:
      start: reference of the policy that it started from.
      directory: directory of its iteration.
    """
    last = directory.of_policy(start)
    if last is not None and directory.checkpoint.exists() and distributed.is_primary():
        last.optimizer.rmtree(missing_ok=True)

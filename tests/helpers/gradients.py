"""Gradients of the M-step's loss, which training itself never returns."""

import functools

import jax

from restem import partitioning
from restem.training import Batch, Trainer


def gradients(trainer: Trainer, params, batch: Batch):
    """Returns the gradient of the loss, in the tree of `params`, and the metrics."""
    with partitioning.use(trainer.mesh):
        return _compiled(trainer)(params, trainer._place(batch))


@functools.cache
def _compiled(trainer: Trainer):
    return jax.jit(trainer.value_and_gradients)

"""Gradients of the M-step's loss, which training itself never returns."""

import functools

import jax

from restem import partitioning
from restem.training import Batch, Trainer


def gradients(trainer: Trainer, trained, batch: Batch, frozen=None):
    """Returns the gradient of the loss, in the tree of `trained`, and the metrics."""
    with partitioning.use(trainer.mesh, trainer.rules):
        return _compiled(trainer)(trained, trainer._place(batch), frozen)


@functools.cache
def _compiled(trainer: Trainer):
    return jax.jit(trainer.value_and_gradients)

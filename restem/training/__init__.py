"""The M-step's machinery: packing, the weighted loss, optimizers and the trainer."""

from restem.training.packing import Batch, PackedEpoch, TokenExample, choose_shape, pack
from restem.training.trainer import DivergenceError, Progress, Trainer, TrainState

__all__ = [
    "Batch",
    "DivergenceError",
    "PackedEpoch",
    "Progress",
    "TokenExample",
    "TrainState",
    "Trainer",
    "choose_shape",
    "pack",
]

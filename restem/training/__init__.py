"""The machinery of the M-step: packing, the weighted loss, optimizers and the trainer."""

from restem.training.packing import Batch, PackedEpoch, TokenExample, choose_shape, pack
from restem.training.state import DivergenceError, TrainState, Update
from restem.training.trainer import Trainer

__all__ = [
    "Batch",
    "DivergenceError",
    "PackedEpoch",
    "TokenExample",
    "TrainState",
    "Trainer",
    "Update",
    "choose_shape",
    "pack",
]

"""The machinery of the M-step: packing, the weighted loss, optimizers and the trainer."""

from restem.training.corpus import Corpus, TokenExample, some_lengths
from restem.training.memory import StepMemory, bytes_on_device, bytes_saved, device_memory
from restem.training.packing import Batch, PackedEpoch, pack
from restem.training.shape import Shape, choose_shape, sizes_of
from restem.training.state import DivergenceError, TrainState, Update
from restem.training.trainer import Trainer

__all__ = [
    "Batch",
    "Corpus",
    "DivergenceError",
    "PackedEpoch",
    "Shape",
    "StepMemory",
    "TokenExample",
    "TrainState",
    "Trainer",
    "Update",
    "bytes_on_device",
    "bytes_saved",
    "choose_shape",
    "device_memory",
    "pack",
    "sizes_of",
    "some_lengths",
]

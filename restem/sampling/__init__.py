"""The sampler of the E-step: a shared prefix, one prefill per question, slots that are refilled."""

from restem.sampling.engine import Engine
from restem.sampling.filters import Sampling
from restem.sampling.options import Tuning
from restem.sampling.requests import Completion, Request
from restem.sampling.stats import Stats
from restem.sampling.stopping import TrainingIds, training_ids

__all__ = [
    "Completion",
    "Engine",
    "Request",
    "Sampling",
    "Stats",
    "TrainingIds",
    "Tuning",
    "training_ids",
]

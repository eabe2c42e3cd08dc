"""The E-step's sampler: shared prefix, one prefill a question, slots refilled as samples finish."""

from restem.sampling.engine import Engine, Stats
from restem.sampling.filters import Sampling
from restem.sampling.requests import Completion, Request
from restem.sampling.stopping import TrainingIds, training_ids

__all__ = [
    "Completion",
    "Engine",
    "Request",
    "Sampling",
    "Stats",
    "TrainingIds",
    "training_ids",
]

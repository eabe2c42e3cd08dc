"""One decoder, described by a `ModelConfig`, run by pure functions over a pytree of parameters."""

from restem.models.config import ModelConfig, RopeScaling
from restem.models.decoder import Forward, Params, forward, logits
from restem.models.kv_cache import INVALID_POSITION, KVCache
from restem.models.params import (
    as_bits,
    flatten_heads,
    init_params,
    layers_for_one_cpu,
    param_axes,
    param_shapes,
    unstack_layers,
)

__all__ = [
    "INVALID_POSITION",
    "Forward",
    "KVCache",
    "ModelConfig",
    "Params",
    "RopeScaling",
    "as_bits",
    "flatten_heads",
    "forward",
    "init_params",
    "layers_for_one_cpu",
    "logits",
    "param_axes",
    "param_shapes",
    "unstack_layers",
]

"""Parameters of the decoder: random ones, their shapes and axes, and forms for a CPU."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from restem.models.attention import Rotary
from restem.models.config import ModelConfig
from restem.models.decoder import Ends, Layer, Params


def _boxed_params(config: ModelConfig, key: Key[Array, ""]) -> Params:
    """Returns random parameters, each in the Flax box that names its axes."""
    ends_key, layers_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1), jnp.int32)
    hidden = jnp.zeros((1, 1, config.embed_dim), config.dtype)

    def ends(key):
        variables: dict[str, Any] = {}
        for end, x in (("embed", tokens), ("norm", hidden), ("logits", hidden)):
            variables |= Ends(config).init(key, x, end)["params"]
        return variables

    def layer(key):
        rotary = Rotary(jnp.zeros((1, 1, (config.rotary_dim or config.head_dim) // 2)))
        return Layer(config).init(key, hidden, rotary, tokens, None, (), False)["params"]

    layers = jax.vmap(layer)(jax.random.split(layers_key, config.num_layers))
    return {**ends(ends_key), "layers": layers}


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def init_params(config: ModelConfig, key: Key[Array, ""], dtype: Any = jnp.float32) -> Params:
    """Returns random parameters; a real run loads them with `restem.checkpoints.load`."""
    params = nn.meta.unbox(_boxed_params(config, key))
    return jax.tree.map(lambda p: p.astype(dtype), params)


def param_shapes(config: ModelConfig, dtype: Any = jnp.float32) -> Params:
    """Returns the shapes of what `init_params` returns, as a tree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), dtype))


def param_axes(config: ModelConfig) -> Params:
    """Returns the logical axis names of every parameter, such as ("layers", "embed", "mlp")."""
    boxed = jax.eval_shape(lambda: _boxed_params(config, jax.random.key(0)))
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)
    names = jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)
    is_names = lambda leaf: isinstance(leaf, tuple)
    layers = jax.tree.map(lambda axes: ("layers", *axes), names["layers"], is_leaf=is_names)
    return {**names, "layers": layers}


def fuse_gates(params: Params) -> Params:
    """Returns parameters in a tuple of layers with gate and up projections as one matrix.

    One product of twice the width takes less time than two on a CPU. `forward` accepts the result
    on one device; over `tensor` the halves would not be split alike. Matrices that are not arrays
    (`Int8`, `Adapted`) are left as they are.
    """

    def fused(layer):
        mlp = dict(layer["mlp"])
        gate, up = mlp.get("gate"), mlp.get("up")
        if not (isinstance(gate, jax.Array) and isinstance(up, jax.Array)):
            return layer
        del mlp["gate"], mlp["up"]
        return {**layer, "mlp": {**mlp, "gate_up": jnp.concatenate((gate, up), axis=-1)}}

    return {**params, "layers": tuple(map(fused, params["layers"]))}


def unstack_layers(params: Params) -> Params:
    """Returns the same parameters with a tuple of layers instead of a stack."""
    layers = params["layers"]
    count = jax.tree.leaves(layers)[0].shape[0]
    return {
        **params,
        "layers": tuple(jax.tree.map(lambda p, i=i: p[i], layers) for i in range(count)),
    }

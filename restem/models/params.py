"""Parameters of the decoder: random ones, their shapes and axes, and forms for a device."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from restem.models.config import ModelConfig
from restem.models.decoder import Ends, Layer, Params
from restem.models.dense import Transposed
from restem.models.int8 import Int8
from restem.models.lora import TARGETS, Adapted
from restem.models.rotary import Rotary


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


def flatten_heads(params: Params) -> Params:
    """Returns parameters whose query, key and value projections are `Transposed`.

    They are [..., heads x head_dim, embed] then, the order in which the TPU compiler wants them
    where few tokens are read at a time. From [..., embed, heads, head_dim], every program would
    begin with a copy of the stacks in that order. Shapes are accepted in place of arrays.
    """

    def flat(w):
        if isinstance(w, Int8):
            flat_scale = _flat(w.scale)
            return Transposed(Int8(values=_flat(w.values, transposed=True), scale=flat_scale))
        if isinstance(w, Adapted):
            return dataclasses.replace(w, base=flat(w.base), b=_flat(w.b))
        return Transposed(_flat(w, transposed=True))

    def flattened(layer):
        names = ("query", "key", "value")
        attention = layer["attention"]
        return {**layer, "attention": {**attention, **{n: flat(attention[n]) for n in names}}}

    layers = params["layers"]
    stacked = not isinstance(layers, tuple)
    return {**params, "layers": flattened(layers) if stacked else tuple(map(flattened, layers))}


def _flat(leaf: Any, *, transposed: bool = False) -> Any:
    """Joins the last two dimensions of an array or shape, and moves them before the third last.

    The joined dimension is split over the mesh as its first part was.
    """

    def moved(sizes, joined):
        stack, inputs = sizes[:-3], sizes[-3:-2]
        return (*stack, joined, *inputs) if transposed else (*stack, *inputs, joined)

    shape = moved(leaf.shape, leaf.shape[-2] * leaf.shape[-1])
    where = leaf.sharding
    if isinstance(where, NamedSharding):
        axes = (*where.spec, *[None] * (leaf.ndim - len(where.spec)))
        where = NamedSharding(where.mesh, PartitionSpec(*moved(axes, axes[-2])))
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=where)

    def change(x):
        x = x.reshape(*x.shape[:-2], -1)
        return jnp.swapaxes(x, -1, -2) if transposed else x

    return jax.jit(change, out_shardings=where)(leaf)


def as_bits(params: Params) -> Params:
    """Returns parameters whose stacked bfloat16 matrices are views of their bits, uint16.

    To slice a stack of bfloat16, XLA's CPU backend converts all of it to float32 and holds the
    copy; a stack of whole numbers is sliced as it is. `dense` reads either, but only bfloat16 has a
    gradient, so this is for weights that are not trained.
    """

    def one(path, leaf):
        if leaf.dtype != jnp.bfloat16 or path[-1].key not in TARGETS:
            return leaf
        return jax.device_put(np.asarray(leaf).view(np.uint16))  # no copy on a CPU

    return {**params, "layers": jax.tree_util.tree_map_with_path(one, params["layers"])}


def unstack_layers(params: Params) -> Params:
    """Returns the same parameters with a tuple of layers instead of a stack."""
    layers = params["layers"]
    count = jax.tree.leaves(layers)[0].shape[0]
    return {
        **params,
        "layers": tuple(jax.tree.map(lambda p, i=i: p[i], layers) for i in range(count)),
    }


def layers_for_one_cpu(params: Params) -> Params:
    """Returns parameters with a tuple of layers, in the form whose products take least time there.

    Gate and up projections are one matrix, because one product of twice the width takes less time
    than two. Matrices of bfloat16 are `Transposed`: with 8 to 64 rows their products take a half to
    a quarter of the time, with equal results. `Int8` matrices are left as they are.
    `forward` accepts the result on one device; over `tensor` the gate's halves would not be split
    alike.
    """
    stack = params["layers"]
    count = jax.tree.leaves(stack)[0].shape[0]
    return {**params, "layers": tuple(_layer_for_one_cpu(stack, i) for i in range(count))}


@jax.jit
def _layer_for_one_cpu(stack: Params, index: jax.Array | int) -> Params:
    """Returns one layer of a stack as `layers_for_one_cpu` does."""

    def stored(name, w):
        is_matrix = name in (*TARGETS, "gate_up") and isinstance(w, jax.Array)
        if not is_matrix or w.dtype != jnp.bfloat16:
            return w
        inputs = math.prod(w.shape[:2]) if name == "out" else w.shape[0]
        return Transposed(w.reshape(inputs, -1).T)

    layer = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, index, keepdims=False), stack)
    parts = {part: dict(layer[part]) for part in ("attention", "mlp")}
    mlp = parts["mlp"]
    if all(isinstance(mlp.get(name), jax.Array) for name in ("gate", "up")):
        mlp["gate_up"] = jnp.concatenate((mlp.pop("gate"), mlp.pop("up")), axis=-1)
    for part in parts.values():
        part.update({name: stored(name, w) for name, w in part.items()})
    return {**layer, **parts}

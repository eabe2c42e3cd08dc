"""Weights in int8 with one scale an output channel, for sampling.

A step of the sampler reads every weight once for a few products a weight, so where rows are few its
time is that of reading them: int8 halves it against bfloat16, and halves the memory. Activations
stay as they are, and the scale multiplies the product:

    w[i, o] ~ scale[o] * q[i, o],   |q| <= 127,   scale[o] = max_i |w[i, o]| / 127
    x @ w   ~ (x @ q) * scale
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

_INPUT_AXES: Mapping[str, tuple[int, ...]] = {
    # Counted from the end, so that a stack of layers does not matter.
    "query": (-3,),
    "key": (-3,),
    "value": (-3,),
    "out": (-3, -2),
    "gate": (-2,),
    "up": (-2,),
    "down": (-2,),
    "head": (-2,),
    # A row is a token's embedding, and its output channel where the table is the head too.
    "embedding": (-1,),
}
"""The axes of each matrix that its product sums over."""


@flax.struct.dataclass
class Int8:
    """A matrix in int8; stands where the array would. In trees that describe parameters its leaves
    are what describes an array."""

    values: Any
    """int8, of the shape of the matrix."""
    scale: Any
    """float32, of that shape without the axes that a product sums over."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def dequantized(self, axes: tuple[int, ...]) -> jax.Array:
        """The float32 matrix that this stands for; `axes` are those that `scale` lacks."""
        return self.values * jnp.expand_dims(self.scale, axes)


def quantize(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with every matrix in int8; norms and biases stay as they are.

    Args:
      params: as `models.init_params` gives them, layers stacked or a tuple.

    Returns:
      The same tree with an `Int8` in the place of each matrix.
    """

    def one(path, leaf):
        axes = _INPUT_AXES.get(path[-1].key)
        if axes is None:
            return leaf
        w = leaf.astype(jnp.float32)
        scale = jnp.abs(w).max(axis=axes) / 127
        steps = jnp.expand_dims(jnp.maximum(scale, jnp.finfo(jnp.float32).tiny), axes)
        return Int8(values=jnp.round(w / steps).astype(jnp.int8), scale=scale)

    return jax.tree_util.tree_map_with_path(one, params)


def dequantize(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The float32 parameters that quantized ones stand for."""

    def one(path, leaf):
        return leaf.dequantized(_INPUT_AXES[path[-1].key]) if isinstance(leaf, Int8) else leaf

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=lambda x: isinstance(x, Int8))


def axes(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Logical axes of quantized parameters, from those of the parameters (`models.param_axes`)."""

    def one(path, names):
        summed = _INPUT_AXES.get(path[-1].key)
        if summed is None:
            return names
        kept = [n for i, n in enumerate(names) if i - len(names) not in summed]
        return Int8(values=names, scale=tuple(kept))

    is_names = lambda leaf: isinstance(leaf, tuple)
    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_names)

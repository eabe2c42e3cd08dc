"""Weights in int8 with one scale per output channel, for sampling.

A step of the sampler reads every weight once and uses it in few products, so with few rows the time
of a step is the time to read the weights. Compared with bfloat16, int8 halves this time and the
memory. Activations keep their dtype, and the scale multiplies the product:

    w[i, o] ~ scale[o] * q[i, o],   |q| <= 127,   scale[o] = max_i |w[i, o]| / 127
    x @ w   ~ (x @ q) * scale
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

INPUT_AXES: Mapping[str, tuple[int, ...]] = {
    # Counted from the end, so that they are the same with and without a stack of layers.
    "query": (-3,),
    "key": (-3,),
    "value": (-3,),
    "out": (-3, -2),
    "gate": (-2,),
    "up": (-2,),
    "down": (-2,),
    "head": (-2,),
    # A row is the embedding of a token and, if the head is tied, the token's output channel.
    "embedding": (-1,),
}
"""Axes of each matrix that its product sums over."""


@flax.struct.dataclass
class Int8:
    """A matrix in int8, in place of the array in a tree of parameters.

    In a tree that describes parameters, `values` and `scale` describe an array: by its shape, its
    sharding or the names of its axes.
    """

    values: Any
    """Quantized matrix, int8, of the shape of the matrix."""
    scale: Any
    """Scales, float32; the shape of the matrix without the axes that its product sums over."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.values.shape

    def dequantized(self, axes: tuple[int, ...]) -> jax.Array:
        """Returns the matrix in float32; `axes` are the axes that `scale` lacks."""
        return self.values * jnp.expand_dims(self.scale, axes)


def quantize(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters with every matrix in int8; norms and biases are unchanged.

    Args:
      params: as `models.init_params` returns them, layers stacked or in a tuple.

    Returns:
      The same tree with an `Int8` in place of each matrix.
    """

    def one(path, leaf):
        axes = INPUT_AXES.get(path[-1].key)
        if axes is None:
            return leaf
        w = leaf.astype(jnp.float32)
        scale = jnp.abs(w).max(axis=axes) / 127
        steps = jnp.expand_dims(jnp.maximum(scale, jnp.finfo(jnp.float32).tiny), axes)
        return Int8(values=jnp.round(w / steps).astype(jnp.int8), scale=scale)

    return jax.tree_util.tree_map_with_path(one, params)


def dequantize(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the float32 parameters that quantized ones represent."""

    def one(path, leaf):
        return leaf.dequantized(INPUT_AXES[path[-1].key]) if isinstance(leaf, Int8) else leaf

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=lambda x: isinstance(x, Int8))


def axes(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the logical axes of quantized parameters from `models.param_axes`."""

    def one(path, names):
        summed = INPUT_AXES.get(path[-1].key)
        if summed is None:
            return names
        kept = [n for i, n in enumerate(names) if i - len(names) not in summed]
        return Int8(values=names, scale=tuple(kept))

    is_names = lambda leaf: isinstance(leaf, tuple)
    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_names)

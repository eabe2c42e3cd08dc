"""Products of activations with the decoder's matrices, and with keys and values."""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from restem.models import sharding
from restem.models.int8 import Int8
from restem.models.lora import Adapted

_TRANSPOSED = 256
"""Columns that are transposed at a time; more of them take more products, fewer more calls."""
_MOST_TRANSPOSED = 32768
"""Most columns that are transposed: not those of a vocabulary."""
PRODUCT = "product"
"""Name by which a backward pass that keeps products finds those of `product_in_float32`."""


@flax.struct.dataclass
class Transposed:
    """A matrix stored as [outputs, inputs], in place of the array in a tree of parameters."""

    matrix: Any
    """The matrix [..., outputs, inputs], or an `Int8`; each side is one axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored matrix."""
        return self.matrix.shape


def is_transposed(w: Any) -> bool:
    """Whether a matrix, perhaps with an adapter, is stored as [outputs, inputs]."""
    return isinstance(w.base if isinstance(w, Adapted) else w, Transposed)


def sums_in_float32(x: jax.Array) -> bool:
    """Whether products of x are made by `product_in_float32`, which is faster then."""
    return x.dtype == jnp.bfloat16 and sharding.on_one_cpu()


def dense(
    x: Float[Array, "batch length *inputs"],
    w: jax.Array | Int8 | Transposed | Adapted,
    *,
    inputs: int = 1,
) -> Float[Array, "batch length *outputs"]:
    """Multiplies x [batch, length, *inputs] by w [*inputs, *outputs].

    The product is one of two matrices: for products over [batch, length] or over two axes of a
    weight, XLA's CPU backend transposes copies, above all in the backward pass. A length that is
    split over devices stays an axis of its own, because a flat one would have to be gathered.

    Args:
      x: activations.
      w: the matrix; with a `Transposed` one, there is one axis of outputs.
      inputs: number of input axes of w.
    """
    if isinstance(w, Adapted):
        low = dense(x, w.a, inputs=inputs)
        y = dense(x, w.base, inputs=inputs)
        return y + w.scale * dense(low, w.b)
    batch, length = x.shape[:2]
    axis = 0  # of the matrix, over which the product sums
    stored: Any = w
    if isinstance(w, Transposed):
        x, inputs, axis, stored = x.reshape(batch, length, -1), 1, 1, w.matrix
    matrix = stored.values.astype(x.dtype) if isinstance(stored, Int8) else _from_bits(stored)
    outputs = matrix.shape[:1] if axis else matrix.shape[inputs:]
    if batch > 1 and sharding.parts("length") > 1:
        y = jnp.tensordot(x, (matrix.T if axis else matrix).astype(x.dtype), inputs)
        return (y * stored.scale).astype(x.dtype) if isinstance(stored, Int8) else y
    rows = x.reshape(batch * length, -1)
    y = _product(rows, matrix if axis else matrix.reshape(rows.shape[1], -1), axis)
    if isinstance(stored, Int8):
        y = (y * stored.scale.reshape(-1)).astype(x.dtype)
    return y.reshape(batch, length, *outputs)


def _from_bits(w: jax.Array) -> jax.Array:
    """Returns a matrix that may be given by its bits (`params.as_bits`)."""
    return jax.lax.bitcast_convert_type(w, jnp.bfloat16) if w.dtype == jnp.uint16 else w


def _product(
    x: Float[Array, "rows inputs"], w: Float[Array, "_ _"], axis: int
) -> Float[Array, "rows outputs"]:
    """Returns the product of x and w in the dtype of x, over the dimension `axis` of w."""
    if sums_in_float32(x):
        return checkpoint_name(product_in_float32(x, w, axis).astype(x.dtype), PRODUCT)
    return x @ (w.T if axis else w).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product_in_float32(
    x: Float[Array, "rows inputs"], w: Float[Array, "_ _"], axis: int = 0
) -> Float[Array, "rows outputs"]:
    """Returns the product of x and w in float32, over the dimension `axis` of w.

    XLA's CPU backend multiplies bfloat16 by the processor's matrix unit (AMX) where the result is
    float32. Otherwise, and where one factor is float32, it converts all to float32, whose products
    took up to six times as long. So the factors of the backward pass are rounded too.
    """
    return _contract(x, w.astype(x.dtype), 1, axis)


def _product_forward(x, w, axis):
    return product_in_float32(x, w, axis), (x, w)


def _product_backward(axis, factors, g):
    x, w = factors
    g = g.astype(x.dtype)
    of_x = _contract(g, w.astype(x.dtype), 1, 1 - axis)
    of_w = _transposed_product(x, g) if axis == 0 else _transposed_product(g, x)
    return of_x.astype(x.dtype), of_w.astype(w.dtype)


product_in_float32.defvjp(_product_forward, _product_backward)


def _transposed_product(
    x: Float[Array, "rows inputs"], g: Float[Array, "rows outputs"]
) -> Float[Array, "inputs outputs"]:
    """Returns x^T g in float32.

    XLA makes a transpose part of the product, which then is not one that the matrix unit does. So x
    is transposed by products with an identity matrix, which are exact, some columns at a time.
    """
    inputs = x.shape[1]
    if inputs > _MOST_TRANSPOSED:
        return _contract(x, g, 0, 0)
    pieces = [x[:, i : i + _TRANSPOSED] for i in range(0, inputs, _TRANSPOSED)]
    eye = functools.partial(jnp.eye, dtype=x.dtype)
    transposed = [_contract(eye(p.shape[1]), p, 1, 1).astype(x.dtype) for p in pieces]
    return _contract(jnp.concatenate(transposed), g, 1, 0)


def _contract(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """Multiplies two matrices over these axes, summed in float32."""
    axes = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def product_by_head(
    x: Float[Array, "*batch_and_rows inner"],
    w: Float[Array, "*batch _ _"],
    *,
    transposed: bool = False,
) -> Float[Array, "*batch_and_rows columns"]:
    """Multiplies x [*batch, *rows, inner] by w [*batch, inner, columns], in float32.

    Args:
      x: queries or attention weights.
      w: keys or values, of the dtype of x.
      transposed: whether w is [*batch, columns, inner].
    """
    if sharding.on_one_cpu() and not transposed:
        rows = x.reshape(*w.shape[:-2], -1, x.shape[-1])
        return _matrix_product(rows, w).reshape(*x.shape[:-1], w.shape[-1])
    batch = tuple(range(w.ndim - 2))
    inner = ((x.ndim - 1,), (w.ndim - 1 if transposed else w.ndim - 2,))
    return jax.lax.dot_general(x, w, (inner, (batch, batch)), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _matrix_product(
    x: Float[Array, "*batch rows inner"], w: Float[Array, "*batch inner columns"]
) -> Float[Array, "*batch rows columns"]:
    """Multiplies matrices, summed in float32, with a backward pass for a CPU.

    XLA's CPU backend copies a factor that is transposed. For the gradient of the values that would
    be the whole matrix of attention weights; here only matrices of the size of keys and values are
    transposed. The factors of the backward pass are rounded, as in `product_in_float32`.
    """
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def _matrix_product_forward(x, w):
    return _matrix_product(x, w), (x, w)


def _matrix_product_backward(factors, g):
    x, w = factors
    g = g.astype(x.dtype)
    transposed = lambda a: jnp.swapaxes(a, -1, -2)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    of_x = product(g, transposed(w))
    if x.shape[-1] <= g.shape[-1]:
        of_w = product(transposed(x), g)
    else:
        of_w = transposed(product(transposed(g), x))
    return of_x.astype(x.dtype), of_w.astype(w.dtype)


_matrix_product.defvjp(_matrix_product_forward, _matrix_product_backward)

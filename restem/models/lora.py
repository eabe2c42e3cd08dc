"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): a difference from frozen weights.

A matrix w [in, out] of the decoder becomes

    w + s a b,    a [in, rank],   b [rank, out],   s = alpha / rank    (section 4.1 there)

where s = alpha / sqrt(rank) with rank stabilisation (rsLoRA, arXiv 2312.03732). Only a and b are
trained. b starts at zero, so that training starts from the base policy.

An adapter is a tree beside the parameters: at the path of each adapted matrix, {"a": ..., "b": ...}
with the layers stacked as the matrix's are. `attach` joins the two trees: an `Adapted` stands where
the matrix would, and the decoder computes x w + s (x a) b from it.

Letters: L layers, i input axes of a matrix, o output axes, r rank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from restem.models.int8 import INPUT_AXES, Int8, quantize
from restem.runtime.checks import Check, above, at_least

Params = Mapping[str, Any]

Adapter = Mapping[str, Any]
"""A tree with {"a": [L, *i, r], "b": [L, r, *o]}, float32, at the path of each adapted matrix."""

TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
"""Matrices of a layer that can be adapted."""

_TARGETS = Check(
    f"some of {', '.join(map(repr, TARGETS))}",
    lambda names: bool(names) and set(names) <= set(TARGETS),
)


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which matrices are adapted, and how."""

    rank: Annotated[int, at_least(1)] = 16
    """Rank of the difference, at most the smaller side of a matrix."""
    alpha: Annotated[float, above(0)] = 32.0
    """Scale of the difference, which is multiplied by alpha / rank."""
    targets: Annotated[Sequence[str], _TARGETS] = TARGETS
    """Names of the adapted matrices."""
    rank_stabilised: bool = False
    """Whether to multiply by alpha / sqrt(rank) instead, so that larger ranks learn as fast
    (rsLoRA)."""
    base_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    """Dtype of the frozen weights: float32, bfloat16, int8, or None for the policy's own."""

    def __post_init__(self):
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} is not positive")
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} is not positive")
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            raise ValueError(f"targets={self.targets} are not among {', '.join(TARGETS)}")
        if self.base_dtype not in (None, "float32", "bfloat16", "int8"):
            raise ValueError(
                f"base_dtype={self.base_dtype!r} is none of float32, bfloat16, int8, None"
            )

    @property
    def scale(self) -> float:
        """The factor s of the difference."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@flax.struct.dataclass
class Adapted:
    """A frozen matrix with its adapter, in place of the matrix in a tree of parameters."""

    base: Any
    """The matrix [..., *i, *o], or an `Int8`."""
    a: Any
    """[..., *i, r] float32."""
    b: Any
    """[..., r, *o] float32."""
    scale: float = flax.struct.field(pytree_node=False)
    """The factor s."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> Any:
        return self.base.dtype


def init(param_shapes: Params, lora: Lora, key: jax.Array) -> Adapter:
    """Returns an adapter that changes nothing yet.

    a is uniform in +-1 / sqrt(i), as in the `peft` package; b is zero.

    Args:
      param_shapes: the parameters, layers stacked, or their shapes (`models.param_shapes`).
      lora: rank and targets.
      key: PRNG key.

    Raises:
      ValueError: the rank exceeds a side of a matrix, or the decoder lacks a target.
    """
    adapter: dict[str, Any] = {}
    for index, (path, leaf) in enumerate(_targets(param_shapes, lora).items()):
        stack, inputs, outputs = _sides(path[-1], leaf.shape)
        if lora.rank > min(math.prod(inputs), math.prod(outputs)):
            raise ValueError(
                f"rank={lora.rank} exceeds a side of {'/'.join(path)} "
                f"[{math.prod(inputs)}, {math.prod(outputs)}]"
            )
        bound = math.prod(inputs) ** -0.5
        shape = (*stack, *inputs, lora.rank)
        a = jax.random.uniform(jax.random.fold_in(key, index), shape, minval=-bound, maxval=bound)
        _put(adapter, path, {"a": a, "b": jnp.zeros((*stack, lora.rank, *outputs))})
    return adapter


def shapes(param_shapes: Params, lora: Lora) -> Adapter:
    """Returns the tree of `jax.ShapeDtypeStruct` that `init` would fill; nothing is allocated."""
    return jax.eval_shape(lambda: init(param_shapes, lora, jax.random.key(0)))


def axes(param_axes: Params, lora: Lora) -> Adapter:
    """Returns the logical axes of an adapter's arrays: those of the matrix, and None for the rank.

    Args:
      param_axes: of the parameters (`models.param_axes`).
      lora: the targets.
    """
    found: dict[str, Any] = {}
    for path, names in _targets(param_axes, lora).items():
        _put(found, path, pair_axes(path[-1], names))
    return found


def pair_axes(name: str, matrix_axes: Sequence[Any]) -> dict[str, tuple]:
    """Returns descriptions of the dimensions of a and b, from those of matrix `name`."""
    stack, inputs, outputs = _sides(name, matrix_axes)
    return {"a": (*stack, *inputs, None), "b": (*stack, None, *outputs)}


def attach(params: Params, adapter: Adapter, lora: Lora) -> Params:
    """Returns parameters with an `Adapted` at each matrix of `adapter`; nothing is copied.

    Args:
      params: of the decoder, layers stacked; matrices may be `Int8`.
      adapter: as `init` returns it.
      lora: gives the scale.
    """

    def join(below: Any, adapter: Adapter) -> Any:
        if set(adapter) == {"a", "b"}:
            return Adapted(base=below, a=adapter["a"], b=adapter["b"], scale=lora.scale)
        return {**below, **{name: join(below[name], pair) for name, pair in adapter.items()}}

    return join(params, adapter)


def detach(params: Params) -> tuple[Params, Adapter]:
    """Returns the frozen parameters and the adapter that `attach` joined; {} if there is none."""

    def split(below: Any) -> tuple[Any, Adapter]:
        if isinstance(below, Adapted):
            return below.base, {"a": below.a, "b": below.b}
        if not isinstance(below, Mapping):
            return below, {}
        base, adapter = {}, {}
        for name, leaf in below.items():
            base[name], found = split(leaf)
            if found:
                adapter[name] = found
        return base, adapter

    return split(params)


def is_adapted(params: Params) -> bool:
    """Returns whether any matrix of `params` carries an adapter."""
    is_matrix = lambda leaf: isinstance(leaf, Adapted)
    return any(map(is_matrix, jax.tree.leaves(params, is_leaf=is_matrix)))


def round_base(params: Params, lora: Lora) -> Params:
    """Returns frozen weights in the dtype that `lora.base_dtype` asks for."""
    if lora.base_dtype is None:
        return params
    if lora.base_dtype == "int8":
        is_rounded = any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(params))
        return params if is_rounded else jax.jit(quantize)(params)
    return jax.tree.map(lambda leaf: leaf.astype(lora.base_dtype), params)


def dequantize_base(params: Params) -> Params:
    """Returns the parameters with int8 matrices in float32; adapters are kept."""

    def one(path, leaf):
        name = path[-1].key
        if isinstance(leaf, Adapted):
            return dataclasses.replace(leaf, base=one(path, leaf.base))
        return leaf.dequantized(INPUT_AXES[name]) if isinstance(leaf, Int8) else leaf

    is_matrix = lambda leaf: isinstance(leaf, (Adapted, Int8))
    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_matrix)


def merge(params: Params) -> Params:
    """Returns parameters with w + s a b, rounded to w's dtype, in place of each `Adapted`.

    Matrices in int8 keep their adapter: rounding the sum to int8 would lose most of it.
    """

    def one(leaf):
        if not isinstance(leaf, Adapted) or isinstance(leaf.base, Int8):
            return leaf
        return (leaf.base.astype(jnp.float32) + difference(leaf)).astype(leaf.base.dtype)

    return jax.tree.map(one, params, is_leaf=lambda x: isinstance(x, Adapted))


def difference(leaf: Adapted) -> jax.Array:
    """Returns s a b in float32, of the shape of the matrix, [..., *i, *o]."""
    shape, rank = leaf.shape, leaf.a.shape[-1]
    stack = shape[: leaf.a.ndim + leaf.b.ndim - 2 - len(shape)]
    a = leaf.a.reshape(*stack, -1, rank)
    b = leaf.b.reshape(*stack, rank, -1)
    return (leaf.scale * (a @ b)).reshape(shape)


def _targets(tree: Params, lora: Lora) -> dict[tuple[str, ...], Any]:
    """Returns path -> leaf of the adapted matrices of a tree structured like the parameters."""
    found = {}

    def walk(path: tuple[str, ...], below: Any) -> None:
        if isinstance(below, Mapping):
            for name, leaf in below.items():
                walk((*path, name), leaf)
        elif path[-1] in lora.targets:
            found[path] = below

    walk(("layers",), tree["layers"])
    missing = sorted(set(lora.targets) - {path[-1] for path in found})
    if missing:
        raise ValueError(f"the decoder has no matrix named {', '.join(missing)} to adapt")
    return found


def _sides(name: str, shape: Sequence[Any]) -> tuple[tuple, tuple, tuple]:
    """Splits the dimensions of matrix `name`, or their names, into stack, input and output."""
    summed = {axis % len(shape) for axis in INPUT_AXES[name]}
    first = min(summed)
    inputs = tuple(shape[axis] for axis in sorted(summed))
    return tuple(shape[:first]), inputs, tuple(shape[first + len(inputs) :])


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value

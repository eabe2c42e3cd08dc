"""Streams tensors of a file into the parameters, one layer of one leaf at a time.

Layers are stacked in our parameters but are tensors of their own in files. Each stack is first
allocated on the devices with its final sharding; then every layer is read, a shard's rows at a
time, and written into it in place. The host never holds more than one tensor of the file besides
what is already on its devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from restem import models
from restem.checkpoints.names import LAYOUTS
from restem.errors import UserError
from restem.models.config import ModelConfig

Shardings = Any
"""One `jax.sharding.Sharding` for all leaves, a tree of them shaped as the parameters, or a
function from `ModelConfig` to either; None leaves the choice to JAX (one device)."""


class Source(Protocol):
    """Tensors by name, in Hugging Face's layout."""

    path: Any
    """What to call the file or folder in an error."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape by its name."""

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Rows of a tensor, in any float dtype."""


def stream(
    config: ModelConfig,
    source: Source,
    *,
    template: Mapping[str, str],
    dtype: str = "float32",
    shardings: Shardings | Callable[[ModelConfig], Shardings] = None,
    transform: Callable[[str], Callable[[np.ndarray], np.ndarray] | None] = lambda leaf: None,
) -> models.Params:
    """Parameters of `config`, read from `source`.

    Args:
      config: what the file holds; every leaf of its tree must be there, and nothing else.
      source: the file.
      template: leaf path -> tensor name with {layer} (`names.Family.hf` or `.gguf`).
      dtype: dtype of the parameters.
      shardings: where they go.
      transform: leaf path -> what to do to the rows as read, or None.

    Raises:
      UserError: a tensor is missing, has another shape, or is one that the family has not.
    """
    shapes = models.param_shapes(config, dtype)
    if callable(shardings):
        shardings = shardings(config)
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        placed = jax.tree.map(lambda _: shardings, shapes)
        placed_leaves = [shardings] * len(jax.tree.leaves(placed, is_leaf=lambda x: x is None))
    else:
        placed_leaves = jax.tree.leaves(shardings)

    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    paths = ["/".join(key.key for key in path) for path, _ in leaves]
    ours = {path: leaf.shape for path, (_, leaf) in zip(paths, leaves, strict=True)}
    _check_names(config, source, ours, template)
    arrays = []
    for path, (_, leaf), sharding in zip(paths, leaves, placed_leaves, strict=True):
        args = (source, template[path], path, leaf, sharding, transform(path))
        arrays.append(_stacked(*args) if path.startswith("layers/") else _single(*args))
    return jax.tree.unflatten(tree, arrays)


def _check_names(config, source, ours, template):
    available = source.shapes()
    wanted: dict[str, str] = {}
    for path in ours:
        layers = range(config.num_layers) if path.startswith("layers/") else [0]
        wanted |= {template[path].format(layer=layer): path for layer in layers}
    missing = [name for name in wanted if name not in available]
    if missing:
        raise UserError(
            f"{source.path} lacks {len(missing)} tensors that its config calls for, such as "
            f"{missing[0]}: is a shard missing, or is it another architecture than {config.family}?"
        )
    # A tied head may be stored a second time.
    unknown = [n for n in available if n not in wanted and n != template.get("head")]
    if unknown:
        raise UserError(
            f"{source.path} has {len(unknown)} tensors that restem's family {config.family!r} "
            f"does not have, such as {unknown[0]}; this variant is not supported"
        )
    for name, path in wanted.items():
        shape = ours[path][1:] if path.startswith("layers/") else ours[path]
        stored = LAYOUTS[path].stored_shape(shape)
        if tuple(available[name]) != stored:
            raise UserError(
                f"{source.path}: {name} has shape {list(available[name])}, but the config says "
                f"{list(stored)}; config and tensors do not belong together"
            )


def _read(source, name, path, leaf, transform, index) -> np.ndarray:
    """`index` of one of our arrays, as a view of what the file holds."""
    layout = LAYOUTS[path]
    rows = source.read(name, layout.rows(leaf.shape, index))
    if transform is not None:
        rows = transform(rows)
    return layout.from_rows(rows, leaf.shape, index)


def _single(source, name, path, leaf, sharding, transform) -> jax.Array:
    def read(index):
        ours = _read(source, name, path, leaf, transform, index)
        return np.ascontiguousarray(ours.astype(leaf.dtype, copy=False))

    if sharding is None:
        return jnp.asarray(read((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, sharding, read)


def _stacked(source, name, path, leaf, sharding, transform) -> jax.Array:
    one = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    if sharding is None and jax.default_backend() == "cpu":
        # The host is the device: nothing to stream to, and nothing to compile.
        host = np.empty(leaf.shape, leaf.dtype)
        for layer in range(leaf.shape[0]):
            everything = (slice(None),) * len(one.shape)
            host[layer] = _read(source, name.format(layer=layer), path, one, transform, everything)
        return jnp.asarray(host)
    one_sharding = None if sharding is None else _without_leading_axis(sharding)
    stack = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
    for layer in range(leaf.shape[0]):
        args = (source, name.format(layer=layer), path, one, one_sharding, transform)
        stack = _put(stack, _single(*args), layer, sharding=sharding)
    # Reading must not run ahead of the copies, or tensors queue up on the host.
    return jax.block_until_ready(stack)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="sharding")
def _put(stack, one, layer, *, sharding):
    stack = jax.lax.dynamic_update_index_in_dim(stack, one, layer, axis=0)
    return stack if sharding is None else jax.lax.with_sharding_constraint(stack, sharding)


def _without_leading_axis(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
        return jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding

"""Streams tensors of a file into parameters, one layer of one leaf at a time.

Layers are stacked in our parameters but are separate tensors in files. Each stack is first
allocated on the devices with its final sharding; then every layer is read, a shard's rows at a
time, and written into it in place. The host never holds more than one tensor of the file besides
what is already on its devices. A tensor is read and converted in pieces, by as many threads as
there are CPUs: NumPy gives up the interpreter's lock, and a small piece stays in a core's cache.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from restem import models
from restem.checkpoints.names import layout as layout_of
from restem.errors import UserError
from restem.models.config import ModelConfig

Shardings = Any
"""One `jax.sharding.Sharding` for all leaves, a tree of them shaped as the parameters, or a
function from `ModelConfig` to either; None leaves the choice to JAX (one device)."""

_PIECE = 1 << 19
"""Elements that a thread reads and converts at a time: 2 MiB of float32."""

Transform = Callable[[np.ndarray], np.ndarray]


class Source(Protocol):
    """Tensors by name, in Hugging Face's layout."""

    @property
    def path(self) -> Any:
        """Name of the file or folder in errors."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Returns every tensor's shape by its name."""

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Returns rows of a tensor, in any float dtype; called by several threads at once."""


def stream(
    config: ModelConfig,
    source: Source,
    *,
    template: Mapping[str, str],
    dtype: str = "float32",
    shardings: Shardings | Callable[[ModelConfig], Shardings] = None,
    transform: Callable[[str], Transform | None] = lambda leaf: None,
) -> models.Params:
    """Returns the parameters of `config`, read from `source`.

    Args:
      config: describes the file; it must hold every leaf of the config's tree, and nothing else.
      source: the file.
      template: leaf path -> tensor name with {layer} (`names.Family.hf` or `.gguf`).
      dtype: dtype of the parameters.
      shardings: where the parameters go.
      transform: leaf path -> function of the rows as read, or None.

    Raises:
      UserError: a tensor is missing, has another shape, or is unknown to the family.
    """
    shapes = models.param_shapes(config, dtype)
    leaves, tree = jax.tree.flatten(shapes)
    placed = placements(config, shapes, shardings)
    paths = leaf_paths(shapes)
    check_names(config, source, dict(zip(paths, leaves, strict=True)), template)
    arrays = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, leaf, sharding in zip(paths, leaves, placed, strict=True):
            reader = _Reader(source, template[path], path, transform(path), pool)
            read = _stacked if path.startswith("layers/") else _single
            arrays.append(read(reader, leaf, sharding))
    return jax.tree.unflatten(tree, arrays)


def stream_to_host(
    config: ModelConfig,
    source: Source,
    allocate: Callable[[str, jax.ShapeDtypeStruct], np.ndarray],
    *,
    template: Mapping[str, str],
    dtype: str,
    transform: Callable[[str], Transform | None] = lambda leaf: None,
) -> None:
    """Reads the parameters of `config` into arrays of the host.

    Args:
      config: as in `stream`, and so are `source`, `template`, `dtype` and `transform`.
      allocate: called with a leaf's path and its shape and dtype; returns the array to fill.

    Raises:
      UserError: as in `stream`.
    """
    shapes = models.param_shapes(config, dtype)
    leaves = dict(zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True))
    check_names(config, source, leaves, template)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, leaf in leaves.items():
            reader = _Reader(source, template[path], path, transform(path), pool)
            _fill(reader, leaf, allocate(path, leaf))


def leaf_paths(params: models.Params) -> list[str]:
    """Returns the path of every leaf ("layers/mlp/up"), in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return ["/".join(key.key for key in path) for path, _ in leaves]


def placements(
    config: ModelConfig, shapes: models.Params, shardings: Shardings
) -> list[jax.sharding.Sharding | None]:
    """Returns the sharding of every leaf, in the order of `jax.tree.leaves`."""
    if callable(shardings):
        shardings = shardings(config)
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return [shardings] * len(jax.tree.leaves(shapes))
    return jax.tree.leaves(shardings)


def check_names(
    config: ModelConfig,
    source: Source,
    ours: Mapping[str, jax.ShapeDtypeStruct],
    template: Mapping[str, str],
) -> None:
    """Compares the tensors of `source` with the leaves of `config`.

    Raises:
      UserError: a tensor is missing, has another shape, or is unknown to the family.
    """
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
        shape = ours[path].shape[1:] if path.startswith("layers/") else ours[path].shape
        stored = layout_of(path, shape).stored_shape(shape)
        if tuple(available[name]) != stored:
            raise UserError(
                f"{source.path}: {name} has shape {list(available[name])}, but the config says "
                f"{list(stored)}; config and tensors do not belong together"
            )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one leaf of the parameters, or one layer of it."""

    source: Source
    name: str
    """The tensor; with {layer} for a stack."""
    path: str
    """The leaf."""
    transform: Transform | None
    pool: Executor

    def of_layer(self, layer: int) -> _Reader:
        return dataclasses.replace(self, name=self.name.format(layer=layer))

    def read(self, shape: Sequence[int], index: Sequence[slice], out: np.ndarray) -> None:
        """Reads `index` of one of our arrays of `shape` into `out`, which has that part's shape."""
        layout = layout_of(self.path, shape)
        axis = layout.order[0]
        start, stop, _ = index[axis].indices(shape[axis])

        def piece(rows: slice) -> None:
            part = (*index[:axis], rows, *index[axis + 1 :])
            stored = self.source.read(self.name, layout.rows(shape, part))
            if self.transform is not None:
                stored = self.transform(stored)
            target = (slice(None),) * axis + (slice(rows.start - start, rows.stop - start),)
            out[target] = layout.from_rows(stored, shape, part)

        step = max(1, _PIECE * shape[axis] // math.prod(shape))
        list(self.pool.map(piece, _pieces(start, stop, step)))


def _pieces(start: int, stop: int, step: int) -> Iterator[slice]:
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


def _fill(reader: _Reader, leaf: jax.ShapeDtypeStruct, out: np.ndarray) -> None:
    """Reads a leaf, all layers of a stack, into `out`."""
    everything = (slice(None),) * len(leaf.shape)
    if "{layer}" not in reader.name:
        reader.read(leaf.shape, everything, out)
        return
    for layer in range(leaf.shape[0]):
        reader.of_layer(layer).read(leaf.shape[1:], everything[1:], out[layer])


def _single(
    reader: _Reader, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    def read(index):
        lengths = [len(range(*s.indices(n))) for s, n in zip(index, leaf.shape, strict=True)]
        out = _empty(lengths, leaf.dtype)
        reader.read(leaf.shape, index, out)
        return out

    if sharding is None:
        return jax.device_put(read((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, sharding, read)


def _empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Returns an array that JAX's CPU backend takes over without a copy: aligned to 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + size].view(dtype).reshape(shape)


def _stacked(
    reader: _Reader, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    if sharding is None and jax.default_backend() == "cpu":
        # The host is the device: nothing to stream to, and nothing to compile.
        host = _empty(leaf.shape, leaf.dtype)
        _fill(reader, leaf, host)
        return jax.device_put(host)
    one = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    one_sharding = None if sharding is None else _without_leading_axis(sharding)
    stack = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
    for layer in range(leaf.shape[0]):
        read = _single(reader.of_layer(layer), one, one_sharding)
        stack = _put(stack, read, layer, sharding=sharding)
    # Reading must not run ahead of the copies, or tensors queue up on the host.
    return jax.block_until_ready(stack)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="sharding")
def _put(stack, one, layer, *, sharding):
    """Returns `stack` [layers, ...] with `one` [...] as its layer `layer`."""
    stack = jax.lax.dynamic_update_index_in_dim(stack, one, layer, axis=0)
    return stack if sharding is None else jax.lax.with_sharding_constraint(stack, sharding)


def _without_leading_axis(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
        return jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding

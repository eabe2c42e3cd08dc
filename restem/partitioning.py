"""The device mesh, the layout of a model on it, and transfers between hosts, devices and meshes.

A mesh has three axes. `data` holds copies of the policy that process different rows; `fsdp` splits
rows too, and every parameter along its embedding dimension; `tensor` splits the heads, the hidden
dimension of the feed-forward block and the vocabulary. Rows are split over data x fsdp.

    data=2, fsdp=2, tensor=2      embedding [vocab, embed] -> P("tensor", "fsdp"), 2 copies
                                  tokens    [batch, length] -> P(("data", "fsdp"), None)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.core import spmd
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from restem import models
from restem.errors import UserError
from restem.models import int8, kv_cache, lora
from restem.models.kv_cache import KVCache
from restem.models.sharding import Rules, partition_spec

AXES = ("data", "fsdp", "tensor")
"""Names of the mesh axes, outermost first."""

RULES: Rules = (
    ("batch", ("data", "fsdp")),
    ("chunks", None),
    ("length", None),
    ("embed", "fsdp"),
    ("embed_act", None),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
    ("cache_length", None),
)
"""Logical axis -> mesh axes. A prefix has no batch axis, so every data x fsdp part holds the whole
prefix, split over `tensor` by heads only."""

MAY_STAY_WHOLE = ("kv_heads",)
"""Logical axes that are replicated if they do not divide. Multi-query and narrow grouped-query
models have fewer key heads than `tensor` has parts; every part then keeps all of the key heads,
which is cheap because they are few."""


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Returns a mesh of all devices, or of `devices`.

    Args:
      data: number of copies of the policy; one of the three sizes may be -1 and is then inferred
        from the number of devices.
      fsdp: number of parts into which each parameter is split along its embedding dimension.
      tensor: number of parts into which heads, feed-forward block and vocabulary are split.
      devices: devices of the mesh; None: `jax.devices()`, those of all hosts. `jax.local_devices()`
        makes a mesh of this host alone, on which no step waits for another host.

    Returns:
      A mesh with axes "data", "fsdp", "tensor". Neighbours on the interconnect are placed along
      `tensor` first, and the TPU slices of a multi-slice job along `data`.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or slices do not divide `data`.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(len(devices), data=data, fsdp=fsdp, tensor=tensor)
    slice_of = lambda d: getattr(d, "slice_index", 0) or 0
    slices = len({slice_of(d) for d in devices})
    if len(devices) == 1 or devices[0].platform != "tpu":
        # To JAX, the GPUs of each host are a slice; any axis may continue on the next host.
        order = lambda d: (slice_of(d), d.process_index, d.id)
        grid = np.asarray(sorted(devices, key=order)).reshape(shape)
    elif slices > 1:
        if shape[0] % slices:
            raise UserError(
                f"mesh data={shape[0]} cannot be split over {slices} slices: set data to a "
                f"multiple of {slices}, so that only gradients cross between slices"
            )
        grid = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]), (slices, 1, 1), devices,
            allow_split_physical_axes=True,
        )  # fmt: skip
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Returns a mesh of this host's devices, on which it samples without waiting for other hosts.

    See `make_mesh`; the sizes multiply to the number of devices of one host.
    """
    return make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=jax.local_devices())


def is_shared(mesh: Mesh | None) -> bool:
    """Returns whether a mesh has devices of other hosts, so that all hosts run the same program."""
    return mesh is not None and mesh.is_multi_process


def mesh_shape(count: int, *, data: int = -1, fsdp: int = 1, tensor: int = 1) -> tuple[int, ...]:
    """Returns the sizes of the axes for `count` devices, with -1 filled in.

    Raises:
      UserError: the sizes do not multiply to `count`.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    text = ", ".join(f"{k}={v}" for k, v in sizes.items())
    free = [k for k, v in sizes.items() if v == -1]
    if len(free) > 1 or any(v < 1 and v != -1 for v in sizes.values()):
        raise UserError(f"mesh {text}: sizes are positive, and at most one is -1")
    given = math.prod(v for v in sizes.values() if v != -1)
    if free:
        if count % given:
            raise UserError(
                f"mesh {text}: {count} devices are not a multiple of {given}; set fsdp x tensor to "
                f"a divisor of {count}"
            )
        sizes[free[0]] = count // given
    elif given != count:
        raise UserError(
            f"mesh {text} needs {given} devices, but there are {count}; set data=-1 to use them all"
        )
    return tuple(sizes.values())


@contextlib.contextmanager
def use(mesh: Mesh | None, rules: Rules = RULES) -> Iterator[None]:
    """Activates a mesh and its rules, which lay out everything traced inside the block.

    JAX caches compiled functions per mesh, so one function may be called under both the mesh of the
    E-step and that of the M-step. If `mesh` is None, the block runs without a mesh.
    """
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), spmd.logical_axis_rules(rules):
        yield


def use_rules(rules: Rules):
    """Returns a context in which other rules lay out what is traced on the mesh in force."""
    return spmd.logical_axis_rules(rules)


def sharding(
    mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int], rules: Rules = RULES
) -> NamedSharding:
    """Returns the sharding for logical axes; a dimension that does not divide stays whole."""
    return NamedSharding(mesh, partition_spec(axes, shape, dict(mesh.shape), rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int = 1) -> NamedSharding:
    """Returns the sharding of rows over data x fsdp; the other `ndim - 1` dimensions stay whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *[None] * (ndim - 1)))


def batch_parts(mesh: Mesh) -> int:
    """Returns the number of parts that rows are split into; it must divide the batch size."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def param_shardings(
    config: models.ModelConfig, mesh: Mesh, rules: Rules = RULES
) -> Mapping[str, Any]:
    """Returns a NamedSharding for every parameter, in the tree of `models.init_params`.

    Raises:
      UserError: a dimension does not divide; see `check_divisible`.
    """
    check_divisible(config, mesh, rules)
    return jax.tree.map(
        lambda axes, leaf: sharding(mesh, axes, leaf.shape, rules),
        models.param_axes(config),
        models.param_shapes(config),
        is_leaf=_is_axes,
    )


def adapter_shardings(shardings: Mapping[str, Any], form: lora.Lora) -> Mapping[str, Any]:
    """Returns a NamedSharding for every array of an adapter: that of the matrix beside it.

    The rank is whole everywhere:

        layers/mlp/up      [layers, embed, mlp]    P(None, "fsdp", "tensor")
        layers/mlp/up/a    [layers, embed, rank]   P(None, "fsdp", None)
        layers/mlp/up/b    [layers, rank, mlp]     P(None, None, "tensor")

    Args:
      shardings: those of the parameters (`param_shardings`).
      form: rank and targets of the adapter.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    entries = jax.tree.map(lambda placed: tuple(placed.spec), shardings)
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, PartitionSpec(*spec)),
        lora.axes(entries, form),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def place_params(
    params: models.Params, config: models.ModelConfig, mesh: Mesh, rules: Rules = RULES
) -> models.Params:
    """Moves the parameters of a policy to a mesh; matrices may be in int8 or carry adapters."""
    shardings = param_shardings(config, mesh, rules)

    def of_matrix(name: str, leaf: Any, placed: NamedSharding) -> Any:
        """The shardings of what stands where a matrix would."""
        spec = tuple(placed.spec)
        if isinstance(leaf, lora.Adapted):
            pair = lora.pair_axes(name, spec)
            a, b = (NamedSharding(mesh, PartitionSpec(*pair[side])) for side in ("a", "b"))
            return dataclasses.replace(leaf, base=of_matrix(name, leaf.base, placed), a=a, b=b)
        if isinstance(leaf, int8.Int8):
            axes = int8.axes({name: spec})[name].scale
            return int8.Int8(values=placed, scale=NamedSharding(mesh, PartitionSpec(*axes)))
        return placed

    is_matrix = lambda leaf: isinstance(leaf, (lora.Adapted, int8.Int8))
    places = jax.tree_util.tree_map_with_path(
        lambda path, leaf, placed: of_matrix(_key_name(path[-1]), leaf, placed),
        params,
        shardings,
        is_leaf=is_matrix,
    )
    return reshard(params, places)


def check_divisible(config: models.ModelConfig, mesh: Mesh, rules: Rules = RULES) -> list[str]:
    """Checks that every parameter divides over the mesh.

    Returns:
      Notes for the log, such as key heads that are replicated over `tensor`.

    Raises:
      UserError: a dimension does not divide; the message names the leaf, the axis and the sizes of
        the mesh axis that would divide it.
    """
    table = dict(rules)
    axes_of = _by_path(models.param_axes(config), is_leaf=_is_axes)
    shapes = _by_path(models.param_shapes(config))
    notes = []
    sizes: dict[tuple[str, ...], list[int]] = {}
    broken = []
    for path, axes in axes_of.items():
        for name, size in zip(axes, shapes[path].shape, strict=True):
            wanted = table.get(name)
            wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
            parts = math.prod(mesh.shape[a] for a in wanted)
            if wanted and name not in MAY_STAY_WHOLE:
                sizes.setdefault(wanted, []).append(size)
            if size % parts == 0:
                continue
            text = f"{name}={size} over " + " x ".join(f"{a}={mesh.shape[a]}" for a in wanted)
            if name in MAY_STAY_WHOLE:
                notes.append(f"{path}: {text} does not divide; every part keeps all {size}")
            else:
                broken.append((path, shapes[path].shape, text, wanted))
    if broken:
        path, shape, text, wanted = broken[0]
        common = math.gcd(*sizes[wanted])
        fits = [n for n in range(1, min(common, 1024) + 1) if common % n == 0]
        raise UserError(
            f"parameter {path} {list(shape)} does not divide over the mesh: {text}; set "
            f"{' x '.join(wanted)} to one of {', '.join(map(str, fits))} "
            "(make_mesh in the hardware gin file)"
        )
    return notes


def cache_shardings(
    config: models.ModelConfig, mesh: Mesh, *, prefix: bool = False, rules: Rules = RULES
) -> KVCache:
    """Returns the shardings of a cache, or of a prefix, in the structure of a `KVCache`.

    Rows are placed like the rows of tokens, and heads like those of the key projection. A prefix
    has no rows.
    """
    shapes = kv_cache.shapes(config, None if prefix else batch_parts(mesh), 1)
    return jax.tree.map(
        lambda axes, leaf: sharding(mesh, axes, leaf.shape, rules),
        kv_cache.axes(prefix=prefix),
        shapes,
        is_leaf=_is_axes,
    )


def state_shardings(state: Any, params: Any, shardings: Any) -> Any:
    """Returns the shardings of an optimizer's state, derived from those of the parameters.

    A leaf belongs to the parameter whose path is a suffix of its own path. A leaf of the
    parameter's shape gets the parameter's sharding; a leaf that lacks a dimension (Adafactor's row
    and column factors) gets that sharding without the dimension's entry; counters and placeholders
    are replicated.

        mu/layers/mlp/up        [layers, embed, mlp]  P(None, "fsdp", "tensor")   the same
        v_row/layers/mlp/up     [layers, embed]       P(None, "fsdp")
        count                   []                    P()

    Args:
      state: pytree of arrays or shapes, such as `jax.eval_shape(optimizer.init, params)`.
      params: pytree of the parameters, or of their shapes.
      shardings: pytree of their NamedShardings.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in _by_path(params).items()}
    placed = _by_path(shardings)
    mesh = next(iter(placed.values())).mesh

    def place(path, leaf):
        keys = [_key_name(k) for k in path]
        for start in range(len(keys)):
            name = "/".join(keys[start:])
            if name in shapes:
                spec = _factor_spec(placed[name].spec, shapes[name], tuple(leaf.shape))
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, state)


def _factor_spec(spec, shape, leaf_shape) -> PartitionSpec:
    if leaf_shape == shape:
        return spec
    entries = (*spec, *[None] * (len(shape) - len(spec)))
    for kept in itertools.combinations(range(len(shape)), len(shape) - 1):
        # If two dimensions have equal sizes, either choice is a valid layout.
        if tuple(shape[i] for i in kept) == leaf_shape:
            return PartitionSpec(*(entries[i] for i in kept))
    return PartitionSpec()


def reshard(tree: Any, shardings: Any) -> Any:
    """Moves arrays to other shardings, possibly of another mesh.

    Between meshes of the same devices, parts move from device to device: parts already in place are
    not copied, and no host holds more than the parts of its own devices. To move arrays from a mesh
    of all hosts to each host's own mesh, see `localize`. In the other direction, every host has the
    whole array on its devices and contributes its part, one array at a time.
    """

    def move(leaf, target):
        if target.is_fully_addressable == leaf.is_fully_addressable:
            return jax.device_put(leaf, target)
        if target.is_fully_addressable:
            return localize(leaf, target.mesh, target)
        return jax.make_array_from_callback(
            leaf.shape, target, lambda index: np.asarray(leaf[index])
        )

    return jax.tree.map(move, tree, shardings)


def localize(tree: Any, local_mesh: Mesh, shardings: Any) -> Any:
    """Moves global arrays to this host's own mesh, so that it samples without waiting for others.

    Every host passes its own mesh of the same shape. The arrays move, device to device, to a mesh
    in which the hosts' meshes are stacked along `data`. Parameters are not split over `data`, so
    the parts on this host's devices are then exactly those of its own mesh.

    Args:
      tree: arrays on a mesh of all hosts.
      local_mesh: this host's mesh, of `jax.local_devices()`.
      shardings: those of the result, on `local_mesh`; none may use `data`.

    Raises:
      ValueError: a sharding splits an array over `data`.
    """
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    local = list(local_mesh.devices.flat)
    mine = by_process[jax.process_index()]
    order = [mine.index(device) for device in local]
    grids = [
        np.asarray([devices[i] for i in order]).reshape(local_mesh.devices.shape)
        for _, devices in sorted(by_process.items())
    ]
    stacked = Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def move(leaf, target):
        if "data" in jax.tree.leaves(tuple(target.spec)):
            raise ValueError(f"cannot localize an array that is split over data: {target.spec}")
        spread = jax.device_put(leaf, NamedSharding(stacked, target.spec))
        parts = [shard.data for shard in spread.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, target, parts)

    return jax.tree.map(move, tree, shardings)


def from_same_everywhere(sharding: NamedSharding, value: np.ndarray) -> jax.Array:
    """Returns a global array of a value that every host holds; each host places its own parts."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def to_all_hosts(tree: Any) -> Any:
    """Returns every array whole, as numpy, on every host; for small arrays such as metrics."""

    def whole(leaf):
        if leaf.is_fully_addressable:
            return np.asarray(leaf)
        return np.asarray(_spread(leaf.sharding.mesh)(leaf).addressable_data(0))

    return jax.tree.map(whole, tree)


@functools.lru_cache(maxsize=8)
def _spread(mesh: Mesh):
    """Returns a compiled copy to all devices; cached, because the sampler calls it often."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def _is_axes(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and all(x is None or isinstance(x, str) for x in leaf)


def _key_name(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def _by_path(tree: Any, is_leaf=None) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return {"/".join(_key_name(k) for k in path): leaf for path, leaf in leaves}

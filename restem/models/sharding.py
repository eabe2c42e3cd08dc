"""Layout of an array on a mesh, from the names of its logical axes.

The dimensions of parameters and activations have logical names ("embed", "heads", "batch", ...),
and rules map each name to the mesh axes it is split over. The rules and the mesh come from the
context of `restem.partitioning.use`; outside of it `constrain` does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from flax.core import spmd
from jax.sharding import PartitionSpec

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]
"""Pairs (logical axis, mesh axis or axes or None)."""


def partition_spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh_shape: Mapping[str, int],
    rules: Rules,
) -> PartitionSpec:
    """Returns the layout in which each dimension that divides is split by its rule.

    With rules embed -> fsdp, kv_heads -> tensor on a mesh of fsdp=4, tensor=8, a key projection
    ("embed", "kv_heads", "head") of shape [2048, 4, 128] becomes P("fsdp", None, None): its four
    heads cannot be split into eight parts. Mesh axes of size 1 are left out, and no mesh axis is
    used twice.
    """
    table = dict(rules)
    taken: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        wanted = table.get(name) if name is not None else None
        wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
        split = tuple(a for a in wanted if mesh_shape.get(a, 1) > 1 and a not in taken)
        parts = 1
        for axis in split:
            parts *= mesh_shape[axis]
        if not split or size % parts:
            entries.append(None)
            continue
        taken.update(split)
        entries.append(split[0] if len(split) == 1 else split)
    return PartitionSpec(*entries)


def on_one_cpu() -> bool:
    """Returns whether no mesh is in force and computations run on a CPU."""
    return jax.sharding.get_abstract_mesh().empty and jax.default_backend() == "cpu"


def parts(name: str) -> int:
    """Returns the number of parts that a logical axis is split into on the mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    wanted = dict(spmd.get_logical_axis_rules()).get(name)
    if mesh.empty or not wanted:
        return 1
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    return math.prod(mesh.shape[axis] for axis in wanted)


def mesh_axes(name: str, size: int) -> tuple[str, ...]:
    """Returns the axes of the mesh in force over which a dimension of this name and size is split.

    Args:
      name: logical name of the dimension.
      size: its size; a dimension that does not divide is not split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    rules = spmd.get_logical_axis_rules()
    if mesh.empty or not rules:
        return ()
    (entry,) = partition_spec((name,), (size,), dict(mesh.shape), rules)
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Lays out `x` on the mesh in force; `axes` names each of its dimensions."""
    mesh = jax.sharding.get_abstract_mesh()
    rules = spmd.get_logical_axis_rules()
    if mesh.empty or not rules:
        return x
    return jax.lax.with_sharding_constraint(
        x, partition_spec(axes, x.shape, dict(mesh.shape), rules)
    )

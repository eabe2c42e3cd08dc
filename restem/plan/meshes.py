"""The meshes of a run on devices that are not at hand: their sizes, and which policies they take.

`restem plan` and the launchers ask this before anything is compiled or paid for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from jax.sharding import AbstractMesh

from restem import partitioning
from restem.errors import UserError
from restem.models import ModelConfig
from restem.run.settings import LocalMeshSettings, MeshSettings, RunSettings


def number(mesh: MeshSettings | None, hosts: int) -> int:
    """Returns the number of meshes: one per host, or one for all."""
    return hosts if isinstance(mesh, LocalMeshSettings) else 1


def sizes(mesh: MeshSettings | None, devices: int, hosts: int) -> dict[str, int]:
    """Returns the axis sizes of a mesh over all devices of a job.

    Meshes of each host's own count as one, on which each host has other copies of the policy.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    mesh = mesh or MeshSettings()
    meshes = number(mesh, hosts)
    data, fsdp, tensor = partitioning.mesh_shape(
        devices // meshes, data=mesh.data, fsdp=mesh.fsdp, tensor=mesh.tensor
    )
    return dict(zip(partitioning.AXES, (data * meshes, fsdp, tensor), strict=True))


def of_run(run: RunSettings, devices: int, hosts: int) -> dict[str, dict[str, int]]:
    """Returns the axis sizes of the meshes "e_step" and "m_step" of a run.

    Raises:
      UserError: as in `sizes`.
    """
    return {
        "e_step": sizes(run.e_step_mesh, devices, hosts),
        "m_step": sizes(run.m_step_mesh, devices, hosts),
    }


def check(config: ModelConfig, run: RunSettings, devices: int, hosts: int) -> None:
    """Checks that a policy divides over the meshes of a run.

    Args:
      config: the policy's decoder.
      run: settings of the run.
      devices: number of devices of the job, over all hosts.
      hosts: number of hosts.

    Raises:
      UserError: it does not; the message names flags with which it does.
    """
    found = of_run(run, devices, hosts)
    errors = {step: error for step, mesh in found.items() if (error := _fault(config, mesh))}
    if not errors:
        return
    made = {"e_step": run.e_step_mesh, "m_step": run.m_step_mesh}
    flags = [_remedy(config, step, made[step], found[step]) for step in errors]
    remedy = f"; on these {devices} devices: {' '.join(flags)}" if all(flags) else ""
    raise UserError(f"{next(iter(errors.values()))}{remedy}")


def _fault(config: ModelConfig, mesh: Mapping[str, int]) -> str:
    """Returns why a policy does not divide over a mesh; "" if it does."""
    try:
        abstract = AbstractMesh(tuple(mesh.values()), tuple(mesh))
        partitioning.check_divisible(config, abstract)  # type: ignore[arg-type]  # reads its shape
    except UserError as e:
        return str(e)
    return ""


def _remedy(
    config: ModelConfig, step: str, mesh: MeshSettings | None, found: Mapping[str, int]
) -> str:
    """Returns flags for a mesh with fewer `tensor` parts, over which the policy divides; or ""."""
    name = "local_mesh" if isinstance(mesh, LocalMeshSettings) else "make_mesh"
    for tensor in range(found["tensor"] - 1, 0, -1):
        if found["tensor"] % tensor:
            continue
        freed = found["tensor"] // tensor
        # The axis that is inferred grows, else that which splits the parameters.
        grows = "data" if mesh is None or mesh.data == -1 else "fsdp"
        other = {**found, "tensor": tensor, grows: found[grows] * freed}
        assert math.prod(other.values()) == math.prod(found.values())
        if _fault(config, other):
            continue
        given = {"tensor": tensor}
        if mesh is not None and getattr(mesh, grows) != -1:
            given[grows] = other[grows]
        return " ".join(f"--gin.{step}/{name}.{axis}={size}" for axis, size in given.items())
    return ""

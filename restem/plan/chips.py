"""TPU chips, slices and GPUs: their peak rates, and their names in Google Cloud.

`restem plan`, which compiles for a slice, and the launchers, which request one, share this table.
A slice has three names: libtpu's topology ("v5e:4x8"), the accelerator type of the Cloud TPU API
("v5litepod-32"), and a machine type with a topology on GKE and Vertex AI ("ct5lp-hightpu-4t",
"4x8"). All three follow from the chip and the shape.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from restem.errors import UserError

_GIB = 2**30
_TPU_DOCS = "https://cloud.google.com/tpu/docs/"

_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Sources: peak rates and shapes, the page of the chip (`source`); runtime images,
    https://cloud.google.com/tpu/docs/runtimes; GKE labels and machine types,
    https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus; Vertex AI,
    https://cloud.google.com/vertex-ai/docs/training/configure-compute.
    """

    name: str
    """Name in a topology, such as "v5p"."""
    flops: float
    """Peak rate of bfloat16 matrix products, FLOP/s."""
    hbm_bandwidth: float
    """Bandwidth between HBM and the cores, bytes/s."""
    hbm: int
    """HBM that a program may use, in bytes, from libtpu 0.0.52's out-of-memory error."""
    ici: float
    """Rate at which a chip sends to all its neighbours together, bytes/s."""
    links: int
    """Number of neighbours on the interconnect: 4 in a 2D torus, 6 in a 3D torus."""
    chips_per_host: int
    """Number of chips per host in a slice of several hosts."""
    largest_host: int
    """Number of chips of the largest slice on one host."""
    tensor_cores: int
    """Number of TensorCores per chip; accelerator types count these."""
    accelerator_prefix: str
    """First part of the accelerator type in the Cloud TPU API."""
    runtime_version: str
    """Image of Cloud TPU VMs (`--runtime-version`)."""
    machine_family: str
    """Machine type on GKE and Vertex AI, without its last part, the number of chips."""
    gke_accelerator: str
    """Value of the node label cloud.google.com/gke-tpu-accelerator."""
    on_vertex: bool
    """Whether Vertex AI accepts this chip by machine type and topology in a CustomJob."""
    shapes: tuple[str, ...]
    """Slices that the Cloud TPU API offers for an accelerator type, one per size."""
    source: str
    """Page of the peak rates and shapes."""

    @property
    def axis_bandwidth(self) -> float:
        """Returns the rate at which a chip sends along one axis of the torus, in bytes/s."""
        return 2 * self.ici / self.links


CHIPS = {
    "v4": Chip(
        "v4", 275e12, 1228e9, int(30.75 * _GIB), 300e9, links=6, chips_per_host=4, largest_host=4,
        tensor_cores=2, accelerator_prefix="v4", runtime_version="tpu-ubuntu2204-base",
        machine_family="ct4p-hightpu", gke_accelerator="tpu-v4-podslice", on_vertex=False,
        shapes=_CUBE, source=_TPU_DOCS + "v4",
    ),
    "v5e": Chip(
        "v5e", 197e12, 819e9, int(15.75 * _GIB), 200e9, links=4, chips_per_host=4, largest_host=8,
        tensor_cores=1, accelerator_prefix="v5litepod", runtime_version="v2-alpha-tpuv5-lite",
        machine_family="ct5lp-hightpu", gke_accelerator="tpu-v5-lite-podslice", on_vertex=True,
        shapes=_PLANE, source=_TPU_DOCS + "v5e",
    ),
    "v5p": Chip(
        "v5p", 459e12, 2765e9, int(95.73 * _GIB), 600e9, links=6, chips_per_host=4, largest_host=4,
        tensor_cores=2, accelerator_prefix="v5p", runtime_version="v2-alpha-tpuv5",
        machine_family="ct5p-hightpu", gke_accelerator="tpu-v5p-slice", on_vertex=False,
        shapes=(*_CUBE, "16x16x16", "16x16x24"), source=_TPU_DOCS + "v5p",
    ),
    "v6e": Chip(
        "v6e", 918e12, 1640e9, int(31.24 * _GIB), 400e9, links=4, chips_per_host=4, largest_host=8,
        tensor_cores=1, accelerator_prefix="v6e", runtime_version="v2-alpha-tpuv6e",
        machine_family="ct6e-standard", gke_accelerator="tpu-v6e-slice", on_vertex=True,
        shapes=_PLANE, source=_TPU_DOCS + "v6e",
    ),
}  # fmt: skip
"""v4 with megacore: the two cores of a chip are one device, as on Cloud TPU."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod, named as in "v5p:4x4x4"."""

    chip: Chip
    """Kind of chip."""
    shape: tuple[int, ...]
    """Number of chips along each axis of the torus."""

    @classmethod
    def parse(cls, name: str) -> Slice:
        """Returns the slice of a name such as "v5e:16x16".

        Raises:
          UserError: if the name is not CHIP:AxB or CHIP:AxBxC, the chip is not in the table, or no
            slice of it can have this shape.
        """
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
        if not match or match[1] not in CHIPS:
            raise UserError(
                f"topology {name!r}: write CHIP:AxB or CHIP:AxBxC with CHIP one of"
                f" {', '.join(CHIPS)}, such as v5e:16x16 or v5p:4x4x4 (plan.topology in the"
                " hardware gin file)"
            )
        made = cls(CHIPS[match[1]], tuple(map(int, match[2].split("x"))))
        # Larger slices are made of cubes of 4x4x4 chips, or of rows and columns of 4 chips.
        sides_fit = all(side in (1, 2) or (side and side % 4 == 0) for side in made.shape)
        if not sides_fit or len(made.shape) != made.chip.links // 2:
            raise made._not_offered()
        return made

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{self.topology}"

    @property
    def topology(self) -> str:
        """Returns the shape as GKE and Vertex AI write it, "4x8"."""
        return "x".join(map(str, self.shape))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        one = self.chips <= self.chip.largest_host
        return 1 if one else self.chips // self.chip.chips_per_host

    @property
    def axis_bandwidths(self) -> tuple[float, ...]:
        """Returns the rate at which a chip sends along each axis, in bytes/s.

        Chips at the ends of an axis are linked only in slices that are large enough: an axis of 16
        chips in a 2D torus, and slices whose sides are multiples of 4 in a 3D torus. Without that
        link a ring has half the rate.
        """
        if self.chip.links == 4:
            closed = [size == 16 for size in self.shape]
        else:
            closed = [all(size % 4 == 0 for size in self.shape)] * len(self.shape)
        rate = self.chip.axis_bandwidth
        return tuple(rate if is_closed else rate / 2 for is_closed in closed)

    @property
    def accelerator_type(self) -> str:
        """Returns the name in the Cloud TPU API; it counts TensorCores: "v5p-128" has 64 chips."""
        return f"{self.chip.accelerator_prefix}-{self.chips * self.chip.tensor_cores}"

    @property
    def machine_type(self) -> str:
        """Returns the machine type of a host on GKE and Vertex AI."""
        return f"{self.chip.machine_family}-{self.chips // self.hosts}t"

    def require_offered(self) -> None:
        """Checks that Google Cloud offers slices of this shape.

        Raises:
          UserError: if it does not; the message lists the shapes on offer.
        """
        if self.topology not in self.chip.shapes:
            raise self._not_offered()

    def _not_offered(self) -> UserError:
        return UserError(
            f"topology {self.topology}: Google Cloud has no such slice of {self.chip.name};"
            f" choose {', '.join(self.chip.shapes)} ({self.chip.source})"
        )

    def devices(self):
        """Returns the slice's devices to compile for; libtpu describes them without a TPU.

        Raises:
          UserError: if libtpu is not installed, or does not know the slice.
        """
        from jax.experimental import topologies

        options = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
        try:
            topology = topologies.get_topology_desc(
                platform="tpu", topology_name=self.name, **options
            )
        except Exception as e:  # jax raises several types, depending on what is missing
            reason = " ".join(str(e).split())[:200]
            raise UserError(
                f"cannot describe {self.name} ({reason}); install restem[plan], which brings"
                " libtpu, and check the topology"
            ) from e
        return list(topology.devices)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One kind of GPU on Vertex AI.

    Sources: https://cloud.google.com/vertex-ai/docs/training/configure-compute and
    https://cloud.google.com/compute/docs/gpus.
    """

    name: str
    """Name on the launcher's command line, such as "a100"."""
    accelerator_type: str
    """Name in Vertex AI's enum AcceleratorType."""
    machine_types: Mapping[int, str]
    """Machine types by number of GPUs."""

    def machine_type(self, count: int) -> str:
        """Returns the machine type with `count` GPUs.

        Raises:
          UserError: if no machine has that many.
        """
        if count not in self.machine_types:
            counts = ", ".join(map(str, self.machine_types))
            raise UserError(
                f"--gpu_count={count}: machines with {self.name} have {counts} GPUs; use"
                " --hosts=N for several machines"
            )
        return self.machine_types[count]


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("l4", "NVIDIA_L4", {
            1: "g2-standard-12", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96",
        }),
        Gpu("a100", "NVIDIA_TESLA_A100", {
            1: "a2-highgpu-1g", 2: "a2-highgpu-2g", 4: "a2-highgpu-4g", 8: "a2-highgpu-8g",
            16: "a2-megagpu-16g",
        }),
        Gpu("a100_80gb", "NVIDIA_A100_80GB", {
            1: "a2-ultragpu-1g", 2: "a2-ultragpu-2g", 4: "a2-ultragpu-4g", 8: "a2-ultragpu-8g",
        }),
        Gpu("h100", "NVIDIA_H100_80GB", {
            1: "a3-highgpu-1g", 2: "a3-highgpu-2g", 4: "a3-highgpu-4g", 8: "a3-highgpu-8g",
        }),
        Gpu("h100_mega", "NVIDIA_H100_MEGA_80GB", {8: "a3-megagpu-8g"}),
        Gpu("h200", "NVIDIA_H200_141GB", {8: "a3-ultragpu-8g"}),
        Gpu("b200", "NVIDIA_B200", {8: "a4-highgpu-8g"}),
    )
}  # fmt: skip

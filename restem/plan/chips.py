"""TPU chips and slices: peak figures with their source, and how libtpu is asked for a slice."""

from __future__ import annotations

import dataclasses
import math
import re

from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip; rates a second, sizes in bytes."""

    name: str
    """As in a topology's name, "v5p"."""
    flops: float
    """Peak of bfloat16 matrix products, FLOP/s."""
    hbm_bandwidth: float
    """Bytes/s between HBM and the core."""
    hbm: int
    """Bytes that a program may use, as libtpu 0.0.52 states in its out-of-memory error."""
    ici: float
    """Bytes/s that a chip sends to all its neighbours together."""
    links: int
    """Neighbours on the interconnect: 4 in a 2D torus, 6 in a 3D torus."""
    chips_per_host: int
    """Of slices of several hosts."""
    largest_host: int
    """Chips of the largest slice with one host."""
    source: str
    """Where the peak figures are published."""

    @property
    def axis_bandwidth(self) -> float:
        """Bytes/s that a chip sends along one axis of the torus, to its two neighbours there."""
        return 2 * self.ici / self.links


_GIB = 2**30
_DOCS = "https://cloud.google.com/tpu/docs/"

CHIPS = {
    "v4": Chip("v4", 275e12, 1228e9, int(30.75 * _GIB), 300e9, 6, 4, 4, _DOCS + "v4"),
    "v5e": Chip("v5e", 197e12, 819e9, int(15.75 * _GIB), 200e9, 4, 4, 8, _DOCS + "v5e"),
    "v5p": Chip("v5p", 459e12, 2765e9, int(95.73 * _GIB), 600e9, 6, 4, 4, _DOCS + "v5p"),
    "v6e": Chip("v6e", 918e12, 1640e9, int(31.24 * _GIB), 400e9, 4, 4, 8, _DOCS + "v6e"),
}
"""v4 with megacore: a chip's two cores are one device, as on Cloud TPU."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod, named as in "v5p:4x4x4"."""

    chip: Chip
    """What it is made of."""
    shape: tuple[int, ...]
    """Chips along each axis of the torus."""

    @classmethod
    def parse(cls, name: str) -> Slice:
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
        if not match or match[1] not in CHIPS:
            raise UserError(
                f"topology {name!r}: write CHIP:AxB or CHIP:AxBxC with CHIP one of"
                f" {', '.join(CHIPS)}, such as v5e:16x16 or v5p:4x4x4 (plan.topology in the"
                " hardware gin file)"
            )
        return cls(CHIPS[match[1]], tuple(map(int, match[2].split("x"))))

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        one = self.chips <= self.chip.largest_host
        return 1 if one else self.chips // self.chip.chips_per_host

    def devices(self):
        """Devices of the slice to compile for; libtpu describes them, and no TPU is needed.

        Raises:
          UserError: libtpu is not installed, or knows no such slice.
        """
        from jax.experimental import topologies

        options = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
        try:
            topology = topologies.get_topology_desc(
                platform="tpu", topology_name=self.name, **options
            )
        except Exception as e:  # jax raises several types, by what is missing
            reason = " ".join(str(e).split())[:200]
            raise UserError(
                f"cannot describe {self.name} ({reason}); install restem[plan], which brings"
                " libtpu, and check the topology"
            ) from e
        return list(topology.devices)

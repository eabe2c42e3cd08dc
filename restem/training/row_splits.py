"""How packed rows are split over a mesh: whole rows on each part, or rows that parts share.

Where there are fewer rows than parts, the parts share them: each has a piece of every row's
queries, and all of its keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

from jax.sharding import Mesh

from restem.models.sharding import Rules
from restem.partitioning import RULES


def row_splits(sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Returns the ways to split packed rows: (parts of the rows, parts of each row's length).

    On a mesh of data=2 and fsdp=4, 8 parts have rows of their own, or groups of 4 share rows, or
    all 8 share all rows:

        [(8, 1), (2, 4), (1, 8)]

    Args:
      sizes: sizes of the mesh axes; {} without a mesh.
    """
    fsdp = sizes.get("fsdp", 1)
    parts = fsdp * sizes.get("data", 1)
    return list(dict.fromkeys([(parts, 1), (parts // fsdp, fsdp), (1, parts)]))


def split_rules(mesh: Mesh, length_parts: int) -> Rules:
    """Returns rules by which rows are split in `length_parts` along their length.

    The queries of a row are then on several devices, and its keys and values on each of them.

    Args:
      mesh: the mesh.
      length_parts: 1, fsdp or data x fsdp; see `row_splits`.
    """
    if length_parts == 1:
        return RULES
    axes = ("fsdp",) if length_parts == mesh.shape["fsdp"] else ("data", "fsdp")
    rows = tuple(axis for axis in ("data", "fsdp") if axis not in axes)
    changed = {"batch": rows, "length": axes}
    return tuple((name, changed.get(name, wanted)) for name, wanted in RULES)

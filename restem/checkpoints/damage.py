"""Damage of checkpoints: checksums that show it, and the error that reports it.

Orbax stores no checksum of array data, so restem saves one with every array and compares it on
reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from restem.errors import UserError
from restem.runtime import storage


class DamagedError(UserError):
    """A stored policy or state is not what was saved, on whatever machine it is read."""


def checksum_record(tree: Any) -> dict[str, Any]:
    """Returns what is saved beside `tree` to verify it: dtype and checksum of every array."""
    record = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _has_bits(leaf):
            value = int(_checksum(leaf))
            record[jax.tree_util.keystr(path)] = [str(leaf.dtype), value]
    return {"checksums": record}


def compare_checksums(tree: Any, saved: Mapping[str, Any] | None) -> None:
    """Compares the arrays of `tree` with a record that was saved beside them.

    Raises:
      ValueError: an array differs, or there are no checksums.
    """
    if not saved or "checksums" not in saved:
        raise ValueError("its checksums are missing")
    found = checksum_record(tree)["checksums"]
    for path, (dtype, value) in saved["checksums"].items():
        # A leaf that is read as another dtype rightly has other bits.
        if path in found and found[path][0] == dtype and found[path][1] != value:
            raise ValueError(f"the bytes of {path} are not those that were saved")


def saved_checksums(path: epath.PathLike) -> Mapping[str, Any]:
    """Returns [dtype, checksum] of every array of restem's own checkpoint at `path`.

    They are read without Orbax, for which all hosts would have to meet.
    """
    stored = storage.read_json(epath.Path(path) / "params" / "_CHECKPOINT_METADATA")
    return stored["custom_metadata"]["checksums"]


def _has_bits(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and not jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.extended
    )


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """Returns sum_i bits_i (2 h i + 1) mod 2^32, which any change of one element changes.

    Integer sums do not depend on their order, so the checksum is the same whatever the sharding,
    and is computed on the devices that hold the array.
    """
    bits = x if x.dtype == jnp.bool_ else x.view(f"uint{8 * x.dtype.itemsize}")
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        index = index * np.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    odd = index * np.uint32(2 * 1_327_217_885 % 2**32) + np.uint32(1)
    return jnp.sum(bits.astype(jnp.uint32) * odd, dtype=jnp.uint32)

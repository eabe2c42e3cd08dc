"""Shapes of what the sampler's programs return, known before any of them runs.

With the shapes of the arguments, programs are compiled while others are still at work.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from restem import models, partitioning
from restem.models import kv_cache, sharding
from restem.models.kv_cache import GroupedCache, KVCache
from restem.sampling import steps
from restem.sampling.widths import WidthClasses


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Shapes of the caches and of the decode batch, as trees of `jax.ShapeDtypeStruct`."""

    config: models.ModelConfig
    """Decoder of the policy."""
    unstacked: bool
    """Whether the decode batch has tuples of layers."""
    mesh: jax.sharding.Mesh | None
    """Devices; None is one device."""

    @property
    def slot_dtype(self) -> Any:
        """Dtype of keys and values in the decode batch.

        XLA's CPU backend writes a column of a bfloat16 cache by converting all of it to float32 and
        back. So on one CPU these caches are float32, whatever the dtype of the activations.
        """
        return jnp.float32 if self.mesh is None and sharding.on_one_cpu() else self.config.dtype

    @property
    def ring_time_minor(self) -> bool:
        """Whether time is the minor dimension of the ring's keys.

        Only on CPUs: their products with queries are faster then, and accelerators would write many
        columns to write one.
        """
        return self._platform == "cpu"

    @property
    def flat_heads(self) -> bool:
        """Whether the sampler reads parameters as `models.flatten_heads` returns them."""
        return self._platform == "tpu"

    @property
    def _platform(self) -> str:
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def prefix(self, columns: int) -> KVCache:
        """Returns those of a prefix of so many columns, stacked layers."""
        return self._placed(kv_cache.shapes(self.config, None, columns))

    def chunks(self, number: int, columns: int) -> KVCache:
        """Returns those of prefilled questions: `number` chunks of so many columns."""
        return self._placed(kv_cache.shapes(self.config, number, columns), steps.CHUNK_ROWS)

    def slots(self, classes: WidthClasses, ring: int) -> steps.Slots:
        """Returns those of the decode batch with so many columns for sampled tokens."""
        found = jax.eval_shape(
            lambda: steps.empty_slots(
                self.config, classes.widths, classes.sizes, ring, parts=classes.parts,
                unstacked=self.unstacked, dtype=self.slot_dtype,
                time_minor=self.ring_time_minor,
            )
        )  # fmt: skip
        groups = tuple(map(self._placed, found.questions.groups))
        rows = jax.tree.map(lambda leaf: self._place(leaf, steps.ROW_AXES), found.rows)
        return steps.Slots(
            questions=GroupedCache(groups, classes.parts), ring=self._placed(found.ring), rows=rows
        )

    def empty(self, classes: WidthClasses, ring: int) -> steps.Slots:
        """Returns a decode batch without samples: zeros, each part on its own device."""

        def zeros(leaf):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = jax.eval_shape(jax.random.key_data, leaf)
                numbers = jnp.zeros(data.shape, data.dtype, device=leaf.sharding)
                return jax.random.wrap_key_data(numbers)
            return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)

        return jax.tree.map(zeros, self.slots(classes, ring))

    def unstack(self, prefix: KVCache) -> KVCache:
        """Returns the shapes of `kv_cache.unstack(prefix)`."""
        names = kv_cache.axes(prefix=True, unstacked=True)

        def layers(leaf, axes):
            one = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            return (self._place(one, axes),) * leaf.shape[0]

        return dataclasses.replace(
            prefix, keys=layers(prefix.keys, names.keys), values=layers(prefix.values, names.values)
        )

    def _placed(self, cache: KVCache, rows: str = "batch") -> KVCache:
        names = kv_cache.axes_of(cache, rows)

        def place(tree, axes):
            return jax.tree.map(lambda leaf: self._place(leaf, axes), tree)

        return dataclasses.replace(
            cache,
            keys=place(cache.keys, names.keys),
            values=place(cache.values, names.values),
            positions=place(cache.positions, names.positions),
        )

    def _place(self, leaf: Any, axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        if self.mesh is None:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        where = partitioning.sharding(self.mesh, axes, leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

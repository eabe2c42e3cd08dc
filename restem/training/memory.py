"""The memory that a training step takes on a device: what it leaves for a micro-batch.

The estimate is for accelerators, whose programs have a fixed amount of memory. It counts what the
step certainly holds and a layer's working set, and plans for a share of the memory, so that the
compiler has room for what is not counted. `restem plan` shows the compiler's own figures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from restem.models import ModelConfig, kv_cache
from restem.models.query_blocks import MOST_SCORES

_SHARE = 0.85
"""Share of the memory that is planned for."""


def device_memory(mesh: jax.sharding.Mesh | None) -> int | None:
    """Returns the bytes that programs may use on a device; None on devices that do not tell it."""
    device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    return (device.memory_stats() or {}).get("bytes_limit")


def bytes_on_device(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, or shapes with shardings, on one of their devices."""

    def of(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * jnp.dtype(leaf.dtype).itemsize

    return sum(map(of, jax.tree.leaves(tree)))


def bytes_saved(config: ModelConfig, remat: str, *, tensor: int = 1) -> float:
    """Returns the bytes that the layers keep of a position for the backward pass.

    Args:
      config: the decoder; its dtype is that of activations.
      remat: as `ModelConfig.remat`.
      tensor: parts over which heads and the feed-forward block are split.
    """
    numbers: float = config.embed_dim
    if remat != "full":
        # Attention in blocks keeps its result and a number for each head, which counts as two.
        numbers += _products(config, tensor) + config.num_heads * (config.head_dim + 2) / tensor
    return config.num_layers * numbers * jnp.dtype(config.dtype).itemsize


def _products(config: ModelConfig, tensor: int) -> float:
    """Returns the size of a layer's matrix products for a position."""
    c = config
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim / tensor
    inner = (2 if c.gated_mlp else 1) * c.mlp_dim / tensor
    # Queries, keys, values; gate and up; the two outputs.
    return heads + inner + 2 * c.embed_dim


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What a training step holds on one device, apart from the positions of a micro-batch."""

    config: ModelConfig
    """The decoder; its dtype is that of activations."""
    memory: int
    """Bytes that programs may use."""
    held: float
    """Bytes of parameters, optimizer state and whatever else stays on the device."""
    trained: float
    """Bytes of the trained parameters in float32: the size of their gradient."""
    prefix_length: int = 0
    """Tokens of the shared prefix."""
    head_chunk: int = 256
    """Target positions that go through the head at once."""
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Sizes of the mesh axes."""

    def tokens(self, remat: str) -> int:
        """Returns how many positions of a micro-batch fit; 0 if the rest alone does not."""
        room = _SHARE * self.memory - self.held - self._fixed(remat)
        return max(0, int(room / self._of_position(remat)))

    @property
    def _tensor(self) -> int:
        return self.mesh.get("tensor", 1)

    def _of_position(self, remat: str) -> float:
        """Returns the bytes of each position: what layers save, and a layer's working set."""
        c, item = self.config, jnp.dtype(self.config.dtype).itemsize
        working = 4 * c.embed_dim + 4 * _products(c, self._tensor)
        saved = bytes_saved(c, remat, tensor=self._tensor)
        # The head reads hidden states, and their gradient is float32.
        return saved + working * item + 3 * 4 * c.embed_dim

    def _fixed(self, remat: str) -> float:
        """Returns the bytes that do not grow with the micro-batch."""
        c, item = self.config, jnp.dtype(self.config.dtype).itemsize
        # The sum over micro-batches, and that of the micro-batch under way.
        gradients = 2 * self.trained
        matrix = c.vocab_size * c.embed_dim / self._tensor
        layer = (c.num_params - matrix * self._tensor) / c.num_layers / self._tensor
        gathered = 2 * layer * item + matrix * (item + 8)
        logits = 3 * 4 * self.head_chunk * c.vocab_size / self._tensor
        parts = self.mesh.get("data", 1) * self.mesh.get("fsdp", 1)
        prefix = 0.0
        if self.prefix_length:
            block = jax.tree.leaves(kv_cache.shapes(c, None, self.prefix_length))
            heads = self._tensor if c.num_kv_heads % self._tensor == 0 else 1
            prefix = sum(leaf.size for leaf in block) * (item + 8) / heads
            prefix += self.prefix_length / parts * self._of_position(remat)
        return gradients + gathered + logits + prefix + 3 * MOST_SCORES

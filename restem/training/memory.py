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
from restem.models.lora import Lora
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


def bytes_saved(
    config: ModelConfig, remat: str, *, tensor: int = 1, adapter: Lora | None = None
) -> float:
    """Returns the bytes that the layers keep of a position for the backward pass.

    Without the scores of attention, which are kept as well where it is not in blocks and nothing is
    recomputed.

    Args:
      config: the decoder; its dtype is that of activations.
      remat: as `ModelConfig.remat`.
      tensor: parts over which heads and the feed-forward block are split.
      adapter: the adapter that is trained; None: all parameters are.
    """
    c, item = config, jnp.dtype(config.dtype).itemsize
    if remat == "full":
        return c.num_layers * item * c.embed_dim
    heads, of_adapter = c.num_heads * c.head_dim / tensor, 0.0
    outputs = _outputs(c, tensor)
    if adapter is not None:
        adapted = [outputs[name] for name in adapter.targets if name in outputs]
        of_adapter = adapter.rank * len(adapted)  # x a
        # An adapted matrix has two products of its whole width, x w and (x a) b.
        of_adapter += sum(adapted) if remat == "dots" else 0
    # Attention keeps a number in float32 for each head.
    fixed = 4 * c.num_heads / tensor
    if remat == "none":
        return c.num_layers * (item * of_adapter + fixed + _bytes_of_all(c, tensor))
    numbers = c.embed_dim + sum(outputs.values()) + heads + of_adapter
    return c.num_layers * (item * numbers + fixed)


def _outputs(config: ModelConfig, tensor: int) -> Mapping[str, float]:
    """Returns the size of each of a layer's matrix products for a position, by matrix."""
    c = config
    heads, kv_heads = (n * c.head_dim / tensor for n in (c.num_heads, c.num_kv_heads))
    inner = c.mlp_dim / tensor
    outputs = {"query": heads, "key": kv_heads, "value": kv_heads, "out": c.embed_dim}
    return outputs | ({"gate": inner} if c.gated_mlp else {}) | {"up": inner, "down": c.embed_dim}


def _bytes_of_all(config: ModelConfig, tensor: int) -> float:
    """Returns the bytes that a layer keeps of a position where nothing is recomputed.

    JAX keeps an array once for each operation that needs it in the backward pass.
    """
    c, item = config, jnp.dtype(config.dtype).itemsize
    heads, kv_heads = (n * c.head_dim / tensor for n in (c.num_heads, c.num_kv_heads))
    inner, wide = c.mlp_dim / tensor, 2 if c.gated_mlp else 1
    numbers = (3 + wide) * c.embed_dim + heads + inner  # inputs of the matrices
    numbers += heads + 2 * kv_heads  # queries, keys and values
    numbers += (2 * wide + 1 + 2 * (c.activation == "gelu_tanh")) * inner
    norms = (1 if c.parallel_layers else 2) * c.pre_norms + 2 * c.post_norms
    normed = norms * c.embed_dim + c.qk_norm * (heads + kv_heads)
    # Norms are in float32, and so is the result of attention that is not in blocks.
    return item * numbers + 4 * (3 * normed + 2 * norms + heads)


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
    adapter: Lora | None = None
    """The adapter that is trained; None: all parameters are."""

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
        working = 4 * c.embed_dim + 4 * sum(_outputs(c, self._tensor).values())
        saved = bytes_saved(c, remat, tensor=self._tensor, adapter=self.adapter)
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
        scores = 3 * MOST_SCORES + (self._scores_kept(parts) if remat == "none" else 0)
        return gradients + gathered + logits + prefix + scores

    def _scores_kept(self, parts: int) -> float:
        """Returns the bytes of the scores that all layers keep where nothing is recomputed.

        They are those of a micro-batch and of the prefix, each within the bound beyond which
        attention is in blocks and keeps none.
        """
        c, item = self.config, jnp.dtype(self.config.dtype).itemsize
        of_prefix = 4 * c.num_heads / self._tensor * self.prefix_length**2 / parts
        scores = MOST_SCORES + min(MOST_SCORES, of_prefix)
        # Weights in float32, again in the dtype of the values, and two steps of a soft-cap.
        copies = 1 + (item / 4) * (item < 4) + 2 * (c.attention_softcap is not None)
        return c.num_layers * copies * scores

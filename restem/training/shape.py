"""The shape of the M-step's micro-batches: chosen from lengths of examples, mesh and memory.

On a mesh every part computes rows of its own. A batch of 64 MATH examples has 19,000 tokens and its
longest example may have 2,400, so 32 parts with a row each would compute four times what they need.
There all parts share the rows instead: each has a piece of every row, and keys and values of all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from restem.errors import UserError
from restem.models import ModelConfig
from restem.training.packing import TokenExample, first_fit_decreasing
from restem.training.row_splits import row_splits

CPU_TOKENS = 4096
"""Row positions per micro-batch where the device does not tell its memory, as a CPU."""
_SAMPLED_EXAMPLES = 1024
"""Examples of the optimizer steps that are packed to compare shapes."""
_COMPARED_LENGTHS = 64
"""Largest number of row lengths that are compared."""
_MACS_PER_BYTE = 250
"""Multiplications of a forward pass that take as long as a byte between chips: v5p computes 459
TFLOP/s and sends 200 GB/s along an axis, v5e 197 and 100; a training step does 8 FLOPs for each."""
_BYTES_PER_WEIGHT = 8
"""Sent per micro-batch and weight split over fsdp: gathered in bfloat16 for the forward pass and
the backward pass, and its gradient in float32."""
_SCORE_ON_CPU = 5
"""How many times as long as a product a score takes on a CPU, whose caches do not hold the scores
of all heads (benchmarks/training.md)."""
_MICRO_BATCH_ON_CPU = 50
"""Positions in whose time a CPU reads all weights for a further micro-batch (the same page)."""
_BYTES_PER_KEY = 6
"""Sent per micro-batch and number of a key or value whose row is split: gathered in bfloat16 for
the forward pass and the backward pass, and its gradient."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a micro-batch."""

    row_length: int
    """Tokens per packed row, without the prefix."""
    rows_per_batch: int
    """Rows per micro-batch, over all devices."""
    length_parts: int = 1
    """Parts of the mesh that share a row; see `row_splits`."""


@dataclasses.dataclass(frozen=True)
class LayerCosts:
    """What the forward pass of a layer costs, in products."""

    position: int
    """With weights, of a position."""
    score: int
    """Of a position and a key."""
    micro_batch: float
    """Of a micro-batch, beside its positions."""
    gathered_key: int
    """Of a position whose row is split, for sending its key and value."""

    @classmethod
    def of(
        cls, config: ModelConfig, *, mesh: Mapping[str, int] | None, adapter_on_cpu: bool
    ) -> LayerCosts:
        """Returns the costs for a decoder; see `choose_shape`."""
        layer = config.embed_dim * (
            2 * config.head_dim * (config.num_heads + config.num_kv_heads)
            + (3 if config.gated_mlp else 2) * config.mlp_dim
        )
        is_gathered = mesh is not None and mesh["fsdp"] > 1
        sent = _BYTES_PER_WEIGHT * _MACS_PER_BYTE * is_gathered
        keys = 2 * config.num_kv_heads * config.head_dim
        return cls(
            position=layer,
            score=2 * config.num_heads * config.head_dim * (_SCORE_ON_CPU if adapter_on_cpu else 1),
            micro_batch=layer * (_MICRO_BATCH_ON_CPU if adapter_on_cpu else sent),
            gathered_key=keys * _BYTES_PER_KEY * _MACS_PER_BYTE,
        )

    def total(self, shape: Shape, rows: Sequence[int], *, prefix_length: int, parts: int) -> float:
        """Returns the cost of some steps on a device.

        Args:
          shape: shape of the micro-batches.
          rows: rows that each step needs.
          prefix_length: tokens of the shared prefix.
          parts: parts of the mesh that have rows or pieces of rows of their own.
        """
        batches = sum(-(-count // shape.rows_per_batch) for count in rows)
        positions = batches * shape.rows_per_batch * shape.row_length / parts
        cost = positions * (self.position + self.score * (prefix_length + shape.row_length))
        cost += batches * self.micro_batch
        if shape.length_parts > 1:
            cost += positions * shape.length_parts * self.gathered_key
        return cost


def choose_shape(
    sizes: Sequence[int],
    *,
    config: ModelConfig,
    batch_examples: int,
    prefix_length: int = 0,
    max_tokens: int = CPU_TOKENS,
    multiple: int = 32,
    mesh: Mapping[str, int] | None = None,
    row_length: int | None = None,
    rows_per_batch: int | None = None,
    adapter_on_cpu: bool = False,
) -> Shape:
    """Chooses the shape of packed rows that costs the fewest products for these examples.

    Every row length from that of the longest example on is tried on some steps of epoch 0: short
    rows leave gaps, and in long rows queries score keys of other segments. The rows of a step are
    spread evenly over as few micro-batches as `max_tokens` allows. On a mesh the ways to split rows
    are compared as well, with what crosses between chips counted as products. A CPU is as fast with
    few rows as with many. Where it trains an adapter, a further micro-batch reads the weights but
    adds no gradients of them, so every number of rows is tried: few rows leave fewer of them empty.

    Args:
      sizes: tokens of each training example; see `TokenExample.length`.
      config: the decoder, which determines the cost of a key relative to a weight.
      batch_examples: examples per optimizer step.
      prefix_length: tokens of the shared prefix.
      max_tokens: largest number of row positions per micro-batch on a device, which sets the memory
        of a step; exceeded only if a row of the longest example exceeds it.
      multiple: divisor of row lengths.
      mesh: sizes of the mesh axes; None without one.
      row_length: tokens per row if that is given; longer examples are left out. If all are longer,
        the shape is a valid one all the same.
      rows_per_batch: rows per micro-batch if that is given.
      adapter_on_cpu: whether an adapter is trained on a CPU without a mesh.

    Raises:
      UserError: no example has a target.
    """
    if not len(sizes):
        raise UserError("there are no training examples with targets to choose a row length for")
    groups = _some_steps(sizes, batch_examples, row_length)
    costs = LayerCosts.of(config, mesh=mesh, adapter_on_cpu=adapter_on_cpu)
    best: tuple[float, Shape] | None = None
    for row_parts, length_parts in row_splits(mesh or {}):
        step = math.lcm(multiple, length_parts)
        shortest = _round_up(max(sizes), step)
        longest = max(shortest, min(4 * shortest, max_tokens * length_parts))
        step *= max(1, -(-(longest - shortest) // (step * _COMPARED_LENGTHS)))
        lengths = range(shortest, longest + 1, step) if row_length is None else (row_length,)
        for length in lengths:
            counts = [len(first_fit_decreasing(group, length)) for group in groups]
            most = max_tokens * row_parts * length_parts // length // row_parts * row_parts
            needed = max(1, *counts)  # 0 if no example fits, which packing reports
            micro = -(-needed // max(row_parts, most))
            candidates = [_round_up(-(-needed // micro), row_parts)]
            if rows_per_batch:
                candidates = [rows_per_batch]
            elif adapter_on_cpu:
                candidates = [*range(1, candidates[0] + 1)]
            for rows in candidates:
                if rows % row_parts or length % length_parts:
                    continue
                shape, parts = Shape(length, rows, length_parts), row_parts * length_parts
                cost = costs.total(shape, counts, prefix_length=prefix_length, parts=parts)
                if best is None or cost < best[0]:
                    best = cost, shape
    if best is None:  # the trainer says what does not divide
        return Shape(row_length or _round_up(max(sizes), multiple), rows_per_batch or 1)
    return best[1]


def _some_steps(
    sizes: Sequence[int], batch_examples: int, row_length: int | None
) -> list[list[int]]:
    """Returns the tokens of the examples of some steps of epoch 0, those that fit in a row."""
    fitting = [size for size in sizes if row_length is None or size <= row_length]
    order = np.random.default_rng([0, 0]).permutation(len(fitting))
    steps = max(4, _SAMPLED_EXAMPLES // batch_examples)
    starts = range(0, max(1, len(fitting)), batch_examples)[:steps]
    return [[fitting[i] for i in order[start : start + batch_examples]] for start in starts]


def sizes_of(examples: Sequence[TokenExample]) -> list[int]:
    """Returns the tokens of each example that has a target."""
    return [example.length for example in examples if len(example.target_ids)]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

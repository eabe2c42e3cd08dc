"""The micro-batches of an M-step: their shape, and what their backward pass recomputes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from restem import models
from restem.models import ModelConfig, lora
from restem.runtime import host_memory
from restem.steps.settings import ImproveSettings
from restem.training import Shape, StepMemory, bytes_on_device, bytes_saved, choose_shape
from restem.training.shape import CPU_TOKENS

_SAVED_ON_CPU = 0.1
"""Share of the machine's memory that kept matrix products may take on a CPU."""


def micro_batches(
    sizes: Sequence[int],
    config: ModelConfig,
    settings: ImproveSettings,
    *,
    room: StepMemory | None,
    prefix_length: int,
    mesh: Mapping[str, int] | None,
) -> tuple[Shape, str]:
    """Returns the shape of the micro-batches and the `ModelConfig.remat` of their backward pass.

    Settings that are None are chosen: the fewest micro-batches that fit with all activations
    recomputed, and less recomputation if these then fit as well.

    Args:
      sizes: tokens of each training example.
      config: the decoder.
      settings: settings of the M-step.
      room: memory of a device; None if it is not known, as on a CPU.
      prefix_length: tokens of the shared prefix.
      mesh: sizes of the mesh axes; None without a mesh.
    """
    is_cpu = jax.default_backend() == "cpu"
    tokens = settings.micro_batch_tokens
    if tokens is None:
        tokens = CPU_TOKENS if room is None else max(1, room.tokens(settings.remat or "full"))
    shape = choose_shape(
        sizes, config=config, batch_examples=settings.batch_examples, prefix_length=prefix_length,
        max_tokens=tokens, mesh=mesh, row_length=settings.row_length,
        rows_per_batch=settings.rows_per_batch,
        adapter_on_cpu=settings.adapter is not None and mesh is None and is_cpu,
    )  # fmt: skip
    remat: str | None = settings.remat
    if remat is None:
        sizes_of_axes = mesh or {}
        parts = sizes_of_axes.get("data", 1) * sizes_of_axes.get("fsdp", 1)
        positions = shape.rows_per_batch * shape.row_length / parts
        if room is not None:
            fits = positions <= room.tokens("dots")
        else:
            saved = (positions + prefix_length) * bytes_saved(
                config, "dots", adapter=settings.adapter
            )
            memory = host_memory.total() if is_cpu else 0
            fits = saved <= _SAVED_ON_CPU * memory
        remat = "dots" if fits else "full"
    return shape, remat


def step_memory(
    config: ModelConfig,
    settings: ImproveSettings,
    *,
    memory: int,
    held: float,
    prefix_length: int,
    mesh: Mapping[str, int],
) -> StepMemory:
    """Returns what a step of training holds on a device.

    Args:
      config: the decoder.
      settings: settings of the M-step.
      memory: bytes that programs may use on the device.
      held: bytes of the policy that training starts from on the device.
      prefix_length: tokens of the shared prefix.
      mesh: sizes of the mesh axes; {} without a mesh.
    """
    dtype = settings.param_dtype or "float32"
    trained = models.param_shapes(config, dtype)
    if settings.adapter is not None:
        trained = lora.shapes(trained, settings.adapter)
    optimizer = settings.optimizer(total_steps=1)
    # The state of training, and the copy of the best policy so far.
    state = (trained, jax.eval_shape(optimizer.init, trained), trained)
    parts = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
    return StepMemory(
        config=config,
        memory=memory,
        held=held + bytes_on_device(state) / parts,
        trained=4 * sum(leaf.size for leaf in jax.tree.leaves(trained)) / parts,
        prefix_length=prefix_length,
        mesh=mesh,
        adapter=settings.adapter,
    )

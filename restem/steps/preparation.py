"""What an M-step needs before its first update: memory, the mesh of validation, the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from restem import models
from restem.models import lora
from restem.models.lora import Lora
from restem.rollout import Rollout
from restem.sampling.memory import own_leaves
from restem.steps.micro_batches import micro_batches, step_memory
from restem.steps.settings import ImproveSettings
from restem.training import (
    Corpus,
    StepMemory,
    Trainer,
    bytes_on_device,
    device_memory,
    some_lengths,
)

_HELD_SHARE = 0.7
"""Largest share of the memory that training and the copy for validation hold; slots need some."""


def memory_of_steps(
    rollout: Rollout, settings: ImproveSettings, *, prefix_length: int
) -> StepMemory | None:
    """Returns what a training step holds on a device; None if its memory is not known.

    Args:
      rollout: the policy that training starts from, on the mesh of training.
      settings: settings of the M-step.
      prefix_length: tokens of the shared prefix.
    """
    start, mesh = rollout.policy, {} if rollout.mesh is None else dict(rollout.mesh.shape)
    memory = device_memory(rollout.mesh)
    if memory is None:
        return None
    held = bytes_on_device(start.params) + bytes_rounded(start.params, settings.adapter, mesh)
    return step_memory(
        start.config, settings, memory=memory, held=held, prefix_length=prefix_length, mesh=mesh
    )


def bytes_rounded(params: models.Params, adapter: Lora | None, mesh: Mapping[str, int]) -> float:
    """Returns the bytes on a device of frozen weights that are rounded beside the policy's own.

    Args:
      params: of the policy that training starts from, or their shapes.
      adapter: the adapter to train; None: all parameters are trained.
      mesh: sizes of the mesh axes; {} without a mesh.
    """
    if adapter is None:
        return 0.0
    base, _ = lora.detach(params)
    frozen = jax.eval_shape(lambda base: lora.round_base(base, adapter), base)
    rounded = sum(leaf.size * leaf.dtype.itemsize for leaf in own_leaves(frozen, base))
    return rounded / (mesh.get("fsdp", 1) * mesh.get("tensor", 1))


def with_validation_mesh(rollout: Rollout, room: StepMemory | None) -> Rollout:
    """Returns the rollout without its validation mesh if a copy of the policy does not fit there.

    What training holds stays in memory while a policy is sampled from: the rollout reserves it.
    """
    mesh = rollout.validation_mesh
    if room is None:
        return rollout
    rollout = rollout.replace(reserved=int(room.held))
    if mesh is None:
        return rollout
    config = rollout.policy.config
    width = 1 if config.int8_weights else jnp.dtype(config.dtype).itemsize
    copy = width * config.num_params / (mesh.shape["fsdp"] * mesh.shape["tensor"])
    if room.held + copy <= _HELD_SHARE * room.memory:
        return rollout
    logging.info(
        "validation decodes on the mesh of training: beside its state there is no room for a copy"
        " of the policy on the mesh of the E-step"
    )
    return rollout.replace(validation_mesh=None)


def validated(rollout: Rollout, params: models.Params) -> Rollout:
    """Returns the rollout with the parameters of a policy in training, to be sampled from.

    On the mesh of training, the sampler reads arrays that the rollout has reserved already: those
    of the policy that training starts from, of the state, or of the frozen weights and an adapter.
    """
    policy, reserved = rollout.policy.replace(params=params), rollout.reserved
    if rollout.validation_mesh is None:
        reserved = max(0, reserved - bytes_on_device(params))
    return rollout.replace(policy=policy, reserved=reserved)


def with_param_dtype(settings: ImproveSettings, params: models.Params) -> ImproveSettings:
    """Returns the settings with the dtype of trained parameters, that of the policy if it is None.

    Args:
      settings: settings of the M-step.
      params: of the policy that training starts from.
    """
    if settings.param_dtype is not None:
        return settings
    dtype: Any = str(params["final_norm"].dtype)
    return dataclasses.replace(settings, param_dtype=dtype)


def trainer(
    rollout: Rollout,
    prefix: Sequence[int],
    data: Corpus,
    settings: ImproveSettings,
    room: StepMemory | None,
) -> Trainer:
    """Returns the trainer; settings, lengths and memory determine its micro-batches.

    Args:
      rollout: the policy that training starts from, on the mesh of training.
      prefix: token ids of the shared prefix.
      data: the training set.
      settings: settings of the M-step.
      room: as `memory_of_steps` returns it.
    """
    start, mesh = rollout.policy, rollout.mesh
    shape, remat = micro_batches(
        some_lengths(data), start.config, settings, room=room, prefix_length=len(prefix),
        mesh=None if mesh is None else dict(mesh.shape),
    )  # fmt: skip
    usable = max(1, data.sizes(shape.row_length).usable)  # packing reports that there are none
    total_steps = settings.epochs * -(-usable // settings.batch_examples)
    return Trainer(
        start.config.replace(remat=remat),
        optimizer=settings.optimizer(total_steps=total_steps),
        prefix_ids=prefix,
        shape=shape,
        batch_examples=settings.batch_examples,
        normalisation=settings.normalisation,
        param_dtype=settings.param_dtype,
        adapter=settings.adapter,
        mesh=mesh,
    )

"""The shapes of a run on a slice, chosen as the run itself chooses them.

The engine's width classes and slots follow from the lengths of the questions and the memory of a
chip, and the rows of the M-step from the lengths of the examples, the mesh and the memory. Neither
needs a chip.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from restem import models, partitioning
from restem.checkpoints import Policy
from restem.errors import UserError
from restem.models import ModelConfig
from restem.plan import programs
from restem.plan.lengths import Lengths
from restem.plan.programs import Sampler, TrainShapes
from restem.rollout import Rollout
from restem.rollout.rollout import GREEDY
from restem.run import bindings
from restem.sampling import Engine, Sampling, Tuning, memory, widths
from restem.sampling.batches import Batches
from restem.sampling.steps import prepare_params
from restem.sampling.widths import round_up
from restem.steps import preparation
from restem.steps.micro_batches import micro_batches, step_memory
from restem.steps.settings import Settings
from restem.training import StepMemory, bytes_on_device, packing


def sampler(
    config: ModelConfig,
    mesh: jax.sharding.Mesh,
    lengths: Lengths,
    *,
    num_samples: int,
    max_new_tokens: int,
    sampling: Mapping[str, Any],
    dtype: str,
    hbm: int,
    slots: int | None,
    params: models.Params | None = None,
    reserved: int = 0,
) -> Sampler:
    """Returns the programs of the E-step, or of validation.

    Args:
      config: the decoder.
      mesh: of the E-step, over the devices of the slice.
      lengths: of questions.
      num_samples: samples per question.
      max_new_tokens: limit of a sample in tokens.
      sampling: fields of `Sampling`.
      dtype: of the parameters as they are loaded.
      hbm: bytes that a program may use on a chip.
      slots: samples decoded at a time; None: as many as the engine's formula gives.
      params: shapes of the parameters as they are loaded; None: those of the decoder in `dtype`.
      reserved: bytes of a chip that something else takes meanwhile.

    Raises:
      UserError: not even one slot per part of the mesh fits.
    """
    engine = Engine(
        config, _NoVocabulary(), sampling=Sampling(**sampling), max_new_tokens=max_new_tokens,
        slots=slots, mesh=mesh, tuning=Tuning(reserved=reserved),
    )  # fmt: skip
    options = engine.options
    questions = [max(0, n - 1) for n in lengths.questions]
    counts = [num_samples] * len(questions)
    ring = round_up(max_new_tokens, options.bucket)
    shape = models.param_shapes(config, dtype) if params is None else params
    parts = partitioning.batch_parts(mesh)

    def of(count: int) -> widths.WidthClasses:
        return widths.choose(
            questions, counts, slots=count, bucket=options.bucket, ring=ring, parts=parts
        )

    if slots is None:
        ahead = 5 * options.prefill_tokens
        slots = memory.slots_that_fit(
            options, shape, of, parts, sum(counts), ring, ahead, memory=hbm
        )
    prefix = round_up(lengths.prefix, options.bucket) if lengths.prefix else 0
    classes = of(round_up(slots, parts))
    batches = Batches(
        questions, classes, budget=options.prefill_tokens, lookahead=4 * options.prefill_tokens,
        chunk=options.bucket,
    )  # fmt: skip
    return Sampler(options, classes, batches, prefix, ring, dtype)


def validation(
    config: ModelConfig,
    meshes: Mapping[str, jax.sharding.Mesh],
    lengths: Lengths,
    trained: TrainShapes,
    *,
    held: float,
    hbm: int,
    max_new_tokens: int,
    slots: int | None,
) -> tuple[str, int]:
    """Returns the mesh on which validation decodes, "e_step" or "m_step", and its slots.

    Both are those of the run: `steps.preparation` decides beside the state of training.

    Args:
      config: the decoder, as it is sampled from.
      meshes: "e_step" and "m_step", over the devices of the slice.
      lengths: of the validation problems.
      trained: shapes of the M-step.
      held: bytes of a chip that training holds; see `room`.
      hbm: bytes that a program may use on a chip.
      max_new_tokens: limit of a solution in tokens.
      slots: samples decoded at a time; None: as many as fit.

    Raises:
      UserError: not even one slot per part of the mesh fits.
    """
    trainer, state, frozen = programs.trainer(config, trained, meshes["m_step"])
    params = trainer.policy_params(state.params, frozen)
    nothing: Any = None  # neither vocabulary nor task is needed to place a policy
    policy = Policy(config, params, vocabulary=nothing, reference="")
    same = dict(meshes["e_step"].shape) == dict(meshes["m_step"].shape)
    rollout = Rollout(
        policy, card=nothing, verifier=nothing, key=0, mesh=meshes["m_step"],
        validation_mesh=None if same else meshes["e_step"],
    )  # fmt: skip
    memory = StepMemory(config, hbm, held, trained=0.0, prefix_length=lengths.prefix)
    rollout = preparation.validated(preparation.with_validation_mesh(rollout, memory), params)
    step = "m_step" if rollout.validation_mesh is None else "e_step"
    if step == "e_step":  # a rounded copy moves there
        params = jax.eval_shape(functools.partial(prepare_params, config=config), params)
    made = sampler(
        config, meshes[step], lengths, num_samples=1, max_new_tokens=max_new_tokens,
        sampling=dataclasses.asdict(GREEDY), dtype=trained.base_dtype, hbm=hbm, slots=slots,
        params=params, reserved=rollout.reserved,
    )  # fmt: skip
    return step, made.classes.slots


class _NoVocabulary:
    """A vocabulary of which only the end of a text is known, as one token."""

    eos_ids = frozenset({1})
    size = 0

    def token_bytes(self, token_id: int) -> bytes:
        raise AssertionError("nothing is decoded")


def room(
    config: ModelConfig, mesh: Mapping[str, int], lengths: Lengths, of_run: Settings, *, hbm: int
) -> StepMemory:
    """Returns what a step of training holds on a chip; see `m_step` for the arguments."""
    params = models.param_shapes(config, of_run.run.dtype)
    settings = preparation.with_param_dtype(of_run.improve, params)
    held = bytes_on_device(params) / (mesh["fsdp"] * mesh["tensor"])
    held += preparation.bytes_rounded(params, settings.adapter, mesh)
    return step_memory(
        config, settings, memory=hbm, held=held, prefix_length=lengths.prefix, mesh=mesh
    )


def m_step(
    config: ModelConfig,
    mesh: Mapping[str, int],
    lengths: Lengths,
    of_run: Settings,
    *,
    hbm: int,
    rows: int | None = None,
) -> tuple[TrainShapes, ModelConfig, float]:
    """Returns the shapes of the M-step, the decoder as it is trained, and the packing efficiency.

    Args:
      config: the decoder.
      mesh: sizes of the axes of the mesh.
      lengths: of examples.
      of_run: settings of the run.
      hbm: bytes that a program may use on a chip.
      rows: rows per micro-batch in place of those of the settings.

    Raises:
      UserError: no example fits in the row length of the settings.
    """
    settings = of_run.improve
    if rows is not None:
        settings = dataclasses.replace(settings, rows_per_batch=rows)
    length, batch = settings.row_length, settings.batch_examples
    sizes = [size for size in lengths.examples() if length is None or size <= length]
    if not sizes:
        raise UserError(f"plan: no training example fits in improve.row_length = {length} tokens")
    sizes *= -(-batch // len(sizes))  # a step may have more examples than are drawn
    dtype = of_run.run.dtype
    memory = room(config, mesh, lengths, of_run, hbm=hbm)
    shape, remat = micro_batches(
        sizes, config, settings, room=memory, prefix_length=lengths.prefix, mesh=mesh
    )
    steps = [sizes[i : i + batch] for i in range(0, len(sizes) - batch + 1, batch)]
    counts = [
        -(-len(packing.first_fit_decreasing(step, shape.row_length)) // shape.rows_per_batch)
        for step in steps
    ]
    positions = shape.rows_per_batch * shape.row_length
    efficiency = sum(map(sum, steps)) / (sum(counts) * positions)
    optimizer = settings.optimizer.__name__
    shapes = TrainShapes(
        prefix=lengths.prefix,
        rows=shape.rows_per_batch,
        row_length=shape.row_length,
        length_parts=shape.length_parts,
        micro_batches=round(sum(counts) / len(counts)) or 1,
        most_micro_batches=packing.most_micro_batches(
            np.array(sizes),
            batch_examples=batch,
            row_length=shape.row_length,
            rows_per_batch=shape.rows_per_batch,
        ),
        optimizer=optimizer,
        optimizer_options=bindings.arguments_of(optimizer),
        param_dtype=dtype if settings.adapter else settings.param_dtype or dtype,
        adapter=None if settings.adapter is None else dataclasses.asdict(settings.adapter),
        base_dtype=dtype,
    )
    return shapes, config.replace(remat=remat), efficiency

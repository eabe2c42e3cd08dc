"""The programs of a run, lowered for a slice: the functions that sampler and trainer call.

No arrays are allocated: parameters, caches and batches are `jax.ShapeDtypeStruct`s with shardings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from restem import models, partitioning
from restem.models import int8, kv_cache
from restem.models.kv_cache import GroupedCache
from restem.sampling import steps
from restem.sampling.filters import Drawing, Sampling
from restem.training import Batch, Shape, Trainer, TrainState, optimizers

KINDS = ("parameters", "optimizer", "cache", "prefix", "inputs")
"""Kinds of a program's arguments, by which their memory is reported."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The sizes of a run's arrays."""

    prefix: int
    """Tokens of the few-shot prompt; 0 for none."""
    question: int
    """Columns of the cache for a question: tokens of the longest question."""
    new_tokens: int
    """Columns of the ring: tokens of the longest solution."""
    slots: int
    """Samples decoded at a time."""
    prefill_questions: int
    """Questions prefilled at a time."""
    decode_steps: int
    """Tokens per slot in one run of the decode program."""
    sampling: Mapping[str, Any]
    """Fields of `Sampling`."""
    rows: int
    """Rows per micro-batch, over all chips."""
    row_length: int
    """Tokens per packed row."""
    micro_batches: int
    """Micro-batches per optimizer step; from 2 upwards, the program is the same."""
    optimizer: str
    """Name of the optimizer in `restem.training.optimizers`."""
    optimizer_options: Mapping[str, Any]
    """Arguments of the optimizer."""
    sampler_dtype: str
    """Dtype of the parameters while sampling; "int8" is that of `models.int8`."""
    param_dtype: str
    """Dtype of the parameters while training."""
    head_chunk: int = 512
    """Target positions per shard that go through the head at once."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program before it is compiled."""

    trace: Callable[[], Any]
    """Returns the `jax.stages.Traced`, whose FLOPs are counted and which is lowered."""
    kinds: Mapping[str, int]
    """Bytes of the arguments on one chip, by kind."""


def prefill(config: models.ModelConfig, shapes: Shapes, mesh: jax.sharding.Mesh) -> Program:
    """Returns the prefill of questions behind the prefix, `steps.prefill_questions`."""
    params = _params(config, shapes.sampler_dtype, mesh)
    prefix = _prefix(config, shapes, mesh)
    tokens = _struct(
        (shapes.prefill_questions, shapes.question), jnp.int32, mesh, "batch", "length"
    )
    lengths = _struct((shapes.prefill_questions,), jnp.int32, mesh, "batch")

    def function(params, prefix, prefix_length, tokens, lengths):
        return steps.prefill_questions(params, config, prefix, prefix_length, tokens, lengths)

    args = (params, prefix, _struct((), jnp.int32, mesh), tokens, lengths)
    kinds = {"parameters": params, "prefix": prefix, "inputs": (tokens, lengths)}
    return Program(lambda: _trace(mesh, jax.jit(function), args), _bytes(kinds))


def decode(config: models.ModelConfig, shapes: Shapes, mesh: jax.sharding.Mesh) -> Program:
    """Returns the decoding of `decode_steps` tokens in every slot, `steps.decode`."""
    params = _params(config, shapes.sampler_dtype, mesh)
    prefix = _prefix(config, shapes, mesh)
    parts = partitioning.batch_parts(mesh)
    empty = jax.eval_shape(
        lambda: steps.empty_slots(
            config, (shapes.question,), (shapes.slots,), shapes.new_tokens, parts=parts,
            unstacked=False,
        )
    )  # fmt: skip
    where = partitioning.cache_shardings(config, mesh)
    (questions,) = empty.questions.groups
    questions = GroupedCache((_placed(questions, where),), parts)
    ring = _placed(empty.ring, where)
    rows = jax.tree.map(lambda leaf: _place(leaf, mesh, *steps.ROW_AXES), empty.rows)
    keep = _struct((shapes.slots,), jnp.bool_, mesh, "batch")
    drawing = jax.tree.map(
        lambda leaf: _struct(leaf.shape, leaf.dtype, mesh), Drawing.of(Sampling(**shapes.sampling))
    )

    def function(params, prefix, questions, ring, rows, column, keep, drawing):
        slots = steps.Slots(questions=questions, ring=ring, rows=rows)
        return steps.decode(
            params, config, drawing, (1,), shapes.decode_steps, prefix, slots, column, keep
        )

    args = (
        params, prefix, questions, ring, rows, _struct((), jnp.int32, mesh), keep, drawing,
    )  # fmt: skip
    kinds = {
        "parameters": params,
        "prefix": prefix,
        "cache": (questions, ring),
        "inputs": (rows, keep),
    }
    jitted = jax.jit(function, donate_argnums=(3, 4))
    return Program(lambda: _trace(mesh, jitted, args), _bytes(kinds))


def train(config: models.ModelConfig, shapes: Shapes, mesh: jax.sharding.Mesh) -> Program:
    """Returns the optimizer step, `Trainer.train_step`."""
    optimizer = getattr(optimizers, shapes.optimizer)(
        **{"total_steps": 1000, **shapes.optimizer_options}
    )
    trainer = Trainer(
        config,
        optimizer=optimizer,
        prefix_ids=(1,) * shapes.prefix,
        shape=Shape(shapes.row_length, shapes.rows),
        param_dtype=shapes.param_dtype,
        head_chunk=shapes.head_chunk,
        mesh=mesh,
    )
    params = _params(config, shapes.param_dtype, mesh)
    placed = trainer.state_shardings()
    opt_state = _placed(jax.eval_shape(optimizer.init, params), placed.opt_state)
    state = TrainState(params, opt_state, _struct((), jnp.int32, mesh))
    many = (min(shapes.micro_batches, 2), shapes.rows, shapes.row_length)
    ints = _struct(many, jnp.int32, mesh, None, "batch", "length")
    batch = Batch(
        tokens=ints,
        positions=ints,
        segments=ints,
        targets=ints,
        weights=_struct(many, jnp.float32, mesh, None, "batch", "length"),
        lengths=ints,
        num_micro=_struct((), jnp.int32, mesh),
        num_examples=_struct((), jnp.int32, mesh),
    )

    # The function that `Trainer.train_step` calls with arrays.
    return Program(
        lambda: _trace(mesh, trainer._train_step, (state, batch, None)),
        _bytes({"parameters": params, "optimizer": opt_state, "inputs": batch}),
    )


PROGRAMS: Mapping[str, Callable[..., Program]] = {
    "prefill": prefill,
    "decode": decode,
    "train": train,
}


def _trace(mesh, jitted, args):
    with partitioning.use(mesh):
        return jitted.trace(*args)


def _placed(shapes, shardings):
    """Returns a tree of shapes with the shardings of another tree."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def _place(leaf, mesh, *axes):
    where = partitioning.sharding(mesh, axes, leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _struct(shape, dtype, mesh, *axes):
    return _place(jax.ShapeDtypeStruct(shape, dtype), mesh, *axes)


def _params(config, dtype, mesh):
    partitioning.check_divisible(config, mesh)
    axes = models.param_axes(config)
    if dtype == "int8":
        axes = int8.axes(axes)
        shapes = jax.eval_shape(int8.quantize, models.param_shapes(config))
    else:
        shapes = models.param_shapes(config, jnp.dtype(dtype))
    return jax.tree.map(
        lambda axes, leaf: _place(leaf, mesh, *axes),
        axes,
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def _prefix(config, shapes: Shapes, mesh):
    if not shapes.prefix:
        return None
    where = partitioning.cache_shardings(config, mesh, prefix=True)
    return _placed(kv_cache.shapes(config, None, shapes.prefix), where)


def _bytes(kinds: Mapping[str, Any]) -> dict[str, int]:
    def of(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return math.prod(leaf.sharding.shard_shape(leaf.shape)) * 8
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return {kind: sum(map(of, jax.tree.leaves(tree))) for kind, tree in kinds.items()}

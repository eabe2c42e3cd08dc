"""The programs of a run, lowered for a slice: the functions that sampler and trainer call.

Nothing is allocated: parameters, caches and batches are shapes with shardings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from restem import models, partitioning
from restem.models import int8
from restem.sampling import steps
from restem.sampling.filters import Sampling
from restem.training import Batch, Trainer, TrainState, optimizers

KINDS = ("parameters", "optimizer", "cache", "prefix", "inputs")
"""What the arguments of a program are counted as."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of the arrays of a run."""

    prefix: int
    """Tokens of the few-shot prompt; 0 for none."""
    question: int
    """Columns of a question in the cache: the longest one."""
    new_tokens: int
    """Columns of the ring: the longest solution."""
    slots: int
    """Samples decoded at a time."""
    prefill_questions: int
    """Questions prefilled at a time."""
    decode_steps: int
    """Tokens of every slot in one decode program."""
    sampling: Mapping[str, Any]
    """Fields of `Sampling`."""
    rows: int
    """Rows of a micro-batch, over all chips."""
    row_length: int
    """Tokens of a packed row."""
    micro_batches: int
    """Micro-batches of an optimizer step; the program is the same from 2 on."""
    optimizer: str
    """Name in `restem.training.optimizers`."""
    optimizer_options: Mapping[str, Any]
    """Its arguments."""
    sampler_dtype: str
    """Of the parameters while sampling; "int8" as `models.int8` rounds them."""
    param_dtype: str
    """Of the parameters while training."""
    head_chunk: int = 512
    """See `Trainer`."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program before it is compiled."""

    trace: Callable[[], Any]
    """Gives the `jax.stages.Traced`, to be counted and lowered."""
    kinds: Mapping[str, int]
    """Bytes of the arguments on one chip, by kind."""


def prefill(config: models.ModelConfig, shapes: Shapes, mesh: jax.sharding.Mesh) -> Program:
    """`steps.prefill_questions` behind the prefix."""
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
    """`steps.decode`: `decode_steps` tokens in every slot."""
    params = _params(config, shapes.sampler_dtype, mesh)
    prefix = _prefix(config, shapes, mesh)
    ring = shapes.new_tokens
    empty = jax.eval_shape(
        lambda: steps.empty_slots(config, shapes.slots, shapes.question, ring, unstacked=False)
    )
    rows = {
        field.name: _place(getattr(empty, field.name), mesh, *steps.AXES["rows"])
        for field in dataclasses.fields(empty)
        if field.name != "cache"
    }
    cache = models.KVCache(
        keys=_place(empty.cache.keys, mesh, *steps.AXES["keys"]),
        values=_place(empty.cache.values, mesh, *steps.AXES["values"]),
        positions=_place(empty.cache.positions, mesh, *steps.AXES["positions"]),
    )
    slots = steps.Slots(cache=cache, **rows)
    keep = _struct((shapes.slots,), jnp.bool_, mesh, "batch")
    sampling = Sampling(**shapes.sampling)

    def function(params, prefix, slots, column, keep):
        return steps.decode(
            params, config, sampling, (1,), shapes.decode_steps, ring, prefix, slots, column, keep
        )

    args = (params, prefix, slots, _struct((), jnp.int32, mesh), keep)
    kinds = {"parameters": params, "prefix": prefix, "cache": cache, "inputs": (rows, keep)}
    return Program(lambda: _trace(mesh, jax.jit(function, donate_argnums=2), args), _bytes(kinds))


def train(config: models.ModelConfig, shapes: Shapes, mesh: jax.sharding.Mesh) -> Program:
    """The trainer's step."""
    optimizer = getattr(optimizers, shapes.optimizer)(
        **{"total_steps": 1000, **shapes.optimizer_options}
    )
    trainer = Trainer(
        config,
        optimizer=optimizer,
        prefix_ids=(1,) * shapes.prefix,
        row_length=shapes.row_length,
        rows_per_batch=shapes.rows,
        param_dtype=shapes.param_dtype,
        head_chunk=shapes.head_chunk,
        mesh=mesh,
    )
    params = _params(config, shapes.param_dtype, mesh)
    placed = trainer.state_shardings(params)
    opt_state = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        jax.eval_shape(optimizer.init, params),
        placed.opt_state,
    )
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

    # The step that `Trainer.train_step` calls, before it is given arrays.
    return Program(
        lambda: _trace(mesh, trainer._train_step, (state, batch)),
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
    heads = (config.num_layers, config.num_kv_heads)
    where = partitioning.cache_shardings(config, mesh, prefix=True)
    make = lambda shape, dtype, sharding: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    return models.KVCache(
        keys=make((*heads, config.head_dim, shapes.prefix), jnp.dtype(config.dtype), where.keys),
        values=make(
            (*heads, shapes.prefix, config.head_dim), jnp.dtype(config.dtype), where.values
        ),
        positions=make((shapes.prefix,), jnp.int32, where.positions),
    )


def _bytes(kinds: Mapping[str, Any]) -> dict[str, int]:
    def of(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return math.prod(leaf.sharding.shard_shape(leaf.shape)) * 8
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return {kind: sum(map(of, jax.tree.leaves(tree))) for kind, tree in kinds.items()}

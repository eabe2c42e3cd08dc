"""The programs of a run, lowered for a slice: the functions that sampler and trainer call.

No arrays are allocated: parameters, caches and batches are `jax.ShapeDtypeStruct`s with shardings.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restem import models, partitioning
from restem.models import int8, lora
from restem.models.lora import Lora
from restem.sampling import calls, memory
from restem.sampling.batches import Batches
from restem.sampling.filters import Drawing
from restem.sampling.options import Options
from restem.sampling.shapes import Shapes as SamplerShapes
from restem.sampling.steps import prepare_params
from restem.sampling.widths import WidthClasses
from restem.training import Batch, Shape, Trainer, TrainState, optimizers


@dataclasses.dataclass(frozen=True)
class TrainShapes:
    """The sizes of the arrays of an M-step."""

    prefix: int
    """Tokens of the few-shot prompt; 0 for none."""
    rows: int
    """Rows per micro-batch, over all chips."""
    row_length: int
    """Tokens per packed row."""
    length_parts: int
    """Parts of the mesh that share a row."""
    micro_batches: int
    """Micro-batches that an optimizer step computes, in the mean."""
    most_micro_batches: int
    """Micro-batches in the shape of a batch; from 2 upwards, the program is the same but for the
    bytes of this argument."""
    optimizer: str
    """Name of the optimizer in `restem.training.optimizers`."""
    optimizer_options: Mapping[str, Any]
    """Arguments of the optimizer."""
    param_dtype: str
    """Dtype of the trained parameters, or of those that an adapter is trained on."""
    adapter: Mapping[str, Any] | None
    """Fields of `Lora`; None where all parameters are trained."""
    base_dtype: str
    """Dtype of the policy that training starts from."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program before it is compiled."""

    trace: Callable[[], Any]
    """Returns the `jax.stages.Traced`, whose FLOPs are counted and which is lowered."""
    kinds: Mapping[str, int]
    """Bytes of the arguments on one chip, by kind."""
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Bytes of what else the run holds on the chip meanwhile, by kind."""
    trips: tuple[int, ...] = ()
    """Iterations of the loops whose number is known only at run time, outermost first."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The programs of sampling, as a session of the engine asks for them."""

    options: Options
    """Options of the engine."""
    classes: WidthClasses
    """Slots by width."""
    batches: Batches
    """Shapes of prefill."""
    prefix: int
    """Columns of the prefix; 0 for none."""
    ring: int
    """Columns for sampled tokens."""
    dtype: str
    """Dtype of the parameters as they are loaded; the options' config says how they are read."""

    def program(self, name: str, width: int = 0) -> Program:
        """Returns the program "prefix", "prefill" (at a width), "insert" or "decode"."""
        options, classes, batches = self.options, self.classes, self.batches
        shapes = SamplerShapes(options.config, False, options.mesh)
        prepare = functools.partial(prepare_params, config=options.config)
        loaded = models.param_shapes(options.config, jnp.dtype(self.dtype))
        params = _params(options.config, jax.eval_shape(prepare, loaded), options.mesh)
        loaded = _params(options.config, loaded, options.mesh)
        if shapes.flat_heads:
            params = models.flatten_heads(params)
        prefix = shapes.prefix(self.prefix) if self.prefix else None
        slots, scalar = shapes.slots(classes, self.ring), np.zeros((), np.int32)
        ask = functools.partial(_trace, options.mesh)
        kinds: dict[str, Any] = {"parameters": params, "prefix": prefix}
        if name == "prefix":
            tokens = np.zeros((self.prefix,), np.int32)
            trace = lambda: calls.prefill_prefix(ask, options, params, tokens, scalar)
            kinds = {"parameters": params}
        elif name == "prefill":
            rows = batches.rows(width)
            tokens, lengths = np.zeros((rows, width), np.int32), np.zeros((rows,), np.int32)
            trace = lambda: calls.prefill_questions(
                ask, options, batches, params, prefix, scalar, tokens, lengths
            )
        elif name == "insert":
            chunks = shapes.chunks(batches.chunks(batches.widths[0]), batches.chunk)
            inserts = np.zeros((9, classes.slots), np.int32)
            numbers = np.zeros((len(classes.sizes),), np.int32)
            key = jax.eval_shape(lambda: jax.random.key(0))
            trace = lambda: calls.insert(ask, slots, chunks, key, scalar, inserts, numbers)
            kinds = {"cache": slots.questions, "inputs": chunks}
        else:
            keep = np.zeros((classes.slots,), bool)
            drawing = jax.eval_shape(lambda: Drawing.of(options.sampling))
            trace = lambda: calls.decode(ask, options, params, prefix, slots, scalar, keep, drawing)
            kinds |= {"cache": (slots.questions, slots.ring), "inputs": slots.rows}
        held = {"as loaded": memory.own_leaves(loaded, params)} if "parameters" in kinds else {}
        return Program(trace, bytes_of(kinds), bytes_of(held))


def _trace(
    mesh: jax.sharding.Mesh,
    function: Callable,
    *args: Any,
    donate: tuple[int, ...] = (),
    **static: Any,
) -> Any:
    """Traces what `sampling.programs.Programs.run` would compile and run."""
    with partitioning.use(mesh):
        return jax.jit(functools.partial(function, **static), donate_argnums=donate).trace(*args)


def train(config: models.ModelConfig, shapes: TrainShapes, mesh: jax.sharding.Mesh) -> Program:
    """Returns the optimizer step, `Trainer.train_step`.

    Beside its arguments the run holds the policy that training starts from, unless its weights are
    the frozen ones, and a copy of what was trained of the best policy so far.
    """
    made, state, frozen = trainer(config, shapes, mesh)
    many = (shapes.most_micro_batches, shapes.rows, shapes.row_length)
    place = lambda dtype: _struct(many, dtype, mesh, (None, "batch", "length"), made.rules)
    ints, scalar = place(jnp.int32), _struct((), jnp.int32, mesh)
    batch = Batch(
        tokens=ints, positions=ints, segments=ints, targets=ints, weights=place(jnp.float32),
        lengths=ints, num_micro=scalar, num_examples=scalar,
    )  # fmt: skip
    kinds = {"parameters": state.params, "optimizer": state.opt_state, "inputs": batch}
    if frozen is not None:
        kinds |= {"frozen": frozen}

    def trace():
        # The function that `Trainer.train_step` calls with arrays.
        with partitioning.use(mesh, made.rules):
            return made._train_step.trace(state, batch, frozen)

    base = _params(config, models.param_shapes(config, shapes.base_dtype), mesh)
    held = {"base": memory.own_leaves(base, frozen or {}), "best policy": state.params}
    of_chip = shapes.rows * shapes.row_length // partitioning.batch_parts(mesh)
    trips: tuple[int, ...] = (-(-of_chip // made.head_chunk),)
    if shapes.most_micro_batches > 1:  # a single micro-batch has no loop around it
        trips = (shapes.micro_batches, *trips)
    return Program(trace, bytes_of(kinds), bytes_of(held), trips)


def trainer(
    config: models.ModelConfig, shapes: TrainShapes, mesh: jax.sharding.Mesh
) -> tuple[Trainer, TrainState, Any]:
    """Returns the trainer, and the shapes of its state and of the frozen weights."""
    make = getattr(optimizers, shapes.optimizer)
    optimizer = make(**{"total_steps": 1000, **shapes.optimizer_options})
    adapter = None if shapes.adapter is None else Lora(**shapes.adapter)
    made = Trainer(
        config,
        optimizer=optimizer,
        prefix_ids=(1,) * shapes.prefix,
        shape=Shape(shapes.row_length, shapes.rows, shapes.length_parts),
        param_dtype=shapes.param_dtype,
        adapter=adapter,
        mesh=mesh,
    )
    placed = made.state_shardings()
    assert placed is not None  # there is a mesh
    trained = models.param_shapes(config, shapes.param_dtype)
    frozen = None
    if adapter is not None:
        trained = lora.shapes(trained, adapter)
        base = models.param_shapes(config, shapes.param_dtype)
        frozen = _params(config, jax.eval_shape(made.frozen, base), mesh)
    opt_state = jax.eval_shape(optimizer.init, trained)
    state = TrainState(
        _placed(trained, placed.params), _placed(opt_state, placed.opt_state),
        _struct((), jnp.int32, mesh),
    )  # fmt: skip
    return made, state, frozen


def bytes_of(kinds: Mapping[str, Any]) -> dict[str, int]:
    """Returns the bytes of shapes with shardings on one chip, by kind."""

    def of(leaf):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return math.prod(shape) * (8 if is_key else leaf.dtype.itemsize)

    return {kind: sum(map(of, jax.tree.leaves(tree))) for kind, tree in kinds.items()}


def _placed(shapes, shardings):
    """Returns a tree of shapes with the shardings of another tree."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def _struct(
    shape: Sequence[int],
    dtype: Any,
    mesh,
    axes: Sequence[str | None] = (),
    rules=partitioning.RULES,
) -> jax.ShapeDtypeStruct:
    where = partitioning.sharding(mesh, axes, shape, rules)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)


def _params(config: models.ModelConfig, shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Returns shapes of parameters, whose matrices may be in int8, with their shardings."""
    partitioning.check_divisible(config, mesh)
    axes = models.param_axes(config)
    if any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(shapes)):
        axes = int8.axes(axes)
    return jax.tree.map(
        lambda axes, leaf: _struct(leaf.shape, leaf.dtype, mesh, axes),
        axes,
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )

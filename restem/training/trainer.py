"""The trainer of the M-step: reward-weighted training behind one shared prefix.

A step is a pure function of (state, batch). It computes the prefix once, accumulates gradients over
the micro-batches with respect to the parameters *and* to the prefix's keys and values, and
backpropagates the latter through the prefix once:

    kv        = prefix(theta)
    L         = sum_m L_m(theta, kv)
    dL/dtheta = sum_m d_theta L_m + (d kv / d theta)^T sum_m d_kv L_m

With an adapter (`models.lora`), theta is the adapter alone. The frozen weights are an argument of
every step and no part of its state: no gradient, optimizer state or copy of them exists.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from restem import models, partitioning
from restem.errors import UserError
from restem.models import ModelConfig, kv_cache, lora, sharding
from restem.models.lora import Lora
from restem.training import losses, optimizers, packing
from restem.training.corpus import Corpus, TokenExample
from restem.training.packing import Batch, PackedEpoch
from restem.training.row_splits import split_rules
from restem.training.shape import Shape
from restem.training.state import DivergenceError, TrainState, Update

Metrics = Mapping[str, Any]
"""Scalars by name."""

Prefix = tuple[
    Float[Array, "layers kv_heads head prefix_length"],
    Float[Array, "layers kv_heads prefix_length head"],
]
"""Keys and values of the prefix: what gradients flow to."""


class Trainer:
    """Trains a decoder on weighted examples that share a prefix."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        optimizer: optax.GradientTransformation,
        prefix_ids: Sequence[int] = (),
        shape: Shape = Shape(row_length=512, rows_per_batch=8),
        batch_examples: int = 64,
        normalisation: losses.Normalisation = "token",
        param_dtype: str | None = "float32",
        adapter: Lora | None = None,
        head_chunk: int = 256,
        mesh: Mesh | None = None,
    ):
        """Configures a trainer; nothing is computed yet.

        Args:
          config: the decoder; its `remat` determines what the backward pass recomputes, and its
            `dtype` is that of activations.
          optimizer: such as `optimizers.adamw` returns.
          prefix_ids: token ids of the few-shot prompt, the same for every example; may be empty.
          shape: shape of micro-batches, limited by memory.
          batch_examples: examples per optimizer step.
          normalisation: normalisation of the sum over examples.
          param_dtype: dtype of the trained parameters; None keeps the given one. See
            `optimizers.with_precision` for bfloat16.
          adapter: train a low-rank adapter in float32 on frozen weights; None: all parameters.
          head_chunk: target positions per shard that go through the head at once.
          mesh: from `partitioning.make_mesh`; None is one device.

        Raises:
          UserError: `shape` does not divide over the mesh.
        """
        row_length, rows_per_batch, length_parts = dataclasses.astuple(shape)
        shards = 1 if mesh is None else partitioning.batch_parts(mesh)
        row_parts = shards // length_parts
        if rows_per_batch % row_parts:
            raise UserError(
                f"rows_per_batch={rows_per_batch} does not divide over data x fsdp = {row_parts}; "
                f"set it to a multiple of {row_parts}"
            )
        if row_length % length_parts:
            raise UserError(
                f"row_length={row_length} does not divide over {length_parts} parts of the mesh; "
                f"set it to a multiple of {length_parts}"
            )
        self.config = config
        self.optimizer = optimizer
        self.prefix_ids = tuple(int(t) for t in prefix_ids)
        self.row_length = row_length
        self.rows_per_batch = rows_per_batch
        self.batch_examples = batch_examples
        self.normalisation = normalisation
        self.param_dtype = param_dtype
        self.adapter = adapter
        self.head_chunk = min(head_chunk, rows_per_batch * row_length // shards)
        self.mesh = mesh
        self.rules = self._prefix_rules = partitioning.RULES
        if mesh is not None:
            self.rules = split_rules(mesh, length_parts)
            self._prefix_rules = split_rules(mesh, shards)
        self._parts = (row_parts, length_parts)

    def pack(
        self, examples: Sequence[TokenExample] | Corpus, *, seed: int, epoch: int
    ) -> PackedEpoch:
        """Packs one epoch in this trainer's shapes; see `packing.pack`.

        Rows may be longer than the decoder's length: positions start again in every segment.
        """
        return packing.pack(
            examples,
            row_length=self.row_length,
            rows_per_batch=self.rows_per_batch,
            batch_examples=self.batch_examples,
            prefix_length=len(self.prefix_ids),
            max_length=self.config.max_length,
            seed=seed,
            epoch=epoch,
        )

    def init(self, params: Any, *, seed: int = 0) -> TrainState:
        """Returns the state before the first step, with a copy of what is trained of `params`.

        Steps consume the state they are given, so without the copy the first step would destroy
        the base policy, from which the M-step of the next iteration starts.

        Args:
          params: parameters of the decoder. With an adapter, training continues theirs if they
            carry one, and else begins with one that changes nothing.
          seed: of a new adapter and of stochastic rounding.
        """
        dtype = self.param_dtype
        if self.adapter is not None:
            params, dtype = lora.detach(params)[1], "float32"

        def build(trained):
            if self.adapter is not None and not trained:
                trained = lora.init(self._shapes(), self.adapter, jax.random.key(seed))
            trained = jax.tree.map(lambda p: jnp.array(p, dtype or p.dtype, copy=True), trained)
            opt_state = optimizers.reseeded(self.optimizer.init(trained), seed)
            return TrainState(trained, opt_state, jnp.zeros((), jnp.int32))

        with partitioning.use(self.mesh, self.rules):
            trained = jax.eval_shape(build, params).params
            return jax.jit(build, out_shardings=self.state_shardings(trained))(params)

    def frozen(self, params: Any) -> Any:
        """Returns the weights that training with an adapter leaves as they are; None without one.

        They are rounded here if the adapter asks for another dtype than theirs.
        """
        if self.adapter is None:
            return None
        base, _ = lora.detach(params)
        return lora.round_base(base, self.adapter)

    def policy_params(self, trained: Any, frozen: Any) -> Any:
        """Returns parameters of the decoder: `trained`, or `frozen` with the adapter `trained`."""
        return trained if self.adapter is None else lora.attach(frozen, trained, self.adapter)

    def _shapes(self) -> Any:
        return models.param_shapes(self.config, self.param_dtype or "float32")

    def state_shardings(self, trained: Any = None) -> TrainState | None:
        """Returns the shardings of the state, for restoring it; None without a mesh.

        Args:
          trained: `TrainState.params`, or their shapes; None: in `param_dtype`, or float32.
        """
        if self.mesh is None:
            return None
        if trained is None:
            trained = self._shapes()
            if self.adapter is not None:
                trained = lora.shapes(trained, self.adapter)
        placed = partitioning.param_shardings(self.config, self.mesh)
        if self.adapter is not None:
            placed = partitioning.adapter_shardings(placed, self.adapter)
        opt_state = jax.eval_shape(self.optimizer.init, trained)
        return TrainState(
            params=placed,
            opt_state=partitioning.state_shardings(opt_state, trained, placed),
            step=partitioning.replicated(self.mesh),
        )

    def train_step(
        self, state: TrainState, batch: Batch, frozen: Any = None
    ) -> tuple[TrainState, Metrics]:
        """Takes one optimizer step. It consumes `state`, whose arrays must not be used again.

        Args:
          state: before the step.
          batch: examples of the step.
          frozen: as `frozen` returns it.

        Returns:
          The new state, and scalars: "loss"; "token_nll", -log p per target token in nats,
          unweighted; "token_accuracy", share of targets that are the most likely token;
          "target_tokens"; "examples"; "weight_sum", sum of the examples' weights; "grad_norm",
          before clipping.
        """
        with partitioning.use(self.mesh, self.rules):
            return self._train_step(state, self._place(batch), _as_read(frozen))

    def loss(self, trained: Any, batch: Batch, frozen: Any = None) -> Metrics:
        """Returns the metrics of `train_step` without "grad_norm"; updates nothing."""
        with partitioning.use(self.mesh, self.rules):
            return self._loss(trained, self._place(batch), _as_read(frozen))

    def fit(
        self,
        state: TrainState,
        examples: Sequence[TokenExample] | Corpus,
        *,
        epochs: int,
        seed: int,
        frozen: Any = None,
    ) -> Iterator[Update]:
        """Trains for `epochs`, one step for each item that is taken from the iterator.

        The order of the data is a function of (seed, epoch), and `state.step` counts the steps
        taken: training from a restored checkpoint continues with the very next batch, and the
        result is the same as without the interruption.

        Raises:
          DivergenceError: the loss or the gradient is not finite.
        """
        done = int(state.step)
        packed = self.pack(examples, seed=seed, epoch=0)
        total = epochs * len(packed)
        efficiency = packed.efficiency()
        if efficiency < _LOW_EFFICIENCY:
            logging.warning(
                "%.0f%% of the computed row positions hold no token: rows are as long as the"
                " longest example (row_length=%d) and a micro-batch has at least one row"
                " for each of %d parts of the mesh; lower improve.row_length, which leaves"
                " longer examples out, or fsdp in make_mesh in favour of tensor",
                100 * (1 - efficiency), self.row_length, self._parts[0],
            )  # fmt: skip
        for step in range(done, total):
            epoch, index = divmod(step, len(packed))
            if index == 0 or step == done:
                packed = self.pack(examples, seed=seed, epoch=epoch)
            start = time.monotonic()
            state, metrics = self.train_step(state, packed[index], frozen)
            metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                raise DivergenceError(
                    f"training diverged at step {step + 1} of {total}: loss {metrics['loss']}, "
                    f"gradient norm {metrics['grad_norm']}; lower the learning rate"
                )
            yield Update(
                state=state,
                metrics=metrics,
                step=step + 1,
                total_steps=total,
                is_epoch_end=index + 1 == len(packed),
                seconds=time.monotonic() - start,
            )

    def _place(self, batch: Batch) -> Batch:
        """Moves a batch to the mesh, rows or their length split over its parts."""
        mesh, axes = self.mesh, (None, "batch", "length")
        if mesh is None:
            return batch

        def place(x):
            where = partitioning.sharding(mesh, axes[: np.ndim(x)], np.shape(x), self.rules)
            return partitioning.from_same_everywhere(where, x)

        return jax.tree.map(place, batch)

    @functools.cached_property
    def _train_step(self):
        def step(state, batch, frozen):
            grads, metrics = self.value_and_gradients(state.params, batch, frozen)
            updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            metrics["grad_norm"] = optax.tree.norm(grads)
            return TrainState(params, opt_state, state.step + 1), metrics

        return jax.jit(step, donate_argnums=0)

    @functools.cached_property
    def _loss(self):
        def loss(trained, batch, frozen):
            params = self.policy_params(trained, frozen)
            coefficients = self._coefficients(batch)
            block = self._prefix(params)

            def body(m, sums):
                new = self._micro(params, block, coefficients, batch, m)
                return jax.tree.map(jnp.add, sums, new)

            sums = jax.lax.fori_loop(0, batch.num_micro, body, losses.Sums.zero())
            return _metrics(sums, batch)

        return jax.jit(loss)

    def value_and_gradients(
        self, trained: Any, batch: Batch, frozen: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the gradient of the loss and the metrics of `loss`; to be traced.

        Args:
          trained: `TrainState.params`.
          batch: examples of one step, on the mesh if there is one.
          frozen: as `frozen` returns it.

        Returns:
          Gradients, float32 in the tree of `trained`; and scalars by name.
        """
        coefficients = self._coefficients(batch)
        whole = functools.partial(self.policy_params, frozen=frozen)
        block, pull_back = jax.vjp(lambda trained: self._prefix(whole(trained)), trained)

        def loss(trained, block, m):
            sums = self._micro(whole(trained), block, coefficients, batch, m)
            return sums.loss, sums

        def body(m, carry):
            (_, new), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
                trained, block, m
            )
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), carry, (new, grads))

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (trained, block))
        start = (losses.Sums.zero(), zeros)
        if batch.tokens.shape[0] == 1:
            sums, (grads, block_grads) = body(0, start)
        else:
            sums, (grads, block_grads) = jax.lax.fori_loop(0, batch.num_micro, body, start)
        if self.prefix_ids:
            block_grads = jax.tree.map(lambda g, x: g.astype(x.dtype), block_grads, block)
            (prefix_grads,) = pull_back(block_grads)
            grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, prefix_grads)
        return grads, _metrics(sums, batch)

    def _coefficients(self, batch: Batch) -> Float[Array, "micro rows length"]:
        """Returns the coefficient of each target's -log p in the loss of the step."""
        return losses.coefficients(
            batch.weights, batch.lengths, batch.num_examples, self.normalisation
        )

    def _prefix(self, params: Any) -> Prefix | tuple[()]:
        """Returns keys and values of the prefix, or () if it is empty."""
        length = len(self.prefix_ids)
        if not length:
            return ()
        # Each part of the mesh computes a piece of the prefix, which is padded to divide.
        padding = -length % (self._parts[0] * self._parts[1])
        tokens = jnp.pad(jnp.asarray(self.prefix_ids, jnp.int32), (0, padding))[None]
        positions = jnp.arange(length + padding, dtype=jnp.int32)[None]
        with partitioning.use_rules(self._prefix_rules):
            block = models.forward(params, self.config, tokens, positions).block
        block = kv_cache.as_prefix(block)
        return block.keys[..., :length], block.values[..., :length, :]

    def _micro(
        self,
        params: Any,
        block: Prefix | tuple[()],
        coefficients: Float[Array, "micro rows length"],
        batch: Batch,
        m: Int[Array, ""] | int,
    ) -> losses.Sums:
        """Returns the sums of micro-batch `m`, behind the prefix in `block`."""

        def of_micro(x):
            return jax.lax.dynamic_index_in_dim(x, m, keepdims=False)

        caches = (kv_cache.prefix(*block),) if block else ()
        hidden = models.forward(
            params,
            self.config,
            of_micro(batch.tokens),
            of_micro(batch.positions),
            segments=of_micro(batch.segments),
            caches=caches,
        ).hidden
        return losses.weighted_nll(
            params,
            self.config,
            hidden,
            of_micro(batch.targets),
            of_micro(coefficients),
            of_micro(batch.lengths) > 0,
            chunk=self.head_chunk,
            parts=self._parts,
            train_head=self.adapter is None,
        )


def _as_read(frozen: Any) -> Any:
    """Returns frozen weights as the programs read them."""
    return models.as_bits(frozen) if frozen is not None and sharding.on_one_cpu() else frozen


_LOW_EFFICIENCY = 0.5
"""Share of row positions with a token below which training logs a warning."""


def _metrics(sums: losses.Sums, batch: Batch) -> dict[str, Any]:
    """Returns the metrics of a step; see `Trainer.train_step`."""
    tokens = jnp.maximum(sums.tokens, 1.0)
    share = jnp.where(batch.lengths > 0, batch.weights / jnp.maximum(batch.lengths, 1), 0.0)
    return {
        "loss": sums.loss,
        "token_nll": sums.nll / tokens,
        "token_accuracy": sums.correct / tokens,
        "target_tokens": sums.tokens,
        "examples": batch.num_examples,
        "weight_sum": share.sum(),
    }

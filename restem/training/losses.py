"""The M-step's objective: reward-weighted negative log-likelihood, equation 3 of the paper.

    J(theta) = E_{x, y} [ r(x, y) log p_theta(y | x) ]

Over a batch of examples i with targets t = 1 .. T_i, the loss is

    L = - sum_i w_i c_i sum_t log p(y_it | y_i<t, x_i) / Z

with c_i and Z as `Normalisation` defines them. Weights may be negative (control variates), so Z is
a sum of their absolute values.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem import models
from restem.models import ModelConfig

Normalisation = Literal["token", "example", "example_mean", "none"]
"""Normalisation of the sum over examples.

    name          c_i     Z
    token         1       sum_i |w_i| T_i    mean over target tokens, long solutions count more
    example       1       sum_i |w_i|        mean over examples of -log p(y | x)
    example_mean  1/T_i   sum_i |w_i|        mean over examples of the mean over their tokens
    none          1       number of examples equation 3 itself, an unbiased estimate of it
"""


@flax.struct.dataclass
class Sums:
    """Contribution of one micro-batch to the loss and the metrics of its step."""

    loss: Float[Array, ""]
    """Share of the loss, already normalised."""
    nll: Float[Array, ""]
    """-log p of all targets, unweighted, in nats."""
    correct: Float[Array, ""]
    """Number of targets that are the most likely token."""
    tokens: Float[Array, ""]
    """Number of targets."""

    @classmethod
    def zero(cls) -> Sums:
        """Returns the sums of no micro-batch."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(4)))


def coefficients(
    weights: Float[Array, "*axes"],
    lengths: Int[Array, "*axes"],
    num_examples: Int[Array, ""],
    normalisation: Normalisation,
) -> Float[Array, "*axes"]:
    """Returns w_i c_i / Z at every target position and 0 elsewhere.

    The arrays are those of a whole step: normalising each micro-batch separately would change the
    loss. A step whose weights are all zero has loss 0. For two examples, w = 2 with one target and
    w = 1 with two:

        weights       . 2 . 1 1      lengths  . 1 . 2 2
        token         0 2 0 1 1   / 4
        example       0 2 0 1 1   / 3
        example_mean  0 2 0 .5 .5 / 3
        none          0 2 0 1 1   / 2

    Args:
      weights: w_i at the target positions of example i.
      lengths: T_i at the target positions of example i, 0 where nothing is predicted.
      num_examples: examples of the step.
      normalisation: see `Normalisation`.

    Raises:
      ValueError: `normalisation` is unknown.
    """
    is_target = lengths > 0
    share = jnp.where(is_target, 1.0 / jnp.maximum(lengths, 1), 0.0).astype(jnp.float32)
    weights = jnp.where(is_target, weights, 0.0).astype(jnp.float32)
    if normalisation == "token":
        z = jnp.abs(weights).sum()
    elif normalisation in ("example", "example_mean"):
        z = (jnp.abs(weights) * share).sum()
    elif normalisation == "none":
        z = num_examples.astype(jnp.float32)
    else:
        raise ValueError(f"normalisation={normalisation!r} is not one of {get_args(Normalisation)}")
    scaled = weights * share if normalisation == "example_mean" else weights
    return scaled / jnp.where(z > 0, z, 1.0)


def weighted_nll(
    params: Mapping[str, Any],
    config: ModelConfig,
    hidden: Float[Array, "rows length embed"],
    targets: Int[Array, "rows length"],
    coefficients: Float[Array, "rows length"],
    is_target: Bool[Array, "rows length"],
    *,
    chunk: int,
    parts: tuple[int, int] = (1, 1),
    train_head: bool = True,
) -> Sums:
    """Sums coefficient * -log p(target), with logits of one chunk of target positions at a time.

    Target positions are gathered before the head, which then runs over as many chunks as they
    fill: [tokens, vocab] logits never exist whole, and padding costs nothing. A gradient is
    computed in the same pass, chunk by chunk, so that the backward pass does not recompute the
    logits. With chunk=2 and targets at the positions marked x, the head runs twice:

        position   0 1 2 3 4 5 6      order   1 2 5 | 0 3 4 6
        is_target  . x x . . x .      chunks  (1 2) (5 -)

    Args:
      params: parameters of the decoder.
      config: the decoder.
      hidden: hidden states that `models.forward` returns.
      targets: token that each position predicts.
      coefficients: see `coefficients`; no gradient flows to them.
      is_target: whether the position predicts anything.
      chunk: target positions of each shard that go through the head at once.
      parts: parts of the mesh over which rows and their length are split, divisors of `rows` and
        `length`; targets are gathered within each part.
      train_head: whether a gradient flows to the output matrix; without one none is computed.
    """
    of_part = _by_part(is_target, parts)
    size = of_part.shape[1]
    order = jnp.argsort(~of_part, axis=1, stable=True)
    count = of_part.sum(axis=1)
    padding = -size % chunk
    order = jnp.pad(order, ((0, 0), (0, padding)))

    def take(x):
        return jax.vmap(lambda values, index: values[index])(_by_part(x, parts), order)

    valid = jnp.arange(size + padding)[None] < count[:, None]
    head = {k: v for k, v in params.items() if k != "layers"}
    return _head_nll(
        config,
        chunk,
        train_head,
        head,
        take(hidden),
        take(targets),
        jnp.where(valid, take(coefficients), 0.0),
        valid,
        -(-count.max() // chunk),
    )


def _by_part(x: jax.Array, parts: tuple[int, int]) -> jax.Array:
    """[rows, length, ...] -> [shards, size, ...], positions by the part of the mesh they are on."""
    rows, length, *rest = x.shape
    of_rows, of_length = parts
    x = x.reshape(of_rows, rows // of_rows, of_length, length // of_length, *rest)
    return jnp.swapaxes(x, 1, 2).reshape(of_rows * of_length, -1, *rest)


def _chunk_sums(
    config: ModelConfig,
    head: Mapping[str, Any],
    hidden: Float[Array, "shards chunk embed"],
    targets: Int[Array, "shards chunk"],
    coefficients: Float[Array, "shards chunk"],
    valid: Bool[Array, "shards chunk"],
) -> Sums:
    """Returns the sums over one chunk; positions that are not `valid` are padding."""
    logits = models.logits(head, config, hidden)
    of_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_p = of_target - jax.nn.logsumexp(logits, axis=-1)
    # Not argmax, which takes as long as a softmax on a CPU.
    correct = (of_target >= logits.max(axis=-1)) & valid
    return Sums(
        loss=-(coefficients * log_p).sum(),
        nll=-jnp.where(valid, log_p, 0.0).sum(),
        correct=correct.sum().astype(jnp.float32),
        tokens=valid.sum().astype(jnp.float32),
    )


def _chunk(arrays: Sequence[jax.Array], index: jax.Array | int, chunk: int) -> list[jax.Array]:
    """Returns chunk `index` of each array: [shards, size, ...] -> [shards, chunk, ...]."""
    return [jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1) for x in arrays]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _head_nll(
    config: ModelConfig,
    chunk: int,
    train_head: bool,
    head: Mapping[str, Any],
    hidden: Float[Array, "shards size embed"],
    targets: Int[Array, "shards size"],
    coefficients: Float[Array, "shards size"],
    valid: Bool[Array, "shards size"],
    num_chunks: Int[Array, ""],
) -> Sums:
    """Sums `_chunk_sums` over the first `num_chunks` chunks."""
    arrays = (hidden, targets, coefficients, valid)

    def body(i, sums):
        new = _chunk_sums(config, head, *_chunk(arrays, i, chunk))
        return jax.tree.map(jnp.add, sums, new)

    return jax.lax.fori_loop(0, num_chunks, body, Sums.zero())


def _head_nll_forward(
    config, chunk, train_head, head, hidden, targets, coefficients, valid, num_chunks
):
    """`_head_nll`, with its gradients [vocab, embed] (or transposed) and [shards, size, embed]."""
    arrays = (hidden, targets, coefficients, valid)
    # The head is the embedding if it is tied, and a matrix of its own if not.
    name = "embedding" if config.tied_head else "head"

    def loss(matrix, x, *rest):
        sums = _chunk_sums(config, {**head, name: matrix}, x, *rest)
        return sums.loss, sums

    def body(i, carry):
        sums, d_matrix, d_hidden = carry
        (_, new), (*dm, dx) = jax.value_and_grad(loss, argnums=trained, has_aux=True)(
            head[name], *_chunk(arrays, i, chunk)
        )
        return (
            jax.tree.map(jnp.add, sums, new),
            [total + d.astype(jnp.float32) for total, d in zip(d_matrix, dm, strict=True)],
            jax.lax.dynamic_update_slice_in_dim(d_hidden, dx, i * chunk, axis=1),
        )

    trained = (0, 1) if train_head else (1,)
    d_matrix = [jnp.zeros(head[name].shape, jnp.float32)] * train_head
    start = (Sums.zero(), d_matrix, jnp.zeros_like(hidden))
    sums, d_matrix, d_hidden = jax.lax.fori_loop(0, num_chunks, body, start)
    return sums, (head if train_head else None, d_matrix, d_hidden)


def _head_nll_backward(config, chunk, train_head, residuals, cotangent):
    """Scales the gradients of the forward pass by the cotangent of the loss."""
    head, d_matrix, d_hidden = residuals
    name = "embedding" if config.tied_head else "head"
    g = cotangent.loss
    d_head = None
    if train_head:
        d_head = {k: jax.tree.map(jnp.zeros_like, v) for k, v in head.items() if k != name}
        d_head[name] = (g * d_matrix[0]).astype(head[name].dtype)
    return d_head, (g * d_hidden).astype(d_hidden.dtype), None, None, None, None


_head_nll.defvjp(_head_nll_forward, _head_nll_backward)

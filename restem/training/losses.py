"""The M-step's objective: reward-weighted negative log-likelihood, equation 3 of the paper.

    J(theta) = E_{x, y} [ r(x, y) log p_theta(y | x) ]

so that over a batch of examples i with targets t = 1 .. T_i the loss is

    L = - sum_i w_i c_i sum_t log p(y_it | y_i<t, x_i) / Z

in which `Normalisation` says what c_i and Z are. Weights may be negative (control variates), so Z
is made of their absolute values.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp

from restem import models
from restem.models import ModelConfig

Normalisation = Literal["token", "example", "example_mean", "none"]
"""How the sum over examples becomes the loss.

    name          c_i     Z
    token         1       sum_i |w_i| T_i    mean over target tokens, long solutions count more
    example       1       sum_i |w_i|        mean over examples of -log p(y | x)
    example_mean  1/T_i   sum_i |w_i|        mean over examples of the mean over their tokens
    none          1       number of examples equation 3 as it stands, an unbiased estimate of it
"""


@flax.struct.dataclass
class Sums:
    """What one micro-batch adds to the loss and the metrics of its step; all [] float32."""

    loss: jax.Array
    """Its share of the loss, normalised already."""
    nll: jax.Array
    """-log p of all targets, unweighted, in nats."""
    correct: jax.Array
    """Targets that are the most likely token."""
    tokens: jax.Array
    """Targets."""

    @classmethod
    def zero(cls) -> Sums:
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(4)))


def coefficients(
    weights: jax.Array,
    lengths: jax.Array,
    num_examples: jax.Array,
    normalisation: Normalisation,
) -> jax.Array:
    """w_i c_i / Z at every target position, 0 elsewhere; any shape, float32.

    The arrays are those of a whole step: normalising micro-batches one by one would change the
    loss. A step whose weights are all zero has loss 0.

    Args:
      weights: w_i at the target positions of example i.
      lengths: T_i there, 0 where nothing is predicted.
      num_examples: [] int32.
      normalisation: see `Normalisation`.
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
        raise ValueError(f"normalisation={normalisation!r} is none of {get_args(Normalisation)}")
    scaled = weights * share if normalisation == "example_mean" else weights
    return scaled / jnp.where(z > 0, z, 1.0)


def weighted_nll(
    params: Mapping[str, Any],
    config: ModelConfig,
    hidden: jax.Array,
    targets: jax.Array,
    coefficients: jax.Array,
    is_target: jax.Array,
    *,
    chunk: int,
    shards: int = 1,
) -> Sums:
    """sum coefficient * -log p(target), logits only at target positions and a chunk at a time.

    Target positions are brought together before the head, and the head runs over chunks of them,
    as many as there are: [tokens, vocab] logits never exist whole and padding costs nothing. Where
    a gradient is asked for it is taken in the same pass, chunk by chunk, so that the logits are
    computed once and not again in the backward pass.

    Args:
      params: the decoder's parameters.
      config: the decoder.
      hidden: [rows, length, embed], of `models.forward`.
      targets: [rows, length] int32.
      coefficients: [rows, length] float32; no gradient flows to them.
      is_target: [rows, length] bool.
      chunk: target positions, of each shard, that go through the head at once.
      shards: parts of the mesh that rows are split over, a divisor of `rows`; targets are brought
        together within each.
    """
    rows, length = hidden.shape[:2]
    size = rows // shards * length
    order = jnp.argsort(~is_target.reshape(shards, size), axis=1, stable=True)
    count = is_target.reshape(shards, size).sum(axis=1)
    padding = -size % chunk
    order = jnp.pad(order, ((0, 0), (0, padding)))

    def take(x):
        x = x.reshape(shards, size, *x.shape[2:])
        return jax.vmap(lambda values, index: values[index])(x, order)

    valid = jnp.arange(size + padding)[None] < count[:, None]
    head = {k: v for k, v in params.items() if k != "layers"}
    return _head_nll(
        config,
        chunk,
        head,
        take(hidden),
        take(targets),
        jnp.where(valid, take(coefficients), 0.0),
        valid,
        -(-count.max() // chunk),
    )


def _chunk_sums(config, head, hidden, targets, coefficients, valid) -> Sums:
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


def _chunks(config, chunk, arrays, index):
    """Chunk `index` of arrays [shards, size, ...]."""
    return [jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1) for x in arrays]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _head_nll(config, chunk, head, hidden, targets, coefficients, valid, num_chunks) -> Sums:
    arrays = (hidden, targets, coefficients, valid)

    def body(i, sums):
        new = _chunk_sums(config, head, *_chunks(config, chunk, arrays, i))
        return jax.tree.map(jnp.add, sums, new)

    return jax.lax.fori_loop(0, num_chunks, body, Sums.zero())


def _head_nll_forward(config, chunk, head, hidden, targets, coefficients, valid, num_chunks):
    arrays = (hidden, targets, coefficients, valid)
    # Only the output matrix: of a tied head that is the embedding, of another it is not touched.
    name = "embedding" if config.tied_head else "head"

    def loss(matrix, x, *rest):
        sums = _chunk_sums(config, {**head, name: matrix}, x, *rest)
        return sums.loss, sums

    def body(i, carry):
        sums, d_matrix, d_hidden = carry
        (_, new), (dm, dx) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            head[name], *_chunks(config, chunk, arrays, i)
        )
        return (
            jax.tree.map(jnp.add, sums, new),
            d_matrix + dm.astype(jnp.float32),
            jax.lax.dynamic_update_slice_in_dim(d_hidden, dx, i * chunk, axis=1),
        )

    start = (
        Sums.zero(),
        jnp.zeros(head[name].shape, jnp.float32),
        jnp.zeros_like(hidden),
    )
    sums, d_matrix, d_hidden = jax.lax.fori_loop(0, num_chunks, body, start)
    return sums, (head, d_matrix, d_hidden)


def _head_nll_backward(config, chunk, residuals, cotangent):
    head, d_matrix, d_hidden = residuals
    name = "embedding" if config.tied_head else "head"
    g = cotangent.loss
    d_head = {k: jax.tree.map(jnp.zeros_like, v) for k, v in head.items() if k != name}
    d_head[name] = (g * d_matrix).astype(head[name].dtype)
    return d_head, (g * d_hidden).astype(d_hidden.dtype), None, None, None, None


_head_nll.defvjp(_head_nll_forward, _head_nll_backward)

"""From logits to a token: temperature, then top-k, then top-p, then one draw.

The order is that of the literature and of Hugging Face: the temperature divides the logits, top-k
keeps the k most likely tokens, and top-p keeps the smallest set of most likely tokens whose mass
*among those that top-k kept* reaches p. Equal logits rank by token id, the lower first, so a filter
keeps exactly as many tokens as it says.

Filters see logits in descending order, which makes each of them one line. Sorting a whole
vocabulary for every token would cost more than the model does, so only as many candidates are
ranked as the filters can keep (`most_likely`); where top-p needs more, bisection finds the least
probability that it keeps.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from restem.models import sharding
from restem.runtime.checks import above, at_least, at_most

REMOVED = -1e30
"""Logit of a token that a filter removed."""

_GROUP = 128
# Top-p without top-k ranks this many candidates first, which nearly always have enough mass.
_CANDIDATES = 64
# Tokens that top-k ranks: the paper's k, doubled until it is enough.
_RANKED = 40


@runtime_checkable
class Filter(Protocol):
    """Removes tokens from a ranked distribution."""

    def __call__(
        self, logits: Float[Array, "rows width"], log_total: Float[Array, " rows"]
    ) -> Float[Array, "rows width"]:
        """Returns the logits with those of removed tokens set to `REMOVED`.

        Args:
          logits: those of each row's most likely tokens, in descending order.
          log_total: log of the summed exp of all logits that earlier filters kept, including those
            beyond `width`.
        """


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the k most likely tokens (Fan et al. 2018)."""

    k: Any
    """Number of tokens to keep, an int or [] int32."""

    def __call__(
        self, logits: Float[Array, "rows width"], log_total: Float[Array, " rows"]
    ) -> Float[Array, "rows width"]:
        del log_total
        return jnp.where(jnp.arange(logits.shape[-1]) < self.k, logits, REMOVED)


@dataclasses.dataclass(frozen=True)
class TopP:
    """Keeps the fewest most likely tokens with mass p or more (Holtzman et al. 2019).

    With p=0.8, a row of probabilities .5 .25 .15 .1 keeps three tokens: the mass *before* them is
    0, .5 and .75, less than p, and before the fourth it is .9.
    """

    p: Any
    """Probability mass in (0, 1], a float or [] float32."""

    def __call__(
        self, logits: Float[Array, "rows width"], log_total: Float[Array, " rows"]
    ) -> Float[Array, "rows width"]:
        probs = jnp.exp(logits - log_total[:, None])
        before = jnp.cumsum(probs, axis=-1) - probs
        return jnp.where(before < self.p, logits, REMOVED)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits."""

    temperature: Annotated[float, at_least(0)] = 1.0
    """Divisor of the logits; 0 takes the most likely token, whatever the filters."""
    top_k: Annotated[int, at_least(0)] = 0
    """Number of most likely tokens to draw from; 0 is off."""
    top_p: Annotated[float, above(0), at_most(1)] = 1.0
    """Probability mass of the most likely tokens to draw from; 1.0 is off."""

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature={self.temperature} is not 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} is not 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is not in (0, 1]")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0


@flax.struct.dataclass
class Drawing:
    """`Sampling` as arguments of a program, so that one program draws in every way."""

    temperature: Any
    """[] float32, divisor of the logits; 0 is greedy."""
    top_k: Any
    """[] int32, number of most likely tokens to draw from; 0 is off."""
    top_p: Any
    """[] float32, probability mass of the most likely tokens to draw from; 1.0 is off."""
    candidates: int = flax.struct.field(pytree_node=False, default=_RANKED)
    """Number of most likely tokens that are ranked, at least `top_k`."""

    @classmethod
    def of(cls, sampling: Sampling) -> Drawing:
        """Returns the arguments that draw as `sampling` does."""
        candidates = _RANKED
        while candidates < sampling.top_k:
            candidates *= 2
        return cls(
            np.asarray(sampling.temperature, np.float32),
            np.asarray(sampling.top_k, np.int32),
            np.asarray(sampling.top_p, np.float32),
            candidates,
        )


def most_likely(
    logits: Float[Array, "rows vocab"], k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """Returns the k largest logits of each row in descending order, and their token ids.

    The result is that of `jax.lax.top_k`, including the order of equal logits by ascending id, at
    a fraction of its cost: a row's top k are in the k groups of neighbouring ids with the largest
    maxima. (If a token of the top k were in another group, the maxima of k groups would all rank
    before it.) With k=2 and groups of 4 ids:

        logits  1 9 2 0 | 3 4 1 1 | 8 0 7 2      maxima 9 4 8: groups 0 and 2 are ranked
        result  9 (id 1), 8 (id 8)

    Args:
      logits: those of the whole vocabulary.
      k: number of tokens, at most the size of the vocabulary.
    """
    axes = sharding.mesh_axes("vocab", logits.shape[1])
    if axes:
        return _most_likely_of_shards(logits, k, axes)
    return _most_likely(logits, k)


def _most_likely_of_shards(
    logits: Float[Array, "rows vocab"], k: int, axes: tuple[str, ...]
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """`most_likely` where the vocabulary is split over `axes` of the mesh in force.

    Every part ranks its own tokens, and only its k best meet those of the others.
    """
    batch = sharding.mesh_axes("batch", logits.shape[0])

    def of_part(part):
        values, ids = _most_likely(part, min(k, part.shape[1]))
        ids = ids + jax.lax.axis_index(axes) * part.shape[1]
        values, ids = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (values, ids))
        # Parts are in the order of ids, so that ties are broken by id.
        values, at = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(ids, at, axis=-1)

    whole = PartitionSpec(batch or None, None)
    return jax.shard_map(
        of_part, in_specs=PartitionSpec(batch or None, axes), out_specs=(whole, whole),
        check_vma=False,
    )(logits)  # fmt: skip


def _most_likely(
    logits: Float[Array, "rows vocab"], k: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """`most_likely` on one part of a mesh."""
    rows, vocab = logits.shape
    groups = -(-vocab // _GROUP)
    if groups <= 2 * k:
        values, ids = jax.lax.top_k(logits, k)
        return values, ids
    if vocab % _GROUP:
        logits = _pad_to_groups(logits, groups)
    grouped = logits.reshape(rows, groups, _GROUP)
    _, best = jax.lax.top_k(grouped.max(axis=-1), k)
    best = jnp.sort(best, axis=-1)  # in the order of ids, so that ties are broken by id
    candidates = jnp.take_along_axis(grouped, best[..., None], axis=1).reshape(rows, k * _GROUP)
    values, at = jax.lax.top_k(candidates, k)
    group = jnp.take_along_axis(best, at // _GROUP, axis=-1)
    return values, group * _GROUP + at % _GROUP


def draw(
    drawing: Drawing,
    logits: Float[Array, "rows vocab"],
    keys: Key[Array, " rows"],
    active: Bool[Array, " rows"],
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Draws one token for each row.

    Args:
      drawing: temperature and filters.
      logits: float32.
      keys: PRNG keys; a row's token depends only on the row's own logits and key.
      active: rows whose result is used; the others may be drawn from the wrong distribution.

    Returns:
      Tokens, and log p(token) under softmax(logits), neither tempered nor truncated.
    """
    log_norm = jax.nn.logsumexp(logits, axis=-1)
    vocab = logits.shape[-1]
    temperature = jnp.maximum(drawing.temperature, jnp.finfo(jnp.float32).tiny)

    def uniforms():
        return jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)

    # Only the branch that is taken is computed.
    is_greedy, has_top_k = drawing.temperature == 0, (drawing.top_k > 0) & (drawing.top_k < vocab)
    branch = jnp.where(is_greedy, 0, jnp.where(has_top_k, 1, jnp.where(drawing.top_p < 1, 2, 3)))
    tokens = jax.lax.switch(
        branch,
        (
            lambda: most_likely(logits, 1)[1][:, 0].astype(jnp.int32),  # faster than an argmax
            lambda: _draw_top_k(drawing, temperature, logits, uniforms()),
            lambda: _draw_top_p(drawing, temperature, logits, uniforms(), active),
            lambda: _draw_grouped(logits / temperature, uniforms()),
        ),
    )
    picked = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return tokens, picked - log_norm


def _draw_top_k(
    drawing: Drawing,
    temperature: Float[Array, ""],
    logits: Float[Array, "rows vocab"],
    uniforms: Float[Array, "rows 2"],
) -> Int[Array, " rows"]:
    """Draws tokens under top-k, and under top-p if it is on."""
    # The temperature does not change the ranks, so only the ranked logits are divided by it and the
    # array of all of them is not written again.
    values, ids = most_likely(logits, min(drawing.candidates, logits.shape[-1]))
    values = TopK(drawing.top_k)(values / temperature, uniforms[:, 0])
    return _draw_ranked(drawing, values, ids, jax.nn.logsumexp(values, axis=-1), uniforms)


def _draw_top_p(
    drawing: Drawing,
    temperature: Float[Array, ""],
    logits: Float[Array, "rows vocab"],
    uniforms: Float[Array, "rows 2"],
    active: Bool[Array, " rows"],
) -> Int[Array, " rows"]:
    """Draws tokens under top-p alone."""
    vocab = logits.shape[-1]
    values, ids = most_likely(logits, min(_CANDIDATES, vocab))
    values = values / temperature
    log_total = jax.nn.logsumexp(logits / temperature, axis=-1)
    tokens = _draw_ranked(drawing, values, ids, log_total, uniforms)
    if vocab <= _CANDIDATES:
        return tokens
    # Rows whose candidates do not reach p are drawn by bisection. Each row's own logits decide
    # which method draws it, so that its token does not depend on its neighbours.
    mass = jnp.exp(values - log_total[:, None]).sum(axis=-1)
    enough = mass >= drawing.top_p

    needed = active & ~enough

    def search():
        return _search(drawing.top_p, temperature, logits, uniforms, needed, tokens)

    return jax.lax.cond(jnp.any(needed), search, lambda: tokens)


def _search(
    top_p: Float[Array, ""],
    temperature: Float[Array, ""],
    logits: Float[Array, "rows vocab"],
    uniforms: Float[Array, "rows 2"],
    needed: Bool[Array, " rows"],
    tokens: Int[Array, " rows"],
) -> Int[Array, " rows"]:
    """Returns `tokens`, but from `_draw_nucleus` in the rows that need it.

    Bisection reads the logits over thirty times. A CPU does that row by row, where a row stays in
    its cache and the others cost nothing; an accelerator has the bandwidth, and few rows would
    leave it idle.
    """

    def all_rows():
        return jnp.where(needed, _draw_nucleus(top_p, logits / temperature, uniforms), tokens)

    def row_by_row():
        def of_row(row):
            is_needed, token, values, pair = row
            return jax.lax.cond(
                is_needed,
                lambda: _draw_nucleus(top_p, values[None] / temperature, pair[None])[0],
                lambda: token,
            )

        return jax.lax.map(of_row, (needed, tokens, logits, uniforms))

    return jax.lax.platform_dependent(cpu=row_by_row, default=all_rows)


def _draw_ranked(
    drawing: Drawing,
    values: Float[Array, "rows width"],
    ids: Int[Array, "rows width"],
    log_total: Float[Array, " rows"],
    uniforms: Float[Array, "rows 2"],
) -> Int[Array, " rows"]:
    """Draws by inverse CDF from descending logits after top-p, if it is on."""
    # Off, it keeps every token, also where rounding lets the running sum reach 1 early.
    values = TopP(jnp.where(drawing.top_p < 1, drawing.top_p, 2.0))(values, log_total)
    kept = (values > REMOVED).sum(axis=-1)
    at = _invert(jnp.exp(values - values[:, :1]), uniforms[:, 0])
    # A running sum may round differently past the last token kept: never go beyond that token.
    at = jnp.minimum(at, kept - 1)
    return jnp.take_along_axis(ids, at[:, None], axis=-1)[:, 0].astype(jnp.int32)


def _draw_nucleus(
    top_p: Float[Array, ""], logits: Float[Array, "rows vocab"], uniforms: Float[Array, "rows 2"]
) -> Int[Array, " rows"]:
    """Draws after `TopP` from a whole vocabulary, without sorting it.

    Bisection over the bit patterns of float32 finds the least weight that is kept; for numbers that
    are not negative, bit patterns have the order of the numbers.
    """
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)
    target = top_p * weights.sum(axis=-1)

    def mass_from(least):
        return jnp.where(bits >= least[:, None], weights, 0.0).sum(axis=-1)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        reached = mass_from(middle) >= target
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32)
    low = jnp.zeros(logits.shape[:1], jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, jnp.full_like(low, one + 1)))
    least = jax.lax.bitcast_convert_type(low, jnp.float32)
    # Of equal weights at the edge the lowest ids are kept, as many as are needed.
    missing = jnp.ceil((target - mass_from(low + 1)) / least)
    equal = bits == low[:, None]
    stays = (bits > low[:, None]) | (equal & (jnp.cumsum(equal, axis=-1) <= missing[:, None]))
    stays |= (low == 0)[:, None]
    return _draw_grouped(jnp.where(stays, logits, -jnp.inf), uniforms)


def _draw_grouped(
    logits: Float[Array, "rows vocab"], uniforms: Float[Array, "rows 2"]
) -> Int[Array, " rows"]:
    """Draws by inverse CDF from a whole vocabulary: a group of neighbouring ids, then one of them.

    Two uniforms, one per level, resolve probabilities far below the 2^-23 of one float32.
    """
    rows, vocab = logits.shape
    groups = -(-vocab // _GROUP)
    if vocab % _GROUP:
        logits = _pad_to_groups(logits, groups)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True)).reshape(rows, groups, _GROUP)
    group = _invert(weights.sum(axis=-1), uniforms[:, 0])
    within = jnp.take_along_axis(weights, group[:, None, None], axis=1)[:, 0]
    token = group * _GROUP + _invert(within, uniforms[:, 1])
    return jnp.minimum(token, vocab - 1).astype(jnp.int32)


def _invert(weights: Float[Array, "rows n"], uniform: Float[Array, " rows"]) -> Int[Array, " rows"]:
    """Returns the first index at which the running sum of `weights` exceeds uniform * total.

    With weights 2 1 1 and uniform .5 the threshold is 2: the running sum 2 3 4 exceeds it at 1.
    """
    running = jnp.cumsum(weights, axis=-1)
    passed = running <= uniform[:, None] * running[:, -1:]
    return jnp.minimum(passed.sum(axis=-1), weights.shape[-1] - 1)


def _pad_to_groups(logits: Float[Array, "rows vocab"], groups: int) -> Float[Array, "rows padded"]:
    """Pads the vocabulary with impossible tokens to a multiple of `_GROUP`."""
    pad = groups * _GROUP - logits.shape[-1]
    return jnp.pad(logits, ((0, 0), (0, pad)), constant_values=-jnp.inf)

"""Optimizers of the M-step: optax transformations that gin can name.

    import restem.training.optimizers
    improve.optimizer = @adamw
    adamw.learning_rate = 5e-5

The M-step passes `total_steps`; every other argument has a default or comes from gin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import gin
import jax
import jax.numpy as jnp
import optax

from restem.runtime.checks import above, at_least, below, between

Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["params", "master", "stochastic"]


def learning_rates(
    *,
    learning_rate: float,
    schedule: Schedule,
    warmup_fraction: float,
    total_steps: int,
    final_fraction: float = 0.0,
) -> Callable[[Any], jax.Array]:
    """Returns the schedule, step [] -> rate [] float32: linear warm-up, then constant or decay.

    Warm-up takes w = round(warmup_fraction * total_steps) steps at 1/(w+1), 2/(w+1), ... of the
    peak, so that no step has rate zero; the decay reaches `final_fraction` of the peak after the
    last step. With 5 steps, warmup_fraction=.4 and "linear":

        step   0    1    2   3    4
        rate  1/3  2/3   1  2/3  1/3   of the peak

    Raises:
      ValueError: `schedule` is unknown, or `total_steps` is not positive.
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule={schedule!r} is not one of {get_args(Schedule)}")
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be positive")
    warmup = round(warmup_fraction * total_steps)

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = jnp.minimum(1.0, (step + 1) / (warmup + 1))
        done = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        if schedule == "cosine":
            falling = 0.5 * (1 + jnp.cos(jnp.pi * done))
        elif schedule == "linear":
            falling = 1 - done
        else:
            return learning_rate * rising
        return learning_rate * rising * (final_fraction + (1 - final_fraction) * falling)

    return rate


def decayed(params: Any) -> Any:
    """Returns the tree of flags of the leaves that decay: all but scales of norms and biases.

    Leaves are told apart by name, because stacked layers give each one dimension more than it has
    in a layer.
    """

    def is_decayed(path, _):
        name = str(getattr(path[-1], "key", path[-1]))
        return not (name.endswith(("norm", "bias")))

    return jax.tree_util.tree_map_with_path(is_decayed, params)


@gin.configurable(module="restem.training.optimizers")
def adamw(
    *,
    total_steps: Annotated[int, at_least(1)],
    learning_rate: Annotated[float, above(0)] = 5e-6,
    schedule: Schedule = "constant",
    warmup_fraction: Annotated[float, between(0, 1)] = 0.03,
    clip: Annotated[float | None, above(0)] = 1.0,
    weight_decay: Annotated[float, at_least(0)] = 0.0,
    b1: Annotated[float, at_least(0), below(1)] = 0.9,
    b2: Annotated[float, at_least(0), below(1)] = 0.999,
    eps: Annotated[float, above(0)] = 1e-8,
    moment_dtype: Literal["float32", "bfloat16"] | None = None,
    precision: Precision | None = None,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter 2019) after clipping by global norm.

    Args:
      total_steps: optimizer steps of the whole training, for the schedule.
      learning_rate: peak of the schedule.
      schedule: "constant", "cosine" or "linear" after the warm-up.
      warmup_fraction: length of the warm-up as a fraction of `total_steps`.
      clip: largest global norm of a gradient; None does not clip.
      weight_decay: per step, times the learning rate; not on norms and biases.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: constant added to the root of the second moment.
      moment_dtype: dtype of the first moment; None is float32, as the second moment is.
      precision: how bfloat16 parameters are updated; see `with_precision`. None is
        "stochastic" there.
      seed: seed of stochastic rounding.
    """
    rates = learning_rates(
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_fraction=warmup_fraction,
        total_steps=total_steps,
    )
    inner = optax.adamw(
        rates, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed,
        mu_dtype=moment_dtype,
    )  # fmt: skip
    return with_precision(_clipped(inner, clip), precision, seed=seed)


@gin.configurable(module="restem.training.optimizers")
def adafactor(
    *,
    total_steps: Annotated[int, at_least(1)],
    learning_rate: Annotated[float, above(0)] = 1e-5,
    schedule: Schedule = "constant",
    warmup_fraction: Annotated[float, between(0, 1)] = 0.03,
    clip: Annotated[float | None, above(0)] = 1.0,
    weight_decay: Annotated[float, at_least(0)] = 0.0,
    decay_rate: Annotated[float, above(0)] = 0.8,
    update_clip: Annotated[float, above(0)] = 1.0,
    scale_by_parameters: bool = False,
    min_factored_size: Annotated[int, at_least(1)] = 32,
    precision: Precision | None = None,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer and Stern 2018) without momentum, with factored second moments.

    Its state is about a thousandth of the size of the parameters, for models whose AdamW moments
    do not fit in memory. The layers of a stack share the root mean squares that `update_clip` and
    `scale_by_parameters` use, because their leaf is one array.

    Args:
      total_steps: optimizer steps of the whole training, for the schedule.
      learning_rate: peak of the schedule; relative to each parameter's root mean square with
        `scale_by_parameters`.
      schedule: "constant", "cosine" or "linear" after the warm-up.
      warmup_fraction: length of the warm-up as a fraction of `total_steps`.
      clip: largest global norm of a gradient; None does not clip.
      weight_decay: per step, times the learning rate; not on norms and biases.
      decay_rate: the second moment's decay at step t is 1 - t ** -decay_rate.
      update_clip: largest root mean square of a leaf's update before the learning rate.
      scale_by_parameters: whether updates are multiplied by the parameter's root mean square.
      min_factored_size: second largest dimension below which a leaf keeps a full moment.
      precision: how bfloat16 parameters are updated; see `with_precision`. None is
        "stochastic" there.
      seed: seed of stochastic rounding.
    """
    rates = learning_rates(
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_fraction=warmup_fraction,
        total_steps=total_steps,
    )
    parts = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate, min_dim_size_to_factor=min_factored_size
        ),
        optax.clip_by_block_rms(update_clip),
    ]
    if scale_by_parameters:
        parts.append(optax.scale_by_param_block_rms())
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    parts.append(optax.scale_by_learning_rate(rates))
    return with_precision(_clipped(optax.chain(*parts), clip), precision, seed=seed)


def _clipped(
    inner: optax.GradientTransformation, clip: float | None
) -> optax.GradientTransformation:
    """Clips gradients to a global norm of `clip` before `inner`; None does not clip."""
    return inner if clip is None else optax.chain(optax.clip_by_global_norm(clip), inner)


def with_precision(
    inner: optax.GradientTransformation,
    precision: Precision | None,
    *,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Returns `inner` with a treatment of updates too small to change a bfloat16 parameter.

    "params" loses them, unless parameters are float32. "master" applies them to float32 copies in
    the optimizer's state (4 bytes per parameter). "stochastic" applies them with the probability
    that makes the expected parameter exact (no memory). None is "stochastic" if any parameter is
    bfloat16, otherwise "params". `inner` works in float32 in all of them, so its moments are
    float32, whatever the dtype of the parameters.

    Raises:
      ValueError: `precision` is none of these.
    """
    if precision is None:
        return _by_dtype(in_float32(inner), stochastic_rounding(inner, seed=seed))
    if precision == "params":
        return in_float32(inner)
    if precision == "master":
        return master_weights(inner)
    if precision == "stochastic":
        return stochastic_rounding(inner, seed=seed)
    raise ValueError(f"precision={precision!r} is not params, master or stochastic")


def _by_dtype(
    plain: optax.GradientTransformation, rounding: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns a transformation that is `rounding` if any parameter is bfloat16, else `plain`."""

    def of(params):
        is_rounded = any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
        return rounding if is_rounded else plain

    def init(params):
        return of(params).init(params)

    def update(grads, state, params=None):
        return of(params).update(grads, state, params)

    return optax.GradientTransformation(init, update)


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `inner` with parameters and gradients in float32.

    The moments of bfloat16 parameters would begin in bfloat16, and become float32 with the first
    gradient: a step would have to be compiled twice, and could not reuse the state's memory.
    """

    def init(params):
        return inner.init(_float32(params))

    def update(grads, state, params=None):
        return inner.update(_float32(grads), state, _float32(params))

    return optax.GradientTransformation(init, update)


class MasterWeightsState(NamedTuple):
    """State of `master_weights`."""

    master: optax.Params
    """Parameters in float32."""
    inner: optax.OptState


def master_weights(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Updates float32 copies of the parameters, which are those copies rounded.

    The updates are float32 differences, which `optax.apply_updates` adds.
    """

    def init(params):
        master = _float32(params, copy=True)
        return MasterWeightsState(master, inner.init(master))

    def update(grads, state, params=None):
        updates, inner_state = inner.update(_float32(grads), state.inner, state.master)
        master = optax.apply_updates(state.master, updates)
        return _differences(master, params), MasterWeightsState(master, inner_state)

    return optax.GradientTransformation(init, update)


class StochasticRoundingState(NamedTuple):
    """State of `stochastic_rounding`."""

    key: jax.Array
    """Data of the PRNG key, from which and `count` the key of a step is folded."""
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    inner: optax.OptState


def stochastic_rounding(
    inner: optax.GradientTransformation, *, seed: int = 0
) -> optax.GradientTransformation:
    """Rounds each updated bfloat16 parameter up or down so that its expectation is exact.

    The inner transformation works in float32. The updates are float32 differences, which
    `optax.apply_updates` adds; leaves of other dtypes are not rounded.
    """

    def init(params):
        key = jax.random.key_data(jax.random.key(seed))
        return StochasticRoundingState(key, jnp.zeros((), jnp.int32), inner.init(_float32(params)))

    def update(grads, state, params=None):
        wide = _float32(params)
        updates, inner_state = inner.update(_float32(grads), state.inner, wide)
        new = optax.apply_updates(wide, updates)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.count)
        leaves, tree = jax.tree.flatten(new)
        old = jax.tree.leaves(params)
        rounded = [
            round_stochastically(jax.random.fold_in(key, i), x) if p.dtype == jnp.bfloat16 else x
            for i, (x, p) in enumerate(zip(leaves, old, strict=True))
        ]
        state = StochasticRoundingState(state.key, state.count + 1, inner_state)
        return _differences(jax.tree.unflatten(tree, rounded), params), state

    return optax.GradientTransformation(init, update)


def reseeded(state: optax.OptState, seed: int) -> optax.OptState:
    """Returns an optimizer's state whose stochastic rounding, if any, has bits of its own.

    With equal bits in every M-step of one or a few steps, the same parameters would be rounded up
    each time, and the others never.
    """
    is_rounding = lambda part: isinstance(part, StochasticRoundingState)

    def fold(part):
        if not is_rounding(part):
            return part
        key = jax.random.fold_in(jax.random.wrap_key_data(part.key), seed & 0xFFFFFFFF)
        return part._replace(key=jax.random.key_data(key))

    return jax.tree.map(fold, state, is_leaf=is_rounding)


def round_stochastically(key: jax.Array, x: jax.Array) -> jax.Array:
    """Rounds x [...] float32 to [...] bfloat16, up with the probability that makes the mean x.

    A bfloat16 is the upper half of a float32: adding 16 random bits to the lower half carries
    into the upper half with probability lower / 2**16. For lower = 0x4000, a quarter:

        bits 0x3F80_4000 + noise 0x0000 .. 0xBFFF -> 0x3F80    (3/4 of the noise)
                         + noise 0xC000 .. 0xFFFF -> 0x3F81    (1/4)

    Infinities and NaN are unchanged.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    carried = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), carried, x).astype(jnp.bfloat16)


def _float32(tree: Any, *, copy: bool = False) -> Any:
    """Returns the leaves in float32; `copy` also copies those that already are."""
    cast = jnp.array if copy else jnp.asarray
    return jax.tree.map(lambda x: cast(x, jnp.float32), tree)


def _differences(new: Any, params: Any) -> Any:
    """Returns what `optax.apply_updates` must add to `params` to yield `new`, in float32."""
    return jax.tree.map(
        lambda x, p: x.astype(p.dtype).astype(jnp.float32) - p.astype(jnp.float32), new, params
    )

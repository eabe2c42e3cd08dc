"""How fast this machine multiplies."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp

_SIDE = 1024


def product_rate(dtype: str, *, seconds: float = 0.1) -> float:
    """Returns the rate of matrix products on the first device, in FLOP/s.

    Args:
      dtype: dtype of the factors; sums are in float32, as in the model.
      seconds: how long to measure, beside compilation.
    """
    x = jnp.ones((_SIDE, _SIDE), dtype)
    product = jax.jit(functools.partial(jnp.dot, preferred_element_type=jnp.float32))
    product(x, x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best

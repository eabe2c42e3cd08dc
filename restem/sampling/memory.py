"""How many slots fit in the memory of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from restem import models
from restem.errors import UserError
from restem.sampling import steps
from restem.sampling.options import Options
from restem.sampling.shapes import Shapes
from restem.sampling.widths import WidthClasses

_REFILLS = 4
"""Samples per slot from which on the ring has its full length at once."""
_SHARE = 0.8
"""Share of the memory that is planned for; the rest is for temporaries and fragmentation."""
_MOST = 1024
"""Most slots for each part that rows are split into."""
_WITHOUT_LIMIT = 256
"""Slots for each part where the device does not tell its memory."""


def starts_full(samples: int, slots: int) -> bool:
    """Returns whether the ring has its full length at once.

    The longest of several generations of samples in a slot needs it soon, and growing it holds two
    rings.
    """
    return samples >= _REFILLS * slots


def read_params(options: Options, params: models.Params) -> models.Params:
    """Returns the shapes of the parameters that the sampler's programs read, on accelerators."""
    read = jax.eval_shape(lambda params: steps.prepare_params(params, options.config), params)
    is_flat = Shapes(options.config, options.unstacked, options.mesh).flat_heads
    return models.flatten_heads(read) if is_flat else read


def own_leaves(tree: Any, other: Any) -> list[Any]:
    """Returns the leaves of a tree of parameters that another one lacks, in form or dtype."""
    paths = jax.tree_util.tree_flatten_with_path(other)[0]
    forms = {path: (leaf.shape, leaf.dtype) for path, leaf in paths}
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [leaf for path, leaf in leaves if forms.get(path) != (leaf.shape, leaf.dtype)]


def bytes_of_params(options: Options, params: models.Params) -> int:
    """Returns the bytes that parameters take, over all devices: the caller's and the sampler's.

    Args:
      options: options of the engine.
      params: parameters of the policy, or their shapes.
    """
    read = read_params(options, params)
    held = [*jax.tree.leaves(params), *own_leaves(read, params)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in held)


def slots_that_fit(
    options: Options,
    params: models.Params,
    classes_of: Callable[[int], WidthClasses],
    parts: int,
    samples: int,
    ring: int,
    ahead: int,
    memory: int | None = None,
) -> int:
    """Returns how many slots' caches and logits fit beside the parameters.

    The result depends on what is the same on every host, not on the memory that is free at the
    moment. It is a multiple of 8 slots for each part, or of 1 where 8 do not fit.

    Args:
      options: options of the engine.
      params: parameters of the policy.
      classes_of: number of slots -> their width classes.
      parts: parts of the mesh over which rows are split.
      samples: number of samples of the call.
      ring: columns for sampled tokens.
      ahead: columns of questions that are prefilled early.
      memory: bytes that programs may use on a device; None: as it tells.

    Raises:
      UserError: not even one slot per part fits.
    """
    mesh, config = options.mesh, options.config
    if memory is None:
        device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
        memory = (device.memory_stats() or {}).get("bytes_limit")
    if not memory:
        return _WITHOUT_LIMIT * parts
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    item = jnp.dtype(config.dtype).itemsize
    held: float = bytes_of_params(options, params)
    if mesh is not None:
        held /= mesh.shape["fsdp"] * tensor
    heads = config.num_kv_heads
    heads = heads // tensor if heads % tensor == 0 else heads
    column = 2 * config.num_layers * heads * config.head_dim * item
    room = _SHARE * memory - options.reserved - held

    def taken(slots: int) -> float:
        """Bytes of `slots` slots per part."""
        classes = classes_of(slots * parts)
        batch = classes.columns / parts + ring * slots
        if starts_full(samples, classes.slots):
            # A batch that shrinks has one of half its size beside it, but nothing is read ahead.
            besides = max(ahead, batch / 2)
        else:
            besides = ahead + ring * slots  # while the ring grows there are two
        # Drawing takes several copies of the logits.
        return (batch + besides) * column + 6 * 4 * config.vocab_size * slots

    fitting = [n for n in range(8, _MOST + 1, 8) if taken(n) <= room] or [
        n for n in range(1, 8) if taken(n) <= room
    ]
    if not fitting:
        beside, smaller = f"{held / 2**30:.1f} GiB of parameters", "a smaller model"
        if options.reserved:
            beside += f" and {options.reserved / 2**30:.1f} GiB that training holds"
            smaller += " or an adapter (improve.adapter)"
        raise UserError(
            f"no slot fits in {memory / 2**30:.1f} GiB beside {beside}: use a mesh with more fsdp"
            f" or tensor parts, lower max_new_tokens, or use {smaller}; `restem plan` shows what"
            " fits on a TPU slice"
        )
    return parts * fitting[-1]

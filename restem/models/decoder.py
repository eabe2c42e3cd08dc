"""The decoder: Linen modules for one layer and for the two ends, and the scan between them.

Parameters are a plain nested dict. Those of the layers are stacked along a leading axis and
scanned, so that a program of 126 layers compiles as fast as one of 2. `unstack_layers` turns the
stack into a tuple of layers, which `forward` runs as a Python loop; this makes a sampler on a CPU
faster, because XLA's CPU backend copies a slice of the stack before it multiplies with it.

Letters of the einsums in this file: e is a dimension of the residual stream (embed), v an entry of
the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from restem.models import attention, kv_cache, sharding
from restem.models.attention import IsLocal
from restem.models.config import ModelConfig
from restem.models.dense import (
    PRODUCT,
    dense,
    is_transposed,
    product_in_float32,
    sums_in_float32,
)
from restem.models.int8 import Int8
from restem.models.kv_cache import GroupedCache, KVCache
from restem.models.rotary import Rotary, inverse_frequencies, rotary_factor, rotate

Params = Mapping[str, Any]
"""Nested dict of arrays, `Int8`, `Transposed` or `Adapted`; layers under "layers", stacked or in a
tuple."""

Block = tuple[Float[Array, "batch kv_heads _ _"], Float[Array, "batch kv_heads length head"]]
"""Keys and values of a block of tokens in one layer; see `kv_cache.KVCache` for the keys' order."""

_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


@flax.struct.dataclass
class Forward:
    """Result of a pass over a block of tokens."""

    hidden: Float[Array, "batch length embed"]
    """Hidden states after the final norm, the input of `logits`."""
    block: KVCache
    """Keys and values of the block itself, to be written into a cache or kept as a prefix."""


def _weight(module: nn.Module, name: str, shape, axes, *, fan_in: int | None = None) -> Any:
    """Returns a parameter with logical axis names; normal with variance 1 / fan_in, or zeros.

    A matrix may be given as an `Int8`, a `Transposed` or an `Adapted`.
    """
    given: Any = module.get_variable("params", name)
    if is_transposed(given):  # of another shape
        return given
    if fan_in is None:
        init = nn.initializers.zeros_init()
    else:
        init = nn.initializers.normal(fan_in**-0.5)
    return _param(module, name, init, axes, shape)


def _param(module: nn.Module, name: str, init: Any, axes, shape) -> Any:
    # Modules are applied to unboxed parameters, so this is the array that the box would hold.
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape)


def _norm(
    module: nn.Module,
    name: str,
    x: Float[Array, "*shape"],
    *,
    axes: tuple[str, ...] = ("embed",),
    centred: bool = False,
) -> Float[Array, "*shape"]:
    """Applies RMS norm to the last axes, in float32; `centred` subtracts the mean first."""
    config = module.config
    init = nn.initializers.constant(1.0 - config.norm_offset)
    scale = _param(module, name, init, axes, x.shape[-len(axes) :])
    over = tuple(range(-len(axes), 0))
    y = x.astype(jnp.float32)
    if centred:
        y = y - y.mean(axis=over, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=over, keepdims=True) + config.norm_eps)
    return (y * (config.norm_offset + scale.astype(jnp.float32))).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        rotary: Rotary,
        positions: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None,
        cached: tuple[attention.Keys | attention.GroupedKeys, ...],
        is_local: IsLocal,
    ) -> tuple[Float[Array, "batch length embed"], Block]:
        """Attends from the block to `cached` and to itself.

        Args:
          x: normalised input of the layer.
          rotary: rotary embedding of the block's positions.
          positions: positions of the block's tokens.
          segments: segments of the block's tokens, or None.
          cached: this layer's keys and values of the tokens read before.
          is_local: whether the layer has the sliding window.

        Returns:
          What is added to the residual stream; keys and values of the block.
        """
        c = self.config

        def project(name, heads, axis):
            w = _weight(
                self, name, (c.embed_dim, heads, c.head_dim), ("embed", axis, "head"),
                fan_in=c.embed_dim,
            )  # fmt: skip
            y = dense(x, w).reshape(*x.shape[:-1], heads, c.head_dim)
            if c.qkv_bias:
                bias = _weight(self, f"{name}_bias", (heads, c.head_dim), (axis, "head"))
                y = y + bias.astype(x.dtype)
            return sharding.constrain(y, ("batch", "length", axis, "head"))

        query = project("query", c.num_heads, "heads")
        keys = project("key", c.num_kv_heads, "kv_heads")
        values = project("value", c.num_kv_heads, "kv_heads")
        if c.qk_norm:
            per_head = c.qk_norm_over == "head"
            axes: dict[str, tuple[str, ...]] = {"query": ("head",), "key": ("head",)}
            if not per_head:
                axes = {"query": ("heads", "head"), "key": ("kv_heads", "head")}
            query = _norm(self, "query_norm", query, axes=axes["query"])
            keys = _norm(self, "key_norm", keys, axes=axes["key"])
        query = rotate(query, rotary)
        keys = rotate(keys, rotary)
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        query = query * jnp.asarray(scale, query.dtype)

        time_minor = _time_minor(cached)
        names = kv_cache.axes(unstacked=True, time_minor=time_minor)
        own = attention.Keys(
            # Laid out as the cache they will be written to. Otherwise the compiler may split the
            # key heads as it splits the query's groups, and gather the whole cache after a write.
            keys=sharding.constrain(
                jnp.transpose(keys, (0, 2, 3, 1) if time_minor else (0, 2, 1, 3)), names.keys
            ),
            values=sharding.constrain(jnp.transpose(values, (0, 2, 1, 3)), names.values),
            positions=positions,
            segments=segments,
            time_minor=time_minor,
        )
        queries = attention.Queries(query, positions, segments)
        out = attention.attend(c, queries, (*cached, own), is_local)
        w = _weight(
            self, "out", (c.num_heads, c.head_dim, c.embed_dim), ("heads", "head", "embed"),
            fan_in=c.num_heads * c.head_dim,
        )  # fmt: skip
        out = dense(out, w, inputs=2)
        return out, (own.keys, own.values)


class Mlp(nn.Module):
    """The feed-forward block."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Returns what is added to the residual stream, from the normalised input `x`."""
        c = self.config
        act = _ACTIVATIONS[c.activation]

        def project(name):
            w = _weight(self, name, (c.embed_dim, c.mlp_dim), ("embed", "mlp"), fan_in=c.embed_dim)
            y = dense(x, w)
            return sharding.constrain(y, ("batch", "length", "mlp"))

        if self.has_variable("params", "gate_up"):
            gate, up = jnp.split(dense(x, self.get_variable("params", "gate_up")), 2, axis=-1)
            hidden = act(gate) * up
        elif c.gated_mlp:
            hidden = act(project("gate")) * project("up")
        else:
            hidden = act(project("up"))
        w = _weight(self, "down", (c.mlp_dim, c.embed_dim), ("mlp", "embed"), fan_in=c.mlp_dim)
        return dense(hidden, w)


class Layer(nn.Module):
    """One transformer layer; its parameters are one slice of the stack."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        rotary: Rotary,
        positions: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | None,
        cached: tuple[attention.Keys | attention.GroupedKeys, ...],
        is_local: IsLocal,
    ) -> tuple[Float[Array, "batch length embed"], Block]:
        """Returns the residual stream after the layer, and the block's keys and values.

        See `Attention` for the arguments; `x` is the residual stream.
        """
        c = self.config
        centred = c.norm == "layer"
        attend = Attention(c, name="attention")
        mlp = Mlp(c, name="mlp")

        y = _norm(self, "attention_norm", x, centred=centred) if c.pre_norms else x
        attended, block = attend(y, rotary, positions, segments, cached, is_local)
        if c.post_norms:
            attended = _norm(self, "post_attention_norm", attended, centred=centred)
        if c.parallel_layers:
            fed = mlp(y)
        else:
            x = x + attended
            fed = mlp(_norm(self, "mlp_norm", x, centred=centred) if c.pre_norms else x)
        if c.post_norms:
            fed = _norm(self, "post_mlp_norm", fed, centred=centred)
        x = x + attended + fed if c.parallel_layers else x + fed
        return sharding.constrain(x, ("batch", "length", "embed_act")), block


class Ends(nn.Module):
    """The two ends of the decoder: tokens to embeddings, hidden states to logits."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, end: Literal["embed", "norm", "logits"]) -> jax.Array:
        """Applies one end of the decoder.

        end      x                           returns
        embed    [batch, length] int32       [batch, length, embed]
        norm     [batch, length, embed]      [batch, length, embed]
        logits   [..., embed]                [..., vocab] float32
        """
        c = self.config
        normal = nn.initializers.normal(c.embed_dim**-0.5)
        table = _param(self, "embedding", normal, ("vocab", "embed"), (c.vocab_size, c.embed_dim))
        if end == "embed":
            if isinstance(table, Int8):
                x = jnp.take(table.values, x, axis=0) * jnp.take(table.scale, x)[..., None]
            else:
                x = jnp.take(table, x, axis=0)
            x = x.astype(c.dtype)
            if c.scale_embedding:
                x = x * jnp.asarray(c.embed_dim**0.5, c.dtype)
            return sharding.constrain(x, ("batch", "length", "embed_act"))
        if end == "norm":
            return _norm(self, "final_norm", x, centred=c.norm == "layer")
        spec = "...e,ve->...v"
        if not c.tied_head:
            spec = "...e,ev->...v"
            table = _param(self, "head", normal, ("embed", "vocab"), (c.embed_dim, c.vocab_size))
        matrix = table.values.astype(x.dtype) if isinstance(table, Int8) else table
        if sums_in_float32(x):
            y = product_in_float32(x.reshape(-1, c.embed_dim), matrix, int(c.tied_head))
            y = y.reshape(*x.shape[:-1], c.vocab_size)
        else:
            y = jnp.einsum(spec, x, matrix.astype(x.dtype), preferred_element_type=jnp.float32)
        if isinstance(table, Int8):
            y = y * table.scale
        if c.final_softcap is not None:
            y = c.final_softcap * jnp.tanh(y / c.final_softcap)
        return y


def _end(
    params: Params, config: ModelConfig, x: jax.Array, end: Literal["embed", "norm", "logits"]
) -> jax.Array:
    """`Ends` on parameters; the layers among them are ignored."""
    params = {name: value for name, value in params.items() if name != "layers"}
    result: Any = Ends(config).apply({"params": params}, x, end)
    return result


def forward(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array | np.ndarray, "batch length"],
    positions: Int[Array | np.ndarray, "batch length"],
    *,
    segments: Int[Array | np.ndarray, "batch length"] | None = None,
    caches: Sequence[KVCache | GroupedCache] = (),
) -> Forward:
    """Runs the decoder over a block of tokens that follow those in the caches.

    Args:
      params: as `init_params` returns them, the layers stacked or in a tuple (`unstack_layers`), or
        in another form of `models.params` for a device.
      config: the decoder.
      tokens: token ids of the block.
      positions: position of each token in its own text, prefix included.
      segments: 0 for padding; tokens attend only within their segment. None: each row is one text,
        with any padding at its end.
      caches: what the block attends to besides itself: the rows' own caches and shared prefixes, in
        any order. Every query of a row sees the columns at or before its own position.

    Returns:
      Hidden states, and keys and values of the block, which are unstacked if a cache is, and whose
      keys have time as the minor dimension unless a cache has not. Nothing is written into
      `caches`.
    """
    tokens, positions = jnp.asarray(tokens), jnp.asarray(positions)
    x = _end(params, config, tokens, "embed")
    rotary_of = _rotaries(config, positions)
    cache_arrays = tuple(map(_arrays, caches))

    def layer(x, scanned):
        layer_params, is_local, is_unrotated, layer_caches = scanned
        rotary = rotary_of(is_local, is_unrotated)
        cached = tuple(map(_keys, caches, layer_caches))
        return Layer(config).apply(
            {"params": layer_params}, x, rotary, positions, segments, cached, is_local
        )

    none = (False,) * config.num_layers
    local_layers, unrotated_layers = config.local_layers or none, config.unrotated_layers or none
    layers = params["layers"]
    if isinstance(layers, tuple):
        blocks = []

        # Layers of equal shapes are traced and lowered once.
        @functools.partial(jax.jit, static_argnums=(1, 2))
        def traced(x, is_local, is_unrotated, layer_params, layer_caches):
            return layer(x, (layer_params, is_local, is_unrotated, layer_caches))

        for i, layer_params in enumerate(layers):
            of_layer = jax.tree.map(
                lambda pair, i=i: _Pair(pair.keys[i], pair.values[i]),
                cache_arrays,
                is_leaf=_is_pair,
            )
            x, block = traced(x, local_layers[i], unrotated_layers[i], layer_params, of_layer)
            blocks.append(block)
        keys: Any = tuple(b[0] for b in blocks)
        values: Any = tuple(b[1] for b in blocks)
        if not any(c.is_unstacked for c in caches):
            keys, values = jnp.stack(keys), jnp.stack(values)
    else:
        body = layer
        if config.remat != "none":
            policy = {
                "full": jax.checkpoint_policies.nothing_saveable,
                "dots": jax.checkpoint_policies.save_from_both_policies(
                    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
                    jax.checkpoint_policies.save_only_these_names(PRODUCT, attention.ATTENTION),
                ),
            }[config.remat]
            body = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        flags = jnp.asarray(local_layers), jnp.asarray(unrotated_layers)
        x, (keys, values) = jax.lax.scan(body, x, (layers, *flags, cache_arrays))
    hidden = _end(params, config, x, "norm")
    block = KVCache(keys, values, positions, time_minor=_time_minor(caches))
    return Forward(hidden=hidden, block=block)


def _rotaries(
    config: ModelConfig, positions: Int[Array, "batch length"]
) -> Callable[[IsLocal, IsLocal], Rotary]:
    """Returns a function from (is_local, is_unrotated) of a layer to its rotary embedding."""
    at = positions.astype(jnp.float32)[..., None]
    angles = local_angles = at * inverse_frequencies(config)
    if config.rope_local_theta is not None:
        local_angles = at * inverse_frequencies(config, local=True)
    factor = rotary_factor(config)

    def of_layer(is_local, is_unrotated):
        rotary = Rotary(angles, factor)
        if config.rope_local_theta is not None:
            rotary = dataclasses.replace(rotary, angles=jnp.where(is_local, local_angles, angles))
        if any(config.unrotated_layers):
            rotary = dataclasses.replace(rotary, angles=jnp.where(is_unrotated, 0.0, rotary.angles))
        if factor != 1.0:  # of layers whose frequencies are scaled
            is_plain = is_unrotated if config.rope_local_theta is None else is_local
            rotary = dataclasses.replace(rotary, factor=jnp.where(is_plain, 1.0, factor))
        return rotary

    return of_layer


class _Pair(NamedTuple):
    """Keys and values of a cache."""

    keys: Any
    values: Any


def _is_pair(x: Any) -> bool:
    return isinstance(x, _Pair)


def _arrays(cache: KVCache | GroupedCache) -> Any:
    """Returns the keys and values of a cache, which have one entry per layer."""
    if isinstance(cache, GroupedCache):
        return tuple(map(_arrays, cache.groups))
    return _Pair(cache.keys, cache.values)


def _time_minor(caches: Sequence[Any]) -> bool:
    """Returns the order of a block's keys: that of the cache which it will be written into."""
    return all(getattr(cache, "time_minor", True) for cache in caches)


def _keys(cache: KVCache | GroupedCache, arrays: Any) -> attention.Keys | attention.GroupedKeys:
    """Returns the keys and values of one layer, of which `arrays` are those of `_arrays`."""
    if isinstance(cache, GroupedCache):
        groups: Any = map(_keys, cache.groups, arrays)
        return attention.GroupedKeys(tuple(groups), cache.parts)
    return attention.Keys(arrays.keys, arrays.values, cache.positions, time_minor=cache.time_minor)


def logits(
    params: Params, config: ModelConfig, hidden: Float[Array, "*axes embed"]
) -> Float[Array, "*axes vocab"]:
    """Returns float32 logits of hidden states, soft-capped if the family does so."""
    return _end(params, config, hidden, "logits")

"""Configuration of a decoder: every choice in which model families differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh", "gelu"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are scaled for contexts beyond the pretraining length."""

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    """"linear" divides every frequency by `factor`; "llama3" only the low ones (Llama 3.1); "yarn"
    does so by a ramp over the dimensions (Peng et al. 2023); "longrope" divides each by a number
    of its own (Phi)."""
    factor: float = 1.0
    """Ratio of the new context length to the old one."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_length / low_freq_factor are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_length / high_freq_factor are unchanged."""
    original_length: int = 8192
    """llama3, yarn, longrope: context length of pretraining, in tokens."""
    beta_fast: float = 32.0
    """yarn: dimensions that turn more often than this in `original_length` are unchanged."""
    beta_slow: float = 1.0
    """yarn: dimensions that turn less often than this are divided by `factor`."""
    truncate: bool = True
    """yarn: whether the ends of the ramp are rounded to whole dimensions."""
    short_factors: tuple[float, ...] = ()
    """longrope: divisors of the frequencies for texts of up to `original_length` tokens."""
    long_factors: tuple[float, ...] = ()
    """longrope: divisors for longer texts, which are only kept for export."""
    attention_factor: float | None = None
    """yarn, longrope: factor of rotated queries and keys; None: the one of the paper."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer.

    The defaults are those of Llama. Mistral, Qwen 2.5 and 3, Gemma 1 to 3, SmolLM3, OLMo 2, Phi-3
    and 4 and PaLM differ from it only in the fields below.
    """

    vocab_size: int
    """Rows of the embedding table."""
    num_layers: int
    """Transformer layers."""
    embed_dim: int
    """Width of the residual stream."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads; fewer than `num_heads` is grouped-query, 1 is multi-query attention."""
    head_dim: int
    """Width of a head."""
    mlp_dim: int
    """Hidden width of the feed-forward block."""
    family: str = "llama"
    """Name of the family in `checkpoints.names`, by which tensors are mapped to parameters."""
    max_length: int = 8192
    """Longest sequence the model was trained for, in tokens."""
    norm: Literal["rms", "layer"] = "rms"
    """Root-mean-square norm, or the layer norm without bias of PaLM."""
    norm_eps: float = 1e-5
    """Constant added to the variance."""
    norm_offset: float = 0.0
    """Offset of the scale of a norm; 1 for Gemma, which stores scale - 1."""
    activation: Activation = "silu"
    """Non-linearity of the feed-forward block."""
    gated_mlp: bool = True
    """Whether the feed-forward block is down(act(gate(x)) * up(x)) or down(act(up(x)))."""
    tied_head: bool = False
    """Whether the output head is the embedding table."""
    scale_embedding: bool = False
    """Whether embeddings are multiplied by sqrt(embed_dim), rounded to `dtype` (Gemma, PaLM)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rotary_dim: int | None = None
    """Leading dimensions of a head that are rotated; None is all (Phi-4-mini rotates 3 of 4)."""
    unrotated_layers: tuple[bool, ...] = ()
    """Flags of the layers without rotary embedding, one per layer; empty means none (SmolLM3)."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies; with `rope_local_theta`, of global layers only."""
    rope_local_theta: float | None = None
    """Base of the rotary frequencies of sliding-window layers if it differs (Gemma 3)."""
    window: int | None = None
    """Tokens that a token of a sliding-window layer sees, itself and those right before it."""
    local_layers: tuple[bool, ...] = ()
    """Flags of the layers that have the sliding window, one per layer; empty means none."""
    attention_softcap: float | None = None
    """Cap of the attention logits, which become cap * tanh(logits / cap) (Gemma 2)."""
    final_softcap: float | None = None
    """Cap of the output logits, likewise."""
    query_scale: float | None = None
    """Factor of the queries; None is head_dim ** -0.5."""
    qk_norm: bool = False
    """Whether queries and keys are normalised before the rotary embedding (Qwen 3, Gemma 3)."""
    qk_norm_over: Literal["head", "all"] = "head"
    """Whether that norm is of each head or of all heads together (OLMo 2)."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have biases (Qwen 2.5)."""
    pre_norms: bool = True
    """Whether the input of each block is normalised; OLMo 2 normalises only the output."""
    post_norms: bool = False
    """Whether the output of each block is normalised before it is added (Gemma 2 and 3, OLMo 2)."""
    parallel_layers: bool = False
    """Whether attention and feed-forward block read the same normalised input (PaLM)."""
    dtype: str = "float32"
    """Dtype of activations and matrix products; parameters keep the dtype they are stored in."""
    int8_weights: bool = False
    """Whether the sampler keeps matrices in int8, with one scale per output channel; see
    `models.int8`."""
    remat: Literal["none", "full", "dots"] = "full"
    """What the backward pass recomputes: nothing, whole layers, or all but matrix products and the
    results of attention in blocks."""
    query_block: int | None = None
    """Queries per block of attention, so that no [length, length] array exists whole; None takes
    as many as `models.query_blocks.query_block` allows."""

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
            )
        for name in ("local_layers", "unrotated_layers"):
            flags = getattr(self, name)
            if flags and len(flags) != self.num_layers:
                raise ValueError(f"{name} has {len(flags)} flags for {self.num_layers} layers")
        if any(self.local_layers) and self.window is None:
            raise ValueError("local_layers is set, but window is not")

    @property
    def has_local_layers(self) -> bool:
        """Whether any layer has the sliding window."""
        return any(self.local_layers)

    def replace(self, **changes: Any) -> ModelConfig:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields in a form that JSON can hold; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelConfig:
        """Returns the config that `to_dict` describes."""
        fields = dict(fields)
        if fields.get("rope_scaling"):
            listed = fields["rope_scaling"]
            tuples = {k: tuple(listed.get(k, ())) for k in ("short_factors", "long_factors")}
            fields["rope_scaling"] = RopeScaling(**{**listed, **tuples})
        for name in ("local_layers", "unrotated_layers"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)

    @property
    def num_params(self) -> int:
        """Number of parameters of the model; a tied embedding counts once."""
        attention = self.embed_dim * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        if self.qkv_bias:
            attention += self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        if self.qk_norm:
            per_head = self.qk_norm_over == "head"
            attention += self.head_dim * (2 if per_head else self.num_heads + self.num_kv_heads)
        mlp = self.embed_dim * self.mlp_dim * (3 if self.gated_mlp else 2)
        blocks = 1 if self.parallel_layers else 2
        norms = self.embed_dim * blocks * (self.pre_norms + self.post_norms)
        ends = self.vocab_size * self.embed_dim * (1 if self.tied_head else 2) + self.embed_dim
        return self.num_layers * (attention + mlp + norms) + ends

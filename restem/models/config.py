"""What a decoder is: every choice that tells one model family from another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh", "gelu"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the pretraining length."""

    kind: Literal["linear", "llama3"]
    """"linear" divides every frequency by `factor`; "llama3" only the low ones (Llama 3.1)."""
    factor: float = 1.0
    """How much longer contexts become."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_length / low_freq_factor are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_length / high_freq_factor stay as they are."""
    original_length: int = 8192
    """llama3: context length of pretraining, in tokens."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer.

    The defaults are Llama's; Mistral, Qwen 2.5 and 3, Gemma 1 to 3 and PaLM differ from it in the
    fields below and in nothing else.
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
    """Name of the family in `checkpoints.names`: which tensor of a checkpoint goes where."""
    max_length: int = 8192
    """Longest sequence the model was trained for, in tokens."""
    norm: Literal["rms", "layer"] = "rms"
    """Root-mean-square norm, or PaLM's layer norm without bias."""
    norm_eps: float = 1e-5
    """Added to the variance."""
    norm_offset: float = 0.0
    """Norms multiply by `norm_offset + scale`; 1 for Gemma, which stores scale - 1."""
    activation: Activation = "silu"
    """Non-linearity of the feed-forward block."""
    gated_mlp: bool = True
    """down(act(gate(x)) * up(x)), else down(act(up(x)))."""
    tied_head: bool = False
    """The output head is the embedding table."""
    scale_embedding: bool = False
    """Multiply embeddings by sqrt(embed_dim), rounded to the activations' dtype (Gemma, PaLM)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies; global layers only where layers differ."""
    rope_local_theta: float | None = None
    """Base of the rotary frequencies of sliding-window layers, where it differs (Gemma 3)."""
    window: int | None = None
    """A token of a sliding-window layer sees itself and the `window - 1` tokens before it."""
    local_layers: tuple[bool, ...] = ()
    """Which layers have the sliding window, one flag a layer; empty means none."""
    attention_softcap: float | None = None
    """Attention logits become cap * tanh(logits / cap) (Gemma 2)."""
    final_softcap: float | None = None
    """The same for the output logits."""
    query_scale: float | None = None
    """Queries are multiplied by this; None is head_dim ** -0.5."""
    qk_norm: bool = False
    """Normalise queries and keys a head, before the rotary embedding (Qwen 3, Gemma 3)."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections (Qwen 2.5)."""
    post_norms: bool = False
    """Normalise the output of each block before it is added (Gemma 2 and 3)."""
    parallel_layers: bool = False
    """Attention and feed-forward read the same normalised input and are added together (PaLM)."""
    dtype: str = "float32"
    """Activations and matrix products; parameters keep the dtype they are stored in."""
    int8_weights: bool = False
    """The sampler reads matrices in int8, one scale an output channel; see `models.int8`."""
    remat: Literal["none", "full", "dots"] = "full"
    """What the backward pass computes again: nothing, whole layers, or all but matrix products."""
    query_block: int | None = None
    """Attend in blocks of this many queries, so that no [length, length] array is ever whole."""

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.local_layers and len(self.local_layers) != self.num_layers:
            raise ValueError(
                f"local_layers has {len(self.local_layers)} flags for {self.num_layers} layers"
            )
        if any(self.local_layers) and self.window is None:
            raise ValueError("local_layers is set, but window is not")

    @property
    def has_local_layers(self) -> bool:
        return any(self.local_layers)

    def replace(self, **changes: Any) -> ModelConfig:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """A form JSON can hold; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelConfig:
        fields = dict(fields)
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        fields["local_layers"] = tuple(fields.get("local_layers", ()))
        return cls(**fields)

    @property
    def num_params(self) -> int:
        """Parameters of the whole model, the embedding counted once where it is the head too."""
        attention = self.embed_dim * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        if self.qkv_bias:
            attention += self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        if self.qk_norm:
            attention += 2 * self.head_dim
        mlp = self.embed_dim * self.mlp_dim * (3 if self.gated_mlp else 2)
        norms = self.embed_dim * (1 if self.parallel_layers else 2) * (2 if self.post_norms else 1)
        ends = self.vocab_size * self.embed_dim * (1 if self.tied_head else 2) + self.embed_dim
        return self.num_layers * (attention + mlp + norms) + ends

"""One table of names per model family: which tensor of a file is which leaf of our parameters.

A leaf is named by its path ("layers/attention/query"). The same table reads Hugging Face folders
and writes them; a second column reads GGUF files. A tensor of a file is our array (one layer of
it) with its axes permuted and some of them merged: `Layout` says how, in both directions.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from restem.errors import UserError
from restem.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one of our arrays is stored in a file.

    `groups` lists our axes in the file's order; the axes of a group are merged there. The query
    projection is [embed, heads, head_dim] here and [heads * head_dim, embed] in a file:
    groups ((1, 2), (0,)).
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(axis for group in self.groups for axis in group)

    def stored_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape in the file of an array of `shape` here."""
        return tuple(math.prod(shape[axis] for axis in group) for group in self.groups)

    def rows(self, shape: Sequence[int], index: Sequence[slice]) -> slice:
        """Returns the rows of the file that hold `index` of an array of `shape` here."""
        first, *rest = self.groups[0]
        start, stop, _ = index[first].indices(shape[first])
        width = math.prod(shape[axis] for axis in rest)
        return slice(start * width, stop * width)

    def from_rows(
        self, rows: np.ndarray, shape: Sequence[int], index: Sequence[slice]
    ) -> np.ndarray:
        """Returns what `rows` reads, as `index` of an array of `shape`; a view if possible."""
        first = self.order[0]
        split = [shape[axis] for axis in self.order]
        split[0] = -1
        ours = rows.reshape(split).transpose(np.argsort(self.order))
        return ours[tuple(slice(None) if a == first else s for a, s in enumerate(index))]

    def to_stored(self, ours: np.ndarray) -> np.ndarray:
        """Returns one of our arrays as it is stored in the file."""
        return ours.transpose(self.order).reshape(self.stored_shape(ours.shape))


_AS_IS = Layout(((0,),))
_TABLE = Layout(((0,), (1,)))
_TRANSPOSED = Layout(((1,), (0,)))
_TO_HEADS = Layout(((1, 2), (0,)))
_FROM_HEADS = Layout(((2,), (0, 1)))
_HEADS_BIAS = Layout(((0, 1),))

_LAYOUTS: Mapping[str, Layout] = {
    "embedding": _TABLE,
    "final_norm": _AS_IS,
    "head": _TRANSPOSED,
    "layers/attention/query": _TO_HEADS,
    "layers/attention/key": _TO_HEADS,
    "layers/attention/value": _TO_HEADS,
    "layers/attention/out": _FROM_HEADS,
    "layers/attention/query_bias": _HEADS_BIAS,
    "layers/attention/key_bias": _HEADS_BIAS,
    "layers/attention/value_bias": _HEADS_BIAS,
    "layers/attention/query_norm": _AS_IS,
    "layers/attention/key_norm": _AS_IS,
    "layers/mlp/gate": _TRANSPOSED,
    "layers/mlp/up": _TRANSPOSED,
    "layers/mlp/down": _TRANSPOSED,
    "layers/attention_norm": _AS_IS,
    "layers/mlp_norm": _AS_IS,
    "layers/post_attention_norm": _AS_IS,
    "layers/post_mlp_norm": _AS_IS,
}


def layout(path: str, shape: Sequence[int]) -> Layout:
    """Returns how a leaf is stored, one layer of it if it is a stack.

    Args:
      path: of the leaf, such as "layers/attention/query".
      shape: of the leaf, or of one layer of it.
    """
    if path.endswith("norm") and len(shape) == 2:  # over all heads together
        return _HEADS_BIAS
    return _LAYOUTS[path]


_HF = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layers/attention/query": "model.layers.{layer}.self_attn.q_proj.weight",
    "layers/attention/key": "model.layers.{layer}.self_attn.k_proj.weight",
    "layers/attention/value": "model.layers.{layer}.self_attn.v_proj.weight",
    "layers/attention/out": "model.layers.{layer}.self_attn.o_proj.weight",
    "layers/attention/query_bias": "model.layers.{layer}.self_attn.q_proj.bias",
    "layers/attention/key_bias": "model.layers.{layer}.self_attn.k_proj.bias",
    "layers/attention/value_bias": "model.layers.{layer}.self_attn.v_proj.bias",
    "layers/attention/query_norm": "model.layers.{layer}.self_attn.q_norm.weight",
    "layers/attention/key_norm": "model.layers.{layer}.self_attn.k_norm.weight",
    "layers/mlp/gate": "model.layers.{layer}.mlp.gate_proj.weight",
    "layers/mlp/up": "model.layers.{layer}.mlp.up_proj.weight",
    "layers/mlp/down": "model.layers.{layer}.mlp.down_proj.weight",
    "layers/attention_norm": "model.layers.{layer}.input_layernorm.weight",
    "layers/mlp_norm": "model.layers.{layer}.post_attention_layernorm.weight",
}
# Only in families with four norms per layer does "post_attention" mean after the attention.
_HF_FOUR_NORMS = {
    **_HF,
    "layers/post_attention_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "layers/mlp_norm": "model.layers.{layer}.pre_feedforward_layernorm.weight",
    "layers/post_mlp_norm": "model.layers.{layer}.post_feedforward_layernorm.weight",
}
_PHI_FUSED = {
    "model.layers.{layer}.self_attn.qkv_proj.weight": (
        "layers/attention/query", "layers/attention/key", "layers/attention/value",
    ),
    "model.layers.{layer}.mlp.gate_up_proj.weight": ("layers/mlp/gate", "layers/mlp/up"),
}  # fmt: skip
_GGUF = {
    "embedding": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "layers/attention/query": "blk.{layer}.attn_q.weight",
    "layers/attention/key": "blk.{layer}.attn_k.weight",
    "layers/attention/value": "blk.{layer}.attn_v.weight",
    "layers/attention/out": "blk.{layer}.attn_output.weight",
    "layers/attention/query_bias": "blk.{layer}.attn_q.bias",
    "layers/attention/key_bias": "blk.{layer}.attn_k.bias",
    "layers/attention/value_bias": "blk.{layer}.attn_v.bias",
    "layers/attention/query_norm": "blk.{layer}.attn_q_norm.weight",
    "layers/attention/key_norm": "blk.{layer}.attn_k_norm.weight",
    "layers/mlp/gate": "blk.{layer}.ffn_gate.weight",
    "layers/mlp/up": "blk.{layer}.ffn_up.weight",
    "layers/mlp/down": "blk.{layer}.ffn_down.weight",
    "layers/attention_norm": "blk.{layer}.attn_norm.weight",
    "layers/mlp_norm": "blk.{layer}.ffn_norm.weight",
    "layers/post_attention_norm": "blk.{layer}.post_attention_norm.weight",
    "layers/post_mlp_norm": "blk.{layer}.post_ffw_norm.weight",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Names of a model family and its tensors in files."""

    hf_class: str
    """Class named by `architectures` in an exported config.json."""
    hf: Mapping[str, str]
    """Leaf -> name in a Hugging Face folder, with {layer}."""
    gguf: Mapping[str, str] = dataclasses.field(default_factory=lambda: _GGUF)
    """Leaf -> name in a GGUF file, with {layer}."""
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Name of a fused tensor in a Hugging Face folder -> the leaves whose rows it holds, in order;
    `hf` gives each of them a name that only restem uses."""
    gguf_interleaved: bool = False
    """Whether GGUF permutes the rows of q and k, for rotary embeddings that pair neighbours."""
    gguf_norm_offset: float = 0.0
    """Constant that GGUF adds to the scales of norms."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", _HF, gguf_interleaved=True),
    "mistral": Family("MistralForCausalLM", _HF, gguf_interleaved=True),
    "qwen2": Family("Qwen2ForCausalLM", _HF),
    "qwen3": Family("Qwen3ForCausalLM", _HF),
    "smollm3": Family("SmolLM3ForCausalLM", _HF),
    "olmo2": Family("Olmo2ForCausalLM", _HF_FOUR_NORMS),
    "phi3": Family("Phi3ForCausalLM", _HF, fused=_PHI_FUSED),
    "gemma": Family("GemmaForCausalLM", _HF, gguf_norm_offset=1.0),
    "gemma2": Family("Gemma2ForCausalLM", _HF_FOUR_NORMS, gguf_norm_offset=1.0),
    "gemma3": Family("Gemma3ForCausalLM", _HF_FOUR_NORMS, gguf_norm_offset=1.0),
}
"""By `ModelConfig.family`. PaLM has no entry, since its weights were never released."""


def of(config: ModelConfig) -> Family:
    """Returns the names of the config's family.

    Raises:
      UserError: neither Hugging Face nor GGUF has the family.
    """
    try:
        return FAMILIES[config.family]
    except KeyError:
        raise UserError(
            f"family {config.family!r} has no Hugging Face or GGUF form (known: "
            f"{', '.join(FAMILIES)}); keep such a policy as an orbax: checkpoint"
        ) from None


# Text models within multimodal wrappers, of transformers 4 and 5, and bare base models.
_HF_TEXT_PREFIX = re.compile(r"^(?:language_model\.model\.|model\.language_model\.|model\.)?")
_HF_NOT_TEXT = re.compile(r"(?:^|\.)(?:vision_tower|vision_model|multi_modal_projector)\.")
# Buffers in old checkpoints; they follow from the config.
_HF_BUFFER = re.compile(r"rotary_emb\.inv_freq$")


def canonical_hf(name: str) -> str | None:
    """Returns the name in a stand-alone text model; None for tensors that it does not have."""
    if _HF_NOT_TEXT.search(name) or _HF_BUFFER.search(name):
        return None
    if name.endswith("lm_head.weight"):
        return "lm_head.weight"
    return _HF_TEXT_PREFIX.sub("model.", name)


def gguf_transform(config: ModelConfig, leaf: str):
    """Returns the function from rows of a GGUF tensor to Hugging Face's; None for the identity."""
    family = of(config)
    if family.gguf_interleaved and leaf in ("layers/attention/query", "layers/attention/key"):
        half = config.head_dim // 2

        def unpermute(rows: np.ndarray) -> np.ndarray:
            pairs = rows.reshape(-1, half, 2, *rows.shape[1:])
            return pairs.swapaxes(1, 2).reshape(rows.shape)

        return unpermute
    if family.gguf_norm_offset and leaf.endswith("norm"):
        return lambda rows: rows - family.gguf_norm_offset
    return None

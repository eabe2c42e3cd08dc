"""The `ModelConfig` that the header of a GGUF file describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from restem.checkpoints.gguf import GGUFFile
from restem.errors import UserError
from restem.models.config import ModelConfig, RopeScaling

_GEMMA = {
    "activation": "gelu_tanh",
    "norm_offset": 1.0,
    "norm_eps": 1e-6,
    "scale_embedding": True,
}
_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "post_norms": True},
    "gemma3": {**_GEMMA, "post_norms": True, "qk_norm": True, "rope_local_theta": 10_000.0},
}
"""Family, which is also GGUF's name of the architecture -> fields that differ from Llama's."""
# The two models (family, layers) whose queries are scaled by the residual width per head; llama.cpp
# recognises them in the same way.
_WIDTH_SCALED = {("gemma2", 46), ("gemma3", 62)}


# What llama.cpp takes for keys that the first files of Gemma 2 lack.
_GEMMA2_KEYS: Mapping[str, Any] = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "attention.sliding_window": 4096,
}


def config(file: GGUFFile) -> ModelConfig:
    """Returns the `ModelConfig` that the metadata and shapes of a GGUF file describe.

    Raises:
      UserError: the architecture, or a variant of it, is not supported.
    """
    architecture: Any = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UserError(
            f"{file.path} is of architecture {architecture!r}; restem reads "
            f"{', '.join(_ARCHITECTURES)}"
        )

    defaults = _GEMMA2_KEYS if architecture == "gemma2" else {}

    def get(key: str, default: Any = None) -> Any:
        return file.metadata.get(f"{architecture}.{key}", defaults.get(key, default))

    needed = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length")
    for key in needed:
        if get(key) is None:
            raise UserError(f"{file.path} lacks {architecture}.{key}; its header is not complete")
    embed_dim, num_layers, num_heads, mlp_dim = (get(key) for key in needed)
    if "token_embd.weight" not in file.tensors:
        raise UserError(f"{file.path} has no token_embd.weight; is it a part of a split file?")
    fields = {
        "norm_eps": get("attention.layer_norm_rms_epsilon", 1e-5),
        **_ARCHITECTURES[architecture],
    }
    if get("attention.layer_norm_rms_epsilon") is not None:
        # Stored as float32: take the decimal that was meant.
        fields["norm_eps"] = float(f"{get('attention.layer_norm_rms_epsilon'):.6g}")
    window, local_layers = _windows(architecture, num_layers, get)
    head_dim = get("attention.key_length", embed_dim // num_heads)
    if get("attention.value_length", head_dim) != head_dim:
        raise UserError(f"{file.path}: keys and values of different widths are not supported")
    if (architecture, num_layers) in _WIDTH_SCALED:
        fields["query_scale"] = (embed_dim / num_heads) ** -0.5
    return ModelConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=get("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        mlp_dim=mlp_dim,
        family=architecture,
        max_length=get("context_length", 8192),
        tied_head="output.weight" not in file.tensors,
        rope_theta=get("rope.freq_base", 1_000_000.0 if architecture == "gemma3" else 10_000.0),
        rope_scaling=_rope_scaling(file, get),
        window=window,
        local_layers=local_layers,
        attention_softcap=get("attn_logit_softcapping") or None,
        final_softcap=get("final_logit_softcapping") or None,
        **fields,
    )


def _windows(
    architecture: str, num_layers: int, get: Callable[..., Any]
) -> tuple[int | None, tuple[bool, ...]]:
    """Returns the sliding window in tokens, and which layers have it."""
    window = get("attention.sliding_window") or None
    if window is None:
        return None, ()
    if architecture == "gemma2":
        return window, tuple(layer % 2 == 0 for layer in range(num_layers))
    if architecture == "gemma3":
        return window, tuple((layer + 1) % 6 != 0 for layer in range(num_layers))
    return window, (True,) * num_layers


def _rope_scaling(file: GGUFFile, get: Callable[..., Any]) -> RopeScaling | None:
    kind = get("rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", factor=get("rope.scaling.factor"))
    if kind != "none":
        raise UserError(f"{file.path}: rope scaling {kind!r} is not supported (linear, llama3 are)")
    if "rope_freqs.weight" not in file.tensors:
        return None
    # Llama 3.1 and later: llama.cpp stores the divisor of each frequency. All released models share
    # the other three constants, so the largest divisor is the factor; the others are checked.
    from restem.models.rotary import inverse_frequencies

    divisors = file.read("rope_freqs.weight")
    scaling = RopeScaling("llama3", factor=float(divisors.max()), original_length=8192)
    plain = ModelConfig(
        vocab_size=1, num_layers=1, embed_dim=1, num_heads=1, num_kv_heads=1, mlp_dim=1,
        head_dim=2 * len(divisors), rope_theta=get("rope.freq_base", 10_000.0),
    )  # fmt: skip
    scaled = plain.replace(rope_scaling=scaling)
    expected = np.asarray(inverse_frequencies(plain)) / np.asarray(inverse_frequencies(scaled))
    if not np.allclose(divisors, expected, rtol=1e-3):
        raise UserError(
            f"{file.path}: rope_freqs.weight is not Llama 3's scaling of rotary frequencies; "
            "load the model from its Hugging Face folder"
        )
    return scaling

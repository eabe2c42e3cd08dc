"""config.json of Hugging Face folders, in its old and new forms, from and to a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from restem.checkpoints import hf_rope, names
from restem.checkpoints.hf import HFFolder
from restem.errors import UserError
from restem.models.config import Activation, ModelConfig

# Values of fields that config.json leaves out: the defaults of each family's class in transformers.
_LLAMA_DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
}
_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 8192,
}
_GEMMA2_DEFAULTS = {
    **_GEMMA_DEFAULTS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA_DEFAULTS,
    "mistral": {
        **_LLAMA_DEFAULTS,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    "qwen2": {
        **_LLAMA_DEFAULTS,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        **_LLAMA_DEFAULTS,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "smollm3": {
        **_LLAMA_DEFAULTS,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "rope_theta": 2_000_000.0,
        "max_position_embeddings": 32_768,
        "no_rope_layer_interval": 4,
    },
    "olmo2": {**_LLAMA_DEFAULTS, "rms_norm_eps": 1e-5},
    "phi3": {**_LLAMA_DEFAULTS, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
    "gemma": _GEMMA_DEFAULTS,
    "gemma2": {
        **_GEMMA2_DEFAULTS,
        "vocab_size": 256_000,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {
        **_GEMMA2_DEFAULTS,
        "vocab_size": 262_208,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
    },
}
_MODEL_TYPES = {**{family: family for family in _DEFAULTS}, "gemma3_text": "gemma3"}
_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_REQUIRED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
)  # fmt: skip
_WINDOW_SWITCH = ("qwen2", "qwen3", "smollm3")
"""Families whose config.json says whether the sliding window is used."""
_NULLABLE = (
    "sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "num_key_value_heads",
)  # fmt: skip
"""Fields whose null differs from their default: no window, no cap, as many key heads as heads."""
_REFUSED = {
    "mlp_bias": "biases in the feed-forward block",
    "use_bidirectional_attention": "bidirectional attention",
    "quantization_config": "quantised weights",
}


def config(folder: HFFolder) -> ModelConfig:
    """Returns the `ModelConfig` that a folder's config.json describes.

    Reads what transformers 4 writes (`rope_theta`, `rope_scaling`, `sliding_window_pattern`) and
    what transformers 5 writes (`rope_parameters`, `layer_types`), and the text part of multimodal
    wrappers (`text_config`).

    Raises:
      UserError: the architecture, or a variant of it, is not supported.
    """
    where = folder.path / "config.json"
    family, raw = _with_defaults(folder.config, where)
    gemma = family.startswith("gemma")
    heads = raw["num_attention_heads"]
    num_layers = raw["num_hidden_layers"]
    # Gemma 1's first files say "gelu" in hidden_act; the models were trained with the tanh form.
    activation = raw["hidden_activation"] if gemma else raw["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{where}: activation {activation!r} is not supported ({', '.join(_ACTIVATIONS)})"
        )
    scalar = raw.get("query_pre_attn_scalar") if family in ("gemma2", "gemma3") else None
    head_dim = raw.get("head_dim", raw["hidden_size"] // heads)
    rope = hf_rope.read(raw, family, head_dim, where)
    window, local_layers = _windows(raw, family, num_layers)
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        num_layers=num_layers,
        embed_dim=raw["hidden_size"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        mlp_dim=raw["intermediate_size"],
        family=family,
        max_length=hf_rope.max_length(raw, rope["rope_scaling"]),
        norm_eps=raw["rms_norm_eps"],
        norm_offset=1.0 if gemma else 0.0,
        activation=_ACTIVATIONS[activation],
        tied_head=raw["tie_word_embeddings"],
        scale_embedding=gemma,
        window=window,
        local_layers=local_layers,
        attention_softcap=raw.get("attn_logit_softcapping") if family == "gemma2" else None,
        final_softcap=raw.get("final_logit_softcapping") if gemma else None,
        query_scale=None if scalar is None else scalar**-0.5,
        qk_norm=family in ("qwen3", "gemma3", "olmo2"),
        qk_norm_over="all" if family == "olmo2" else "head",
        qkv_bias=family == "qwen2",
        pre_norms=family != "olmo2",
        post_norms=family in ("gemma2", "gemma3", "olmo2"),
        **rope,
    )


def _with_defaults(raw: Mapping[str, Any], where: Any) -> tuple[str, dict[str, Any]]:
    """Returns the family and the fields of the text model, defaults of its class included."""
    text = raw.get("text_config")
    if text:
        # Early Gemma 3 wrappers left the type out of the text part.
        kept = {k: raw[k] for k in ("tie_word_embeddings", "model_type") if k in raw}
        raw = {**kept, **text}
    family = _MODEL_TYPES.get(str(raw.get("model_type")))
    if family is None:
        raise UserError(
            f"{where}: model_type {raw.get('model_type')!r} is not supported; restem has "
            f"{', '.join(_MODEL_TYPES)}"
        )
    for key, what in _REFUSED.items():
        if raw.get(key):
            raise UserError(f"{where}: {key} is set, and {what} are not supported")
    stated = {k: v for k, v in raw.items() if v is not None or k in _NULLABLE}
    raw = {**_DEFAULTS[family], **stated}
    for key in _REQUIRED:
        if key not in raw:
            raise UserError(f"{where} lacks {key}")
    if family != "qwen2" and raw.get("attention_bias", False):
        raise UserError(f"{where}: attention_bias is supported for qwen2 only")
    return family, raw


def _windows(
    raw: Mapping[str, Any], family: str, num_layers: int
) -> tuple[int | None, tuple[bool, ...]]:
    """Returns the sliding window in tokens, and which layers have it."""
    window = raw.get("sliding_window")
    if window is None or family in ("llama", "olmo2", "gemma"):
        return None, ()
    if family in _WINDOW_SWITCH and not raw.get("use_sliding_window", False):
        return None, ()
    if family == "phi3" and window >= raw["max_position_embeddings"]:
        return None, ()
    if "layer_types" in raw:
        local = tuple(kind == "sliding_attention" for kind in raw["layer_types"])
    elif family in ("mistral", "phi3"):
        local = (True,) * num_layers
    elif family == "gemma2":
        local = tuple(layer % 2 == 0 for layer in range(num_layers))
    elif family == "gemma3":
        pattern = raw.get("_sliding_window_pattern", raw["sliding_window_pattern"])
        local = tuple((layer + 1) % pattern != 0 for layer in range(num_layers))
    elif family == "smollm3":
        local = hf_rope.unrotated(raw)
    else:
        local = tuple(layer >= raw["max_window_layers"] for layer in range(num_layers))
    return (window, local) if any(local) else (None, ())


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """Returns the config.json of a `ModelConfig`, in the form that transformers 4 and 5 both read.

    Raises:
      UserError: transformers has no such family (PaLM).
    """
    family = names.of(config)
    model_type = {"gemma3": "gemma3_text"}.get(config.family, config.family)
    activation = {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.activation, config.activation)
    raw = {
        "architectures": [family.hf_class],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": activation,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": config.qkv_bias,
        "sliding_window": config.window,
        **hf_rope.write(config),
    }
    if config.family.startswith("gemma"):
        raw["hidden_activation"] = activation
    if config.has_local_layers:
        kinds = {True: "sliding_attention", False: "full_attention"}
        raw["layer_types"] = [kinds[local] for local in config.local_layers]
    if config.family in _WINDOW_SWITCH:
        raw["use_sliding_window"] = config.has_local_layers
        if config.has_local_layers and config.family != "smollm3":
            raw["max_window_layers"] = config.local_layers.index(True)
    if config.family in ("gemma2", "gemma3"):
        scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
        scalar = scale**-2
        raw["query_pre_attn_scalar"] = (
            round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
        )
        raw["attn_logit_softcapping"] = config.attention_softcap
        raw["final_logit_softcapping"] = config.final_softcap
    if config.family == "gemma3":
        raw["rope_local_base_freq"] = config.rope_local_theta
    return raw

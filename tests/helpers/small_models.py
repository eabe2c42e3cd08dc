"""Small random models of every family, as Hugging Face folders made without torch.

Weights come from NumPy's generator, so that the golden logits, which transformers computed from
the same folders, can be compared where torch is not installed.
"""

import json
import pathlib
import zlib

import numpy as np
from safetensors.numpy import save_file

VOCAB = 97
LENGTH = 24

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
_PHI_FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}

# What transformers 4 wrote for each family; some also as transformers 5 writes it.
CONFIGS = {
    "llama": {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500.0},
    "llama_tied_llama3_rope": {
        "model_type": "llama", "tie_word_embeddings": True, "rope_scaling": _LLAMA3_ROPE,
    },
    "llama_linear_rope": {
        "model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0},
        "head_dim": None,
    },
    "llama_new_form": {
        "model_type": "llama", "rope_parameters": {**_LLAMA3_ROPE, "rope_theta": 300.0},
    },
    "mistral_windows": {"model_type": "mistral", "sliding_window": 5},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "head_dim": None, "tie_word_embeddings": True},
    "qwen2_windows": {
        "model_type": "qwen2", "head_dim": None, "use_sliding_window": True, "sliding_window": 6,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "rms_norm_eps": 1e-6},
    "llama_yarn": {
        "model_type": "llama", "rope_theta": 50.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 2.0, "beta_slow": 0.3,
        },
    },
    "qwen2_yarn": {  # as the cards of Qwen 2.5 say
        "model_type": "qwen2", "head_dim": None, "rope_theta": 200.0,
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    },
    "smollm3": {
        "model_type": "smollm3", "rope_theta": 500.0, "no_rope_layers": [1, 0, 1],
        "tie_word_embeddings": True,
    },
    "smollm3_yarn": {
        "model_type": "smollm3", "num_hidden_layers": 4, "tie_word_embeddings": False,
        "use_sliding_window": True, "sliding_window": 7,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
        },
    },
    "olmo2": {"model_type": "olmo2", "rms_norm_eps": 1e-6, "rope_theta": 500.0},
    "phi3": {"model_type": "phi3", "head_dim": None, "sliding_window": 5},
    "phi4_mini": {
        "model_type": "phi3", "head_dim": None, "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True, "original_max_position_embeddings": 32,
        "sliding_window": 1000, "rope_theta": 300.0,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.3, 2.5], "long_factor": [1.0, 4.0, 9.0],
        },
    },
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, **_GEMMA},
    "gemma2": {
        "model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 24, **_SOFT_CAPS,
        **_GEMMA,
    },
    "gemma3": {
        "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 5,
        "sliding_window_pattern": 3, "query_pre_attn_scalar": 20, "rope_theta": 5000.0,
        "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        **_GEMMA,
    },
    "gemma3_new_form": {
        "model_type": "gemma3_text", "sliding_window": 4, "query_pre_attn_scalar": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
        },
        **_GEMMA,
    },
}  # fmt: skip


def config(name: str) -> dict:
    merged = {**_COMMON, **CONFIGS[name]}
    return {k: v for k, v in merged.items() if v is not None or k == "sliding_window"}


def tokens(name: str) -> np.ndarray:
    """[2, LENGTH] int32."""
    return _generator("tokens " + name).integers(0, VOCAB, (2, LENGTH)).astype(np.int32)


def tensors(raw: dict, seed: str) -> dict[str, np.ndarray]:
    """Random tensors, in the names and shapes that transformers' class for `raw` has."""
    generator = _generator(seed)
    kind = raw["model_type"]
    embed, mlp, heads = raw["hidden_size"], raw["intermediate_size"], raw["num_attention_heads"]
    kv_heads = raw["num_key_value_heads"]
    head_dim = raw.get("head_dim", embed // heads)
    gemma = kind.startswith("gemma")

    def matrix(rows, columns):
        # Larger than a fresh model's, so that attention and gates are far from uniform.
        return generator.normal(0, 1.5 / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def scale(width):
        return generator.normal(0.0 if gemma else 1.0, 0.3, width).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(raw["vocab_size"], embed)}
    for layer in range(raw["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            found[f"{at}self_attn.{name}_proj.weight"] = matrix(rows * head_dim, embed)
            if kind == "qwen2":
                bias = generator.normal(0, 0.5, rows * head_dim).astype(np.float32)
                found[f"{at}self_attn.{name}_proj.bias"] = bias
        found[f"{at}self_attn.o_proj.weight"] = matrix(embed, heads * head_dim)
        if kind in ("qwen3", "gemma3_text", "olmo2"):
            together = (heads, kv_heads) if kind == "olmo2" else (1, 1)
            found[f"{at}self_attn.q_norm.weight"] = scale(together[0] * head_dim)
            found[f"{at}self_attn.k_norm.weight"] = scale(together[1] * head_dim)
        found[f"{at}mlp.gate_proj.weight"] = matrix(mlp, embed)
        found[f"{at}mlp.up_proj.weight"] = matrix(mlp, embed)
        found[f"{at}mlp.down_proj.weight"] = matrix(embed, mlp)
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind in ("gemma2", "gemma3_text"):
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        if kind == "olmo2":
            norms = ["post_attention_layernorm", "post_feedforward_layernorm"]
        for norm in norms:
            found[f"{at}{norm}.weight"] = scale(embed)
        if kind == "phi3":
            for fused, parts in _PHI_FUSED.items():
                names = [f"{at}{part}.weight" for part in parts]
                found[f"{at}{fused}.weight"] = np.concatenate([found.pop(n) for n in names])
    found["model.norm.weight"] = scale(embed)
    if not raw.get("tie_word_embeddings", gemma):
        found["lm_head.weight"] = matrix(raw["vocab_size"], embed)
    return found


def write_folder(name: str, folder: pathlib.Path) -> pathlib.Path:
    """config.json, model.safetensors and a tokenizer of single bytes, for the model `name`."""
    raw = config(name)
    write(folder, raw, tensors(raw, name))
    return folder


def write(folder: pathlib.Path, raw: dict, found: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_bytes(byte_tokenizer())


def byte_tokenizer() -> bytes:
    """tokenizer.json of a byte-level BPE with `VOCAB` tokens: specials and printable ASCII."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    specials = ["<pad>", "<s>", "</s>"]
    letters = ["Ġ", "Ċ", *map(chr, range(33, 33 + VOCAB - 5))]
    vocab = {token: i for i, token in enumerate(specials + letters)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer.to_str().encode()


def _generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(seed.encode()))

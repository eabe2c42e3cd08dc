"""Hugging Face folders: their variants, their faults, and export back to one."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from safetensors.numpy import load_file, save_file

from restem import checkpoints
from restem.checkpoints import hf, hf_config, orbax
from restem.checkpoints.export import export, in_host_memory
from restem.errors import UserError
from tests.helpers import compilation, small_models, xla


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def require_transformers(test) -> None:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            test.skipTest(f"{package} is not installed (pip install 'restem[parity]')")


def edit_config(folder: pathlib.Path, **changes) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


class FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()), "model")

    def assert_same_params(self, a: checkpoints.Policy, b: checkpoints.Policy):
        self.assertEqual(a.config, b.config)
        self.assertEqual(jax.tree.structure(a.params), jax.tree.structure(b.params))
        jax.tree.map(np.testing.assert_array_equal, a.params, b.params)

    def test_every_row_is_read_from_its_place(self):
        small_models.write_folder("qwen3", self.folder)
        tensors = load_file(self.folder / "model.safetensors")
        params = checkpoints.load(f"hf:{self.folder}").params
        attention = params["layers"]["attention"]
        query = tensors["model.layers.2.self_attn.q_proj.weight"]  # [heads * head_dim, embed]
        np.testing.assert_array_equal(attention["query"][2, :, 3, 5], query[3 * 16 + 5])
        out = tensors["model.layers.1.self_attn.o_proj.weight"]  # [embed, heads * head_dim]
        np.testing.assert_array_equal(attention["out"][1, 2, 7], out[:, 2 * 16 + 7])
        down = tensors["model.layers.0.mlp.down_proj.weight"]
        np.testing.assert_array_equal(params["layers"]["mlp"]["down"][0], down.T)
        np.testing.assert_array_equal(params["head"], tensors["lm_head.weight"].T)

    def test_parts_of_fused_tensors(self):
        small_models.write_folder("phi3", self.folder)
        tensors = load_file(self.folder / "model.safetensors")
        fused = tensors["model.layers.1.self_attn.qkv_proj.weight"]  # 4 + 2 + 2 heads of 8
        attention = checkpoints.load(f"hf:{self.folder}").params["layers"]["attention"]
        np.testing.assert_array_equal(attention["query"][1, :, 3, 5], fused[3 * 8 + 5])
        np.testing.assert_array_equal(attention["key"][1, :, 1, 5], fused[32 + 8 + 5])
        np.testing.assert_array_equal(attention["value"][1, :, 0, 2], fused[48 + 2])
        tensors["model.layers.1.self_attn.qkv_proj.weight"] = fused[:-1]
        save_file(tensors, self.folder / "model.safetensors")
        with self.assertRaisesRegex(UserError, "qkv_proj.weight has shape .*do not belong"):
            checkpoints.load(f"hf:{self.folder}")

    def test_shards(self):
        small_models.write_folder("llama", self.folder)
        whole = checkpoints.load(f"hf:{self.folder}")
        tensors = load_file(self.folder / "model.safetensors")
        (self.folder / "model.safetensors").unlink()
        weight_map = {n: f"model-{i % 3}.safetensors" for i, n in enumerate(sorted(tensors))}
        for shard in set(weight_map.values()):
            part = {n: t for n, t in tensors.items() if weight_map[n] == shard}
            save_file(part, self.folder / shard)
        index = self.folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        self.assert_same_params(checkpoints.load(f"hf:{self.folder}"), whole)
        (self.folder / "model-1.safetensors").unlink()
        with self.assertRaisesRegex(UserError, "model-1.safetensors does not exist, but"):
            checkpoints.load(f"hf:{self.folder}")

    @parameterized.parameters("language_model.model.", "model.language_model.")
    def test_text_part_of_a_multimodal_wrapper(self, prefix):
        """Gemma 3's wrapper in the names of transformers 4 and 5."""
        small_models.write_folder("gemma3", self.folder)
        alone = checkpoints.load(f"hf:{self.folder}")
        raw = small_models.config("gemma3")
        text = {k: v for k, v in raw.items() if k not in ("hidden_act", "head_dim")}
        wrapper = {"model_type": "gemma3", "vision_config": {}, "head_dim": 256}
        (self.folder / "config.json").write_text(
            json.dumps({**wrapper, "text_config": {**text, "head_dim": raw["head_dim"]}})
        )
        tensors = load_file(self.folder / "model.safetensors")
        renamed = {n.replace("model.", prefix, 1): t for n, t in tensors.items()}
        renamed["vision_tower.vision_model.encoder.weight"] = np.ones(3, np.float32)
        renamed["multi_modal_projector.mm_input_projection_weight"] = np.ones(3, np.float32)
        save_file(renamed, self.folder / "model.safetensors")
        self.assert_same_params(checkpoints.load(f"hf:{self.folder}"), alone)

    def test_gemma3_4b_config_says_little(self):
        """The published config.json of Gemma 3 4B leaves most fields to their defaults."""
        self.folder.mkdir()
        text = {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        }
        config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
        (self.folder / "config.json").write_text(json.dumps(config))
        found = hf_config.config(hf.HFFolder(self.folder))
        self.assertEqual((found.num_heads, found.num_kv_heads, found.head_dim), (8, 4, 256))
        self.assertEqual((found.vocab_size, found.window), (262_208, 1024))
        self.assertEqual((found.rope_theta, found.rope_local_theta), (1e6, 1e4))
        self.assertEqual(found.rope_scaling.factor, 8.0)
        self.assertEqual(found.local_layers[:7], (True,) * 5 + (False, True))
        self.assertTrue(found.tied_head)
        self.assertAlmostEqual(found.query_scale, 1 / 16)

    @parameterized.parameters(
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None},
         {"attention_softcap": None, "final_softcap": None}),
        ("gemma2", {"attn_logit_softcapping": ..., "final_logit_softcapping": ...},
         {"attention_softcap": 50.0, "final_softcap": 30.0}),
        ("gemma2", {"sliding_window": None}, {"window": None, "local_layers": ()}),
        ("gemma2", {"sliding_window": ...}, {"window": 4096}),
        ("gemma2", {"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ("gemma3", {"sliding_window": None}, {"window": None, "local_layers": ()}),
        ("mistral_windows", {"sliding_window": None}, {"window": None, "local_layers": ()}),
        ("mistral_windows", {"sliding_window": ...},
         {"window": 4096, "local_layers": (True,) * 3}),
        ("mistral", {"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ("qwen2_windows", {"sliding_window": None}, {"window": None, "local_layers": ()}),
        ("qwen2_windows", {"sliding_window": ...}, {"window": 4096}),
        ("qwen2_windows", {"use_sliding_window": None, "sliding_window": ...}, {"window": None}),
        ("smollm3", {"num_key_value_heads": None}, {"num_kv_heads": 4}),
        ("phi3", {"sliding_window": ...}, {"window": None}),
    )  # fmt: skip
    def test_null_is_a_value_and_an_absent_field_has_a_default(self, name, changes, expected):
        small_models.write_folder(name, self.folder)
        edit_config(self.folder, **changes)
        found = hf_config.config(hf.HFFolder(self.folder))
        self.assertEqual({key: getattr(found, key) for key in expected}, expected)
        # An export states what the folder leaves out.
        (self.folder / "config.json").write_text(json.dumps(hf_config.to_hf_config(found)))
        self.assertEqual(hf_config.config(hf.HFFolder(self.folder)), found)

    def test_defaults_are_those_of_transformers(self):
        require_transformers(self)
        from transformers import CONFIG_MAPPING

        for family, defaults in hf_config._DEFAULTS.items():
            kind = CONFIG_MAPPING[{"gemma3": "gemma3_text"}.get(family, family)]
            for key in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
                with self.subTest(family, key=key):
                    self.assertEqual(defaults.get(key), getattr(kind, key, None))

    def test_streaming_to_one_accelerator_equals_the_short_way_of_a_cpu(self):
        small_models.write_folder("qwen2", self.folder)
        expected = checkpoints.load(f"hf:{self.folder}")
        with mock.patch.object(jax, "default_backend", return_value="gpu"):
            self.assert_same_params(checkpoints.load(f"hf:{self.folder}"), expected)

    def test_dtypes(self):
        small_models.write_folder("llama", self.folder)
        policy = checkpoints.load(f"hf:{self.folder}", dtype="bfloat16")
        exported = export(policy, self.folder.parent / "bf16", dtype="bfloat16")
        again = checkpoints.load(f"hf:{exported}", dtype="bfloat16")
        self.assertEqual(again.params["head"].dtype, "bfloat16")
        self.assert_same_params(again, policy)
        wide = checkpoints.load(f"hf:{exported}")
        self.assertEqual(wide.params["head"].dtype, "float32")

    def test_refusals(self):
        small_models.write_folder("llama", self.folder)
        reference = f"hf:{self.folder}"
        original = (self.folder / "config.json").read_text()
        for message, changes in (
            ("model_type 'mamba' is not supported", {"model_type": "mamba"}),
            ("rope scaling 'dynamic' is not supported", {"rope_scaling": {"rope_type": "dynamic"}}),
            ("activation 'relu2' is not supported", {"hidden_act": "relu2"}),
            ("mlp_bias is set", {"mlp_bias": True}),
            ("attention_bias is supported for qwen2 only", {"attention_bias": True}),
            ("quantization_config is set", {"quantization_config": {"bits": 4}}),
            ("lacks hidden_size", {"hidden_size": ...}),
            ("_proj.weight has shape", {"num_attention_heads": 8}),
            ("lacks 9 tensors", {"num_hidden_layers": 4}),
            ("does not have, such as model.layers.2", {"num_hidden_layers": 2}),
        ):
            with self.subTest(message):
                edit_config(self.folder, **changes)
                with self.assertRaisesRegex(UserError, message):
                    checkpoints.load(reference)
                (self.folder / "config.json").write_text(original)
        model = self.folder / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-100])
        with self.assertRaisesRegex(UserError, "is not a whole safetensors file"):
            checkpoints.load(reference)
        model.unlink()
        with self.assertRaisesRegex(UserError, r"holds no \*.safetensors"):
            checkpoints.load(reference)
        (self.folder / "config.json").write_text("{")
        with self.assertRaisesRegex(UserError, "config.json: not JSON .* copy or download"):
            checkpoints.load(reference)
        (self.folder / "config.json").unlink()
        with self.assertRaisesRegex(UserError, "config.json does not exist"):
            checkpoints.load(reference)

    def test_a_copy_beside_the_weights_is_not_read(self):
        small_models.write_folder("llama", self.folder)
        model = self.folder / "model.safetensors"
        before = checkpoints.load(f"hf:{self.folder}")
        backup = self.folder / "model_before.safetensors"
        stored = load_file(model)
        save_file({name: t * 0 for name, t in stored.items()}, backup)
        self.assert_same_params(checkpoints.load(f"hf:{self.folder}"), before)
        model.rename(self.folder / "weights.safetensors")
        message = "model_before.safetensors and weights.safetensors both hold"
        with self.assertRaisesRegex(UserError, message):
            checkpoints.load(f"hf:{self.folder}")

    def test_export_into_the_empty_folder_that_the_user_is_in(self):
        small_models.write_folder("llama", self.folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.create_tempdir().full_path)
        with in_host_memory() as place:
            policy = checkpoints.load(f"hf:{self.folder}", shardings=place)
            self.assertEqual(export(policy, "."), pathlib.Path.cwd())
        self.assertIn("config.json", os.listdir())
        self.assert_same_params(checkpoints.load("hf:."), policy)

    def test_export_to_a_bucket_is_refused(self):
        small_models.write_folder("llama", self.folder)
        policy = checkpoints.load(f"hf:{self.folder}")
        with self.assertRaisesRegex(UserError, "gs://b/x: export writes to a local folder"):
            export(policy, "gs://b/x")
        self.assertFalse(pathlib.Path("gs:").exists())

    def test_headers_that_contradict_themselves(self):
        small_models.write_folder("llama", self.folder)
        path = self.folder / "model.safetensors"
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        first = min(
            (name for name in header if name != "__metadata__"),
            key=lambda name: header[name]["data_offsets"],
        )
        rows, *columns = header[first]["shape"]
        begin, end = header[first]["data_offsets"]
        for changes, message in (
            # One row more would be the next tensor's.
            ({"shape": [rows + 1, *columns]}, f"{first} has shape .*, but {end - begin} bytes"),
            ({"shape": [rows - 1, *columns]}, f"{first} has shape .*, but {end - begin} bytes"),
            ({"dtype": "F64"}, f"{first} has shape .*, but {end - begin} bytes of float64"),
            ({"data_offsets": [begin, end - 4]}, f"{first} has shape .*, but {end - begin - 4}"),
            ({"data_offsets": [-4, end - 4]}, "data_offsets"),
            ({"data_offsets": [begin]}, "unpack"),
            ({"shape": [-rows, *columns]}, f"{first} has shape"),
            ({"shape": "12"}, f"{first} has shape"),
            ({"shape": None}, "'shape'"),
            ({"dtype": None}, "'dtype'"),
        ):
            with self.subTest(message):
                entry = {k: v for k, v in (header[first] | changes).items() if v is not None}
                text = json.dumps(header | {first: entry}).encode()
                path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
                with self.assertRaisesRegex(UserError, f"not a whole safetensors file .*{message}"):
                    checkpoints.load(f"hf:{self.folder}")

    def test_references(self):
        for reference in ("smollm2", "hf:", "s3:bucket/model"):
            with (
                self.subTest(reference),
                self.assertRaisesRegex(UserError, "write hf:FOLDER, gguf:FILE, pypi:NAME"),
            ):
                checkpoints.load(reference)


class ExportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    @parameterized.parameters(*small_models.CONFIGS)
    def test_round_trip(self, name):
        policy = checkpoints.load(f"hf:{small_models.write_folder(name, self.folder / 'a')}")
        exported = export(policy, self.folder / "b", shard_bytes=20_000)
        self.assertGreater(len(list(exported.glob("model-*.safetensors"))), 2)
        again = checkpoints.load(f"hf:{exported}")
        self.assertEqual(again.config, policy.config)
        jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
        self.assertEqual(again.vocabulary.specials, policy.vocabulary.specials)
        self.assertEqual(again.vocabulary.encode("a b</s>"), policy.vocabulary.encode("a b</s>"))

    @parameterized.parameters(
        "llama_tied_llama3_rope", "llama_yarn", "qwen2_windows", "smollm3_yarn", "olmo2", "phi3",
        "phi4_mini", "gemma2", "gemma3",
    )  # fmt: skip
    def test_transformers_loads_it(self, name):
        require_transformers(self)
        from tests.golden.make_small_models import reference_logits

        policy = checkpoints.load(f"hf:{small_models.write_folder(name, self.folder / 'a')}")
        exported = export(policy, self.folder / "b")
        tokens = small_models.tokens(name)
        reference = reference_logits(str(exported), tokens)
        golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "small_models.npz")[name]
        np.testing.assert_allclose(reference, golden, atol=1e-5)
        np.testing.assert_allclose(policy.logits(tokens), reference, atol=2e-4)

    @parameterized.parameters(
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("mistral_windows", {"sliding_window": None}),
    )
    def test_transformers_reads_null_alike(self, name, changes):
        require_transformers(self)
        from tests.golden.make_small_models import reference_logits

        folder = small_models.write_folder(name, self.folder / "a")
        edit_config(folder, **changes)
        policy = checkpoints.load(f"hf:{folder}")
        tokens = small_models.tokens(name)
        logits = policy.logits(tokens)
        for place in (folder, export(policy, self.folder / "b")):
            np.testing.assert_allclose(logits, reference_logits(str(place), tokens), atol=2e-4)

    def test_what_transformers_keeps_beside_the_weights(self):
        """The chat template and the special tokens of the original, also after training."""
        require_transformers(self)
        import transformers

        folder = small_models.write_folder("llama", self.folder / "a")
        template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
        settings = {"chat_template": template, "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        generation = {"temperature": 0.6, "top_p": 0.95, "do_sample": True}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        policy = checkpoints.load(f"hf:{folder}")
        saved = self.folder / "trained"
        orbax.save(saved, policy.params, policy.config, policy.vocabulary, hub=policy.hub)
        shutil.rmtree(folder)
        exported = export(checkpoints.load(f"orbax:{saved}"), self.folder / "b", card="# A model\n")
        tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
        turns = [{"role": "user", "content": "ab"}]
        self.assertEqual(tokenizer.apply_chat_template(turns, tokenize=False), "ab</s>")
        self.assertEqual((tokenizer.eos_token, tokenizer.unk_token), ("</s>", "<unk>"))
        found = transformers.GenerationConfig.from_pretrained(exported)
        self.assertEqual((found.temperature, found.top_p, found.do_sample), (0.6, 0.95, True))
        self.assertEqual(found.eos_token_id, [2])
        self.assertEqual((exported / "README.md").read_text(), "# A model\n")
        self.assertEqual(checkpoints.load(f"hf:{exported}").hub.chat_template, template)

    def test_others_may_read_the_files(self):
        policy = checkpoints.load(f"hf:{small_models.write_folder('llama', self.folder / 'a')}")
        self.addCleanup(os.umask, os.umask(0o022))
        for path in export(policy, self.folder / "b", shard_bytes=20_000).iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o644, path)

    def test_refusals(self):
        small_models.write_folder("llama", self.folder / "a")
        policy = checkpoints.load(f"hf:{self.folder / 'a'}")
        with self.assertRaisesRegex(UserError, "is not an empty folder"):
            export(policy, self.folder / "a")
        with self.assertRaisesRegex(UserError, "dtype 'int8'"):
            export(policy, self.folder / "b", dtype="int8")
        palm = policy.replace(config=policy.config.replace(family="palm"))
        with self.assertRaisesRegex(UserError, "family 'palm' has no Hugging Face"):
            export(palm, self.folder / "b")
        self.assertEqual(os.listdir(self.folder), ["a"])


class StreamingTest(absltest.TestCase):
    def test_sharded_loading_on_8_devices_in_bounded_memory(self):
        """Runs streaming_on_8_devices.py, since the number of devices is fixed at start."""
        script = pathlib.Path(__file__).parents[1] / "multidevice" / "streaming_on_8_devices.py"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla.flags("--xla_force_host_platform_device_count=8"),
            "PYTHONPATH": str(script.parents[2]),
        }
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("all equal", done.stdout)


if __name__ == "__main__":
    absltest.main()

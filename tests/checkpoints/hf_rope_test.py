"""Rotary embeddings of published models: their frequencies are those of transformers."""

import importlib.util
import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from restem.checkpoints import hf, hf_config, hf_rope
from restem.errors import UserError
from restem.models import rotary

_LLAMA3 = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
_LONGROPE = {
    "type": "longrope", "short_factor": [1 + i / 50 for i in range(48)],
    "long_factor": [1 + i for i in range(48)],
}  # fmt: skip
# The fields that decide shapes and frequencies, and the number of parameters of the model.
PUBLISHED = {
    "Llama-3.1-8B": ({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rope_theta": 500_000.0,
        "rope_scaling": {**_LLAMA3, "factor": 8.0},
    }, 8_030_261_248),
    "Llama-3.2-1B": ({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0, "rope_scaling": {**_LLAMA3, "factor": 32.0},
        "tie_word_embeddings": True,
    }, 1_235_814_400),
    "Qwen2.5-Math-1.5B": ({
        "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 1536,
        "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "rope_theta": 10_000,
        "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 21,
        "tie_word_embeddings": True,
    }, 1_543_714_304),
    "Qwen2.5-7B with yarn": ({
        "model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584,
        "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "max_position_embeddings": 131_072, "rope_theta": 1_000_000.0,
        "rope_scaling": _YARN,
    }, 7_615_616_512),
    "OLMo-2-0425-1B": ({
        "model_type": "olmo2", "vocab_size": 100_352, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 4096, "rope_theta": 500_000,
        "rms_norm_eps": 1e-6,
    }, 1_484_916_736),
    "SmolLM3-3B": ({
        "model_type": "smollm3", "vocab_size": 128_256, "hidden_size": 2048,
        "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "max_position_embeddings": 65_536, "rope_theta": 5_000_000.0,
        "no_rope_layer_interval": 4,
    }, 3_075_098_624),
    "Phi-4-mini": ({
        "model_type": "phi3", "vocab_size": 200_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 24,
        "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rope_theta": 10_000.0, "sliding_window": 262_144, "tie_word_embeddings": True,
        "rope_scaling": _LONGROPE,
    }, 3_836_021_760),
}  # fmt: skip


def config(raw):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(raw))
        return hf_config.config(hf.HFFolder(folder))


class PublishedTest(parameterized.TestCase):
    @parameterized.parameters(*PUBLISHED)
    def test_number_of_parameters(self, name):
        raw, expected = PUBLISHED[name]
        self.assertEqual(config(raw).num_params, expected)

    @parameterized.parameters(*PUBLISHED)
    def test_frequencies_are_those_of_transformers(self, name):
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed (pip install 'restem[parity]')")
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        raw, _ = PUBLISHED[name]
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "config.json").write_text(json.dumps(raw))
            theirs = AutoConfig.from_pretrained(folder)
        ours = config(raw)
        kind = theirs.rope_parameters["rope_type"]
        if kind == "default":
            self.assertIsNone(ours.rope_scaling)
            self.assertEqual(ours.rope_theta, theirs.rope_parameters["rope_theta"])
            return
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu")
        found = rotary.inverse_frequencies(ours)
        np.testing.assert_allclose(found, frequencies.numpy(), rtol=2e-5)
        self.assertAlmostEqual(rotary.rotary_factor(ours), factor, places=6)

    def test_what_the_fields_say(self):
        smollm3 = config(PUBLISHED["SmolLM3-3B"][0])
        self.assertEqual(smollm3.unrotated_layers[:5], (False, False, False, True, False))
        self.assertEqual(sum(smollm3.unrotated_layers), 9)
        phi = config(PUBLISHED["Phi-4-mini"][0])
        self.assertEqual((phi.rotary_dim, phi.head_dim), (96, 128))
        self.assertIsNone(phi.window)  # wider than any text
        self.assertEqual(phi.max_length, 4096)  # up to there the short factors hold
        written = hf_rope.write(phi)
        self.assertEqual(written["max_position_embeddings"], 131_072)
        self.assertEqual(written["partial_rotary_factor"], 0.75)
        self.assertEqual(written["rope_scaling"]["long_factor"], _LONGROPE["long_factor"])

    def test_faults_are_one_line(self):
        raw, _ = PUBLISHED["Llama-3.1-8B"]
        for message, scaling in (
            ("rope scaling 'dynamic' is not supported", {"rope_type": "dynamic", "factor": 2.0}),
            ("lacks 'factor'", {"rope_type": "llama3"}),
            ("mscale", {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.9}),
            ("partial rotary embeddings", {"partial_rotary_factor": 0.5}),
        ):
            with self.assertRaisesRegex(UserError, message):
                config({**raw, "rope_scaling": scaling})


if __name__ == "__main__":
    absltest.main()

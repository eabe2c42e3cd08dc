"""Settings of Hugging Face folders: which ids begin and end a text."""

import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.tokenizers import hf
from tests.helpers import vocabularies


class SettingsTest(parameterized.TestCase):
    def test_hf_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
            vocabulary = vocabularies.write_hf(
                folder,
                "tokenizer.json",
                vocabularies.llama3_tokenizer(),
                bos_token="<|begin_of_text|>",
                eos_token={"content": "<|end_of_text|>"},
                pad_token="<|eot_id|>",
            )
        # Named by generation_config, config and tokenizer_config, and <|eot_id|> by its name.
        self.assertEqual(vocabulary.eos_ids, {5, 2, 1})
        self.assertEqual((vocabulary.bos_id, vocabulary.pad_id), (0, 2))
        # The template of tokenizer.json puts it there.
        self.assertTrue(vocabulary.add_bos)

    def test_ordinary_token_that_looks_special(self):
        """Qwen's vocabulary has a token "</s>" that is only text; it must not end samples."""
        spec = json.loads(vocabularies.llama3_tokenizer())
        looks_special = len(spec["model"]["vocab"])
        spec["model"]["vocab"]["</s>"] = looks_special
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.json", json.dumps(spec).encode())
        self.assertEqual(vocabulary.token(looks_special), "</s>")
        self.assertNotIn(looks_special, vocabulary.eos_ids)
        self.assertEqual(vocabulary.token_bytes(looks_special), b"</s>")


class ErrorTest(parameterized.TestCase):
    def test_folder_without_tokenizer(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            self.assertRaisesRegex(UserError, "neither tokenizer.json nor tokenizer.model"),
        ):
            hf.from_hf(folder)


if __name__ == "__main__":
    absltest.main()

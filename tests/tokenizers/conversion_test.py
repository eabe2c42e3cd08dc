"""An exported tokenizer.json tokenises as its vocabulary does."""

import importlib.util
import json
import pathlib
import tempfile

import tokenizers
from absl.testing import absltest, parameterized
from tokenizers import processors

from restem.checkpoints import pypi
from restem.tokenizers.conversion import to_tokenizer_json
from tests.helpers import packaged, vocabularies


class ConversionTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_sentencepiece_as_tokenizer_json(self, dummy_prefix):
        model = vocabularies.train_sentencepiece(add_dummy_prefix=dummy_prefix)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.model", model)
        with tempfile.TemporaryDirectory() as folder:
            converted = vocabularies.write_hf(
                folder, "tokenizer.json", to_tokenizer_json(vocabulary)
            )
        vocabularies.assert_byte_exact(self, converted)
        self.assertTrue(converted.add_bos)
        for name, text in vocabularies.TEXTS.items():
            with self.subTest(name):
                for opening in (True, False):
                    self.assertEqual(
                        converted.encode(text, opening=opening),
                        vocabulary.encode(text, opening=opening),
                    )

    @parameterized.parameters(True, False)
    def test_runs_of_spaces_that_are_added_tokens(self, dummy_prefix):
        """Gemma's user-defined pieces of several spaces become non-special added tokens."""
        runs = ",".join("\u2581" * n for n in range(2, 8))
        model = vocabularies.train_sentencepiece(
            add_dummy_prefix=dummy_prefix, user_defined_symbols=f"{runs},<sym>"
        )
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.model", model)
        exported = to_tokenizer_json(vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            converted = vocabularies.write_hf(folder, "tokenizer.json", exported)
        vocabularies.assert_byte_exact(self, converted)
        reference = tokenizers.Tokenizer.from_str(exported.decode())
        for text in ("    a\n\n  b", "  ab", "def f(x):\n  if x:\n    return <sym>       1"):
            with self.subTest(text):
                ids = vocabulary.encode(text)
                self.assertEqual(converted.encode(text), ids)
                self.assertEqual(converted.decode(ids), text)
                self.assertEqual(vocabulary.decode(ids), text)
                opening = converted.encode(text, opening=True)
                self.assertEqual(reference.encode(text, add_special_tokens=False).ids, opening)
                self.assertEqual(reference.decode(opening), text)
        spaces = converted.encode("a  b")[1]
        self.assertEqual(converted.token_bytes(spaces), b"  ")

    @parameterized.product(
        template=("none", "bos", "bos_eos", "sequence"), add_bos=(None, True, False)
    )
    def test_the_start_of_a_text_is_that_of_prompts(self, template, add_bos):
        """Whatever tokenizer_config.json says, and whatever tokenizer.json does by itself."""
        tokenizer = tokenizers.Tokenizer.from_str(vocabularies.llama3_tokenizer().decode())
        bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
        byte_level = processors.ByteLevel(trim_offsets=False)
        stages = {
            "none": [],
            "bos": [processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, 0)])],
            "bos_eos": [
                processors.TemplateProcessing(
                    f"{bos} $A {eos}", special_tokens=[(bos, 0), (eos, 1)]
                )
            ],
        }
        stages["sequence"] = [processors.Sequence([byte_level, *stages["bos"]])]
        tokenizer.post_processor = stages[template][0] if stages[template] else byte_level
        settings = {"bos_token": bos} | ({} if add_bos is None else {"add_bos_token": add_bos})
        model = tokenizer.to_str().encode()
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.json", model, **settings)
        self.assertEqual(vocabulary.add_bos, template != "none" if add_bos is None else add_bos)
        exported = to_tokenizer_json(vocabulary)
        reference = tokenizers.Tokenizer.from_str(exported.decode())
        for text in ("", "the answer is four", "  a\n"):
            self.assertEqual(tuple(reference.encode(text).ids), vocabulary.prompt_ids(text))
        if template == "sequence":
            self.assertIn("ByteLevel", json.dumps(json.loads(exported)["post_processor"]))

    @parameterized.parameters(*pypi.MODELS)
    def test_transformers_reads_the_exported_tokenizer(self, package):
        packaged.require(self, package)
        if importlib.util.find_spec("transformers") is None:
            self.skipTest("transformers is not installed (pip install 'restem[parity]')")
        from transformers import PreTrainedTokenizerFast

        vocabulary = packaged.vocabulary(package)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tokenizer.json")
            path.write_bytes(to_tokenizer_json(vocabulary))
            reference = PreTrainedTokenizerFast(tokenizer_file=str(path))
        for name, text in vocabularies.TEXTS.items():
            with self.subTest(name):
                expected = list(vocabulary.prompt_ids(text))
                self.assertEqual(reference(text)["input_ids"], expected)
                self.assertEqual(reference.decode(vocabulary.encode(text)), text)


if __name__ == "__main__":
    absltest.main()

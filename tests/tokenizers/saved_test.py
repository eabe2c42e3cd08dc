"""Vocabularies travel with a checkpoint."""

import tempfile

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.tokenizers import saved
from tests.helpers import vocabularies


class SavedTest(parameterized.TestCase):
    def test_save_and_load(self):
        model = vocabularies.train_sentencepiece(add_dummy_prefix=True)
        with tempfile.TemporaryDirectory() as folder:
            found = [
                vocabularies.write_hf(folder, "tokenizer.model", model),
                vocabularies.write_hf(folder, "tokenizer.json", vocabularies.llama3_tokenizer()),
            ]
        self.assertNotEqual(found[0].fingerprint, found[1].fingerprint)
        for vocabulary in found:
            with tempfile.TemporaryDirectory() as folder:
                vocabulary.save(folder)
                again = saved.load(folder)
            self.assertIs(type(again), type(vocabulary))
            self.assertEqual(again.fingerprint, vocabulary.fingerprint)
            self.assertEqual(again.specials, vocabulary.specials)
            for text in vocabularies.TEXTS.values():
                self.assertEqual(again.encode(text), vocabulary.encode(text))

    def test_nothing_saved(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            self.assertRaisesRegex(UserError, "holds no saved vocabulary"),
        ):
            saved.load(folder)


if __name__ == "__main__":
    absltest.main()

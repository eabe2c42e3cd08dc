"""A vocabulary as SeqIO's."""

import tensorflow as tf
from absl.testing import absltest, parameterized

from restem.data.seqio_vocabulary import SeqioVocabulary
from tests.helpers.toys import TEXTS, Bytes


class VocabularyTest(parameterized.TestCase):
    def test_round_trip_in_python_and_in_tensorflow(self):
        vocabulary = SeqioVocabulary(Bytes())
        for text in TEXTS:
            ids = vocabulary.encode(text)
            self.assertEqual(ids, Bytes().encode(text))
            self.assertEqual(vocabulary.decode(ids), text)
            self.assertEqual(vocabulary.encode_tf(tf.constant(text)).numpy().tolist(), ids)
            if ids:
                decoded = vocabulary.decode_tf(tf.constant(ids, tf.int32))
                self.assertEqual(decoded.numpy().decode(), text)

    def test_decoding_ends_at_the_end_of_text(self):
        vocabulary = SeqioVocabulary(Bytes())
        ids = [*vocabulary.encode("ab"), 1, *vocabulary.encode("c"), 0]
        self.assertEqual(vocabulary.decode(ids), "ab")
        batch = tf.constant([ids, [*vocabulary.encode("abcd"), 1]], tf.int32)
        self.assertEqual(vocabulary.decode_tf(batch).numpy().tolist(), [b"ab", b"abcd"])

    def test_ids_are_the_models(self):
        vocabulary = SeqioVocabulary(Bytes(), eos_id=2)
        self.assertEqual((vocabulary.eos_id, vocabulary.pad_id, vocabulary.vocab_size), (2, 0, 259))
        self.assertNotEqual(vocabulary, SeqioVocabulary(Bytes()))
        self.assertEqual(vocabulary, SeqioVocabulary(Bytes(), eos_id=2))
        with self.assertRaisesRegex(ValueError, "eos_id 7"):
            SeqioVocabulary(Bytes(), eos_id=7)


if __name__ == "__main__":
    absltest.main()

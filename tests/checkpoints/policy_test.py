"""The stable face of a policy: logits of tokens, and continuations of texts."""

import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from restem import checkpoints
from restem.errors import UserError
from tests.helpers import small_models


class PolicyTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with tempfile.TemporaryDirectory() as folder:
            path = small_models.write_folder("llama", pathlib.Path(folder))
            cls.policy = checkpoints.load(f"hf:{path}")

    def greedy(self, text: str, length: int) -> list[int]:
        """The most likely token, one by one, each from logits over the whole text."""
        ids = [*self.policy.vocabulary.start_ids, *self.policy.vocabulary.encode(text)]
        start = len(ids)
        while len(ids) < start + length and ids[-1] not in self.policy.vocabulary.eos_ids:
            row = np.zeros((1, 32), np.int32)  # one shape, hence one program
            row[0, : len(ids)] = ids
            ids.append(int(jnp.argmax(self.policy.logits(row)[0, len(ids) - 1])))
        return ids[start:]

    def test_logits(self):
        tokens = small_models.tokens("llama")
        logits = self.policy.logits(tokens)
        self.assertEqual(logits.shape, (*tokens.shape, self.policy.config.vocab_size))
        self.assertEqual(logits.dtype, jnp.float32)
        # The tokens after a position do not change its logits.
        np.testing.assert_allclose(self.policy.logits(tokens[:, :9]), logits[:, :9], atol=1e-5)

    def test_longrope_has_other_frequencies_in_longer_texts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = small_models.write_folder("phi4_mini", pathlib.Path(folder))
            policy = checkpoints.load(f"hf:{path}")
        self.assertEqual(policy.logits(np.ones((1, 32), np.int32)).shape, (1, 32, 97))
        with self.assertRaisesRegex(UserError, "33 tokens exceed the 32 up to which restem"):
            policy.logits(np.ones((1, 33), np.int32))
        # Other models extrapolate.
        self.assertEqual(self.policy.logits(np.ones((1, 65), np.int32)).shape, (1, 65, 97))

    def test_greedy_samples_take_the_most_likely_token(self):
        texts = ["Problem: 1+1", "ab"]
        found = self.policy.sample(texts, temperature=0, max_new_tokens=6)
        expected = [[self.policy.vocabulary.decode(self.greedy(text, 6))] for text in texts]
        self.assertEqual(found, expected)

    def test_samples_depend_on_text_and_seed_alone(self):
        options = {"n": 3, "temperature": 1.0, "max_new_tokens": 8}
        both = self.policy.sample(["abc", "xyz"], seed=1, **options)
        self.assertEqual([len(samples) for samples in both], [3, 3])
        self.assertEqual(self.policy.sample(["xyz"], seed=1, **options), both[1:])
        self.assertNotEqual(self.policy.sample(["xyz"], seed=2, **options), both[1:])
        self.assertLen(set(both[0]), 3)

    def test_stop_strings_and_filters(self):
        (greedy,) = self.policy.sample(["abc"], temperature=0, max_new_tokens=8)
        stop = greedy[0][3]
        (cut,) = self.policy.sample(["abc"], temperature=0, max_new_tokens=8, stop=[stop])
        self.assertEqual(cut[0], greedy[0][: greedy[0].index(stop)])
        for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
            self.assertEqual(
                self.policy.sample(["abc"], temperature=1, max_new_tokens=8, **narrow), [greedy]
            )

    def test_seeds(self):
        draw = lambda seed: self.policy.sample(["abc"], n=4, max_new_tokens=8, seed=seed)
        self.assertEqual(draw(np.int64(3)), draw(3))
        self.assertLen({str(draw(seed)) for seed in (0, 2**32, 2**40, 2**64)}, 4)

    def test_refusals(self):
        for given, message in (
            ({"texts": "abc"}, "texts must be a list of strings"),
            ({"texts": ["abc"], "stop": "Question:"}, "stop = 'Question:': must be a tuple"),
            (
                {"texts": ["abc"], "stop": [""]},
                "stop = .*must be a tuple of strings, none of them empty",
            ),
        ):
            with self.assertRaisesRegex(UserError, message):
                self.policy.sample(**given)
        with self.assertRaisesRegex(UserError, "exceed the model's 64: lower max_new_tokens"):
            self.policy.sample(["abc"], max_new_tokens=100_000)


if __name__ == "__main__":
    absltest.main()

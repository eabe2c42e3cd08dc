"""Lengths of a run's questions and solutions, with token ids and without."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest

from restem import checkpoints
from restem.errors import UserError
from restem.plan import lengths
from restem.run import layout, reader
from tests.helpers import synthetic_run


class OfRunTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        synthetic_run.write_run(cls.folder)
        (file, *_) = sorted((pathlib.Path(cls.folder) / "problems").glob("*.parquet"))
        cls.task = file.stem
        cls.samples = reader.read_samples(layout.Workdir(cls.folder).iteration(1))

    def of_run(self, *changes: dict):
        """Lengths if every sample is there once per change, with that change."""
        samples = [dataclasses.replace(s, **change) for change in changes for s in self.samples]
        with mock.patch.object(reader, "read_samples", lambda directory: samples):
            return lengths.of_run(self.folder, self.task)

    def vocabulary(self):
        """A vocabulary that has a token per word, in place of that of the run's policy."""
        vocabulary = mock.Mock(eos_ids=frozenset({1}))
        vocabulary.encode = lambda text: [2] * len(text.split())
        policy = mock.Mock(vocabulary=vocabulary)
        return mock.patch.object(checkpoints, "load_header", return_value=policy)

    def test_sampled_solutions_have_their_token_ids(self):
        found = lengths.of_run(self.folder, self.task)
        self.assertEqual(found.solutions, tuple(len(s.token_ids) for s in self.samples))

    def test_texts_alone_are_encoded(self):
        with self.vocabulary() as load:
            found = self.of_run({"token_ids": ()})
        load.assert_called_once_with(synthetic_run.BASE)
        words = [len(s.text.split()) + 1 for s in self.samples]
        self.assertEqual(found.solutions, tuple(words))
        # Questions follow from the characters per token, about 5.
        _, problems = reader.read_problems(layout.Workdir(self.folder).problems(self.task))
        characters = max(len(p.inputs) for p in problems if p.split == "train")
        per_token = sum(len(s.text) for s in self.samples) / sum(words)
        self.assertEqual(max(found.questions), round(characters / per_token))

    def test_not_all_texts_of_a_large_run_are_encoded(self):
        with self.vocabulary(), mock.patch.object(lengths, "_EXAMPLES", 10):
            self.assertBetween(len(self.of_run({"token_ids": ()}).solutions), 5, 10)

    def test_human_solutions_beside_samples_do_not_count(self):
        human = {"token_ids": (), "source": "human"}
        expected = lengths.of_run(self.folder, self.task)
        self.assertEqual(self.of_run({}, human), expected)

    def test_a_policy_that_is_not_at_hand_is_told(self):
        message = "texts without token ids, and the vocabulary .* cannot be read: no pypi:x"
        with (
            mock.patch.object(checkpoints, "load_header", side_effect=UserError("no pypi:x")),
            self.assertRaisesRegex(UserError, message),
        ):
            self.of_run({"token_ids": ()})


if __name__ == "__main__":
    absltest.main()

"""Random commands and damaged files end with one line, never with a traceback."""

import os
import pathlib

from absl.testing import absltest

from tests.helpers.fuzzing import Fuzzer

COUNT = 150
"""Commands per test; `benchmarks/reliability.py fuzz` runs thousands."""


class FuzzTest(absltest.TestCase):
    def test_random_commands(self):
        folder = pathlib.Path(self.create_tempdir().full_path)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        fuzzer = Fuzzer(folder, seed=1)
        verbs = set()
        for number in range(COUNT):
            argv = fuzzer.command(number)
            verbs.add(argv[0])
            self.assertIsNone(fuzzer.failure(argv), f"command {number}: {argv}")
        self.assertContainsSubset({"run", "report", "compare", "score"}, verbs)

    def test_a_traceback_would_be_seen(self):
        folder = pathlib.Path(self.create_tempdir().full_path)
        fuzzer = Fuzzer(folder)
        self.assertIsNone(fuzzer.failure(["runn"]))
        self.assertIsNone(fuzzer.failure(["--version"]))
        with absltest.mock.patch("restem.cli.verbs.dispatch", side_effect=KeyError("x")):
            self.assertEqual(fuzzer.failure(["config"]), "KeyError: 'x'")
        with absltest.mock.patch("restem.cli.verbs.dispatch", return_value=1):
            self.assertStartsWith(fuzzer.failure(["config"]), "exit code 1")


if __name__ == "__main__":
    absltest.main()

"""`restem init` through the command line, and the run that it proposes."""

import contextlib
import io
import os

import gin
from absl.testing import absltest

from restem.cli.main import main


class InitVerbTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        self.addCleanup(gin.clear_config)
        os.chdir(self.create_tempdir().full_path)

    def call(self, *argv):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(argv)
        return code, printed.getvalue()

    def test_the_command_that_it_prints_is_accepted(self):
        code, text = self.call("init", "mine")
        self.assertEqual(code, 0)
        *files, command = text.splitlines()
        self.assertEqual(files, ["mine/mine.gin", "mine/problems.jsonl", "mine/prompt.txt"])
        code, text = self.call(*command.split()[1:], "--dry_run")
        self.assertEqual(code, 0, text)
        self.assertFalse(os.path.exists("runs"))

    def test_a_second_time_is_refused(self):
        self.call("init", "mine")
        code, text = self.call("init", "mine")
        self.assertEqual(code, 2)
        self.assertRegex(text, "^restem: init mine: mine exists; .*\n$")


if __name__ == "__main__":
    absltest.main()

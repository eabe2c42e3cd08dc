"""Flags of the command line that all verbs share."""

import contextlib
import io
import logging as python_logging
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import logging
from absl.testing import absltest
from etils import epath

import restem
from restem.cli import main, session, verbs
from restem.run import layout
from restem.runtime import progress

ROOT = pathlib.Path(__file__).parents[2]


class VersionTest(absltest.TestCase):
    def test_the_version_comes_at_once(self):
        code = (
            "import sys\nfrom restem.cli import main\n"
            "try:\n    main.main(['--version'])\n"
            "except SystemExit as e:\n    print(e.code, 'jax' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        self.assertEqual(done.stdout, f"restem {restem.__version__}\n0 False\n", done.stderr)


class DoctorTest(absltest.TestCase):
    def test_bfloat16_is_advised_where_it_is_faster(self):
        for rates, advised in (({"float32": 2e11, "bfloat16": 9e11}, True), ({}, False)):
            said: list[str] = []
            rate = lambda dtype, rates=rates: rates.get(dtype, 1e11)
            with (
                absltest.mock.patch.object(verbs, "product_rate", rate),
                absltest.mock.patch.object(verbs, "say", said.append),
            ):
                self.assertEqual(main.main(["doctor"]), 0)
            (line,) = (line for line in said if line.startswith("products"))
            self.assertEqual('Run.compute_dtype="bfloat16" may' in line, advised, line)
        self.assertStartsWith(line, "products, GFLOP/s  100 float32, 100 bfloat16")


class QuietTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(progress._quiet.clear)

    def test_every_verb_takes_it(self):
        for verb, needed in {
            "init": ["x"],
            "compare": ["a", "b"],
            "export": ["--output=x"],
        }.items():
            self.assertTrue(main.parser().parse_args([verb, *needed, "--quiet"]).quiet)
        for verb in set(main.VERBS) - {"init", "compare", "export"}:
            self.assertTrue(main.parser().parse_args([verb, "--quiet"]).quiet, verb)

    def test_no_bar_on_a_terminal(self):
        terminal = progress.rich.console.Console(file=io.StringIO(), force_terminal=True)
        with absltest.mock.patch.object(progress, "CONSOLE", terminal):
            with progress.progress("sampling", total=2, unit="samples") as shown:
                shown.advance(2)
            self.assertIn("sampling", terminal.file.getvalue())
            progress.be_quiet()
            with progress.progress("training", total=2, unit="steps") as shown:
                shown.advance(2)
            self.assertNotIn("training", terminal.file.getvalue())

    def test_lines_go_to_the_log_alone(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        run = absltest.mock.Mock(files=layout.Workdir(epath.Path(folder)))
        root, handler = python_logging.getLogger(), logging.get_absl_handler()
        before, level, verbosity = list(root.handlers), handler.level, logging.get_verbosity()

        def restore():
            root.handlers[:] = before
            handler.setLevel(level)
            handler.filters.clear()
            logging.set_verbosity(verbosity)

        self.addCleanup(restore)
        progress.be_quiet()
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            session._start_logging(run)
            with progress.progress("training", total=2, unit="steps") as shown:
                shown.advance(2)
        self.assertIn("training: 2/2 steps", (folder / "run.log").read_text())
        self.assertEqual(output.getvalue(), "")
        self.assertEqual(handler.level, python_logging.WARNING)


class ColorTest(absltest.TestCase):
    def test_no_color(self):
        code = (
            "from restem.runtime.progress import CONSOLE\n"
            "CONSOLE._force_terminal = True\nCONSOLE.print('[red]red[/] 12')"
        )
        environment = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
        environment.pop("NO_COLOR", None)
        seen = [
            subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                env={**environment, **more},
            ).stderr
            for more in ({}, {"NO_COLOR": "1"})
        ]  # fmt: skip
        colour = r"\x1b\[[0-9;]*3\d"
        self.assertRegex(seen[0], colour)
        self.assertNotRegex(seen[1], colour)


if __name__ == "__main__":
    absltest.main()

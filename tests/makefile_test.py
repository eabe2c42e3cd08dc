"""The Makefile creates a virtual environment that can be used, and keeps one that can."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest
import venv

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[1]
NEW = """#!/bin/sh
# This Python; its environments have no pip, whose installation can take a minute.
test "$2" = venv || exec {python} "$@"
shift 2
exec {python} -m venv --without-pip "$@"
"""
OLD = """#!/bin/sh
# Python 3.10, which can do no more than tell its version.
test "$1" = -c && exec {python} -c "import sys; sys.version_info = (3, 10, 13); $2"
exit 3
"""
PIP = "raise SystemExit('this pip was kept')"


@unittest.skipUnless(shutil.which("make"), "make is not installed")
class EnvironmentTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.venv = self.folder / "venv"
        self.mine = self.venv / "mine"
        self.new = self.write_script(self.folder / "python3.99", NEW)
        self.old = self.write_script(self.folder / "python3.10", OLD)

    def write_script(self, path: pathlib.Path, text: str) -> pathlib.Path:
        path.write_text(text.format(python=sys.executable))
        path.chmod(0o755)
        return path

    def create(self) -> None:
        """Creates an environment without pip, with a file by which it is recognised."""
        venv.create(self.venv, symlinks=True)
        self.mine.touch()

    def make(self, python: pathlib.Path) -> str:
        """Returns what `make` printed; its first use of the environment's pip ends it."""
        done = subprocess.run(
            ["make", f"PYTHON={python}", f"VENV={self.venv}", f"{self.venv}/.installed-loop"],
            cwd=ROOT, env={**os.environ, "PIP_PYTHON": "/none"}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.assertNotEqual(done.returncode, 0)
        return done.stdout

    def assert_runs(self) -> None:
        code = "import sys; print(sys.prefix)"
        found = subprocess.check_output([self.venv / "bin/python", "-c", code], text=True)
        self.assertEqual(found.strip(), str(self.venv))

    def test_one_without_pip_is_created_again(self):
        self.create()
        self.make(self.new)
        self.assert_runs()
        self.assertFalse(self.mine.exists())

    def test_one_of_an_old_python_is_created_again(self):
        self.create()
        (self.venv / "bin/python").unlink()
        self.write_script(self.venv / "bin/python", OLD)
        self.make(self.new)
        self.assert_runs()
        self.assertFalse(self.mine.exists())

    def test_a_good_one_is_kept_whatever_python_is_named(self):
        self.create()
        (package,) = self.venv.glob("lib/python*/site-packages")
        (package / "pip").mkdir()
        (package / "pip/__init__.py").touch()
        (package / "pip/__main__.py").write_text(PIP)
        for python in (self.new, self.old):
            self.assertIn("this pip was kept", self.make(python))
        self.assertTrue(self.mine.exists())

    def test_an_old_python_is_refused_with_the_remedy(self):
        printed = self.make(self.old)
        self.assertIn("restem needs Python 3.11 or newer", printed)
        self.assertIn(" PYTHON=python3.12", printed)
        self.assertFalse(self.venv.exists())
        self.create()
        self.make(self.old)
        self.assertTrue(self.mine.exists())

    def test_a_folder_that_is_no_environment_loses_nothing(self):
        self.venv.mkdir()
        self.mine.touch()
        self.make(self.new)
        self.assert_runs()
        self.assertTrue(self.mine.exists())


class VersionTest(absltest.TestCase):
    def test_it_asks_for_the_python_that_the_package_requires(self):
        package, makefile = ((ROOT / name).read_text() for name in ("pyproject.toml", "Makefile"))
        required = re.search(r'requires-python = ">=(\d+)\.(\d+)"', package)
        self.assertIn(f"sys.version_info >= ({required[1]}, {required[2]})", makefile)
        self.assertIn(f"restem needs Python {required[1]}.{required[2]} or newer", makefile)


if __name__ == "__main__":
    absltest.main()

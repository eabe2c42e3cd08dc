"""What is built: the wheel and the sdist hold what they should, without a warning."""

import email
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from absl.testing import absltest

import restem

ROOT = pathlib.Path(__file__).parent.parent
BUILD = "import setuptools.build_meta as b; b.build_sdist('out'); b.build_wheel('out')"


class PackagingTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(tempfile.mkdtemp(), "source")
        cls.addClassCleanup(shutil.rmtree, folder.parent)
        unwanted = (".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*unwanted))
        # With the setuptools of this environment and no network; the flag would add a warning.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", BUILD],
            cwd=folder, env=environment, text=True, capture_output=True, check=False,
        )  # fmt: skip
        cls.output = done.stdout + done.stderr
        assert done.returncode == 0, cls.output
        version = restem.__version__
        with zipfile.ZipFile(folder / f"out/restem-{version}-py3-none-any.whl") as wheel:
            cls.wheel = set(wheel.namelist())
            info = f"restem-{version}.dist-info"
            cls.licence = wheel.read(f"{info}/licenses/LICENSE").decode()
            cls.metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        with tarfile.open(folder / f"out/restem-{version}.tar.gz") as sdist:
            names = sdist.getnames()
        cls.sdist = {name.removeprefix(f"restem-{version}/") for name in names}

    def test_the_build_warns_of_nothing(self):
        lines = [line for line in self.output.splitlines() if "warn" in line.lower()]
        self.assertEmpty(lines)

    def test_every_module_and_data_file_is_in_the_wheel(self):
        for folder, package in (("restem", "restem"), ("tasks", "restem/tasks")):
            for path in (ROOT / folder).rglob("*"):
                if path.is_file() and path.suffix not in (".pyc",):
                    self.assertIn(f"{package}/{path.relative_to(ROOT / folder)}", self.wheel)
        gin_files = list((ROOT / "gin").rglob("*.gin"))
        self.assertGreater(len(gin_files), 60)
        for path in gin_files:
            self.assertIn(f"restem/{path.relative_to(ROOT)}", self.wheel)
        self.assertIn("restem/py.typed", self.wheel)

    def test_the_licence_is_in_both(self):
        self.assertEqual(self.licence, (ROOT / "LICENSE").read_text())
        self.assertIn("Apache License\n                           Version 2.0", self.licence)
        self.assertIn("LICENSE", self.sdist)
        self.assertEqual(self.metadata["License-Expression"], "Apache-2.0")

    def test_the_sdist_can_be_built_and_tested(self):
        for path in (
            "setup.py", "pyproject.toml", "models.txt", "test-requirements.txt", "Makefile",
            "gin/restem_demo.gin", "tasks/prompts/math_4shot.txt", "tests/packaging_test.py",
            "launch/requirements.txt", "docs/methods.md", "CHANGELOG.md", "CITATION.cff",
        ):  # fmt: skip
            self.assertIn(path, self.sdist)

    def test_tensorflow_is_an_extra(self):
        required = self.metadata.get_all("Requires-Dist")
        core = [r for r in required if "extra ==" not in r]
        self.assertNotEmpty([r for r in core if r.startswith("jax")])
        self.assertEmpty([r for r in core if r.startswith(("seqio", "tensorflow"))])
        extra = [r for r in required if r.endswith('extra == "seqio"')]
        self.assertLen(extra, 2)


if __name__ == "__main__":
    absltest.main()

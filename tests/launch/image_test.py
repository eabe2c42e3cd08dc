"""The image and the files that workers get."""

import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

from absl.testing import absltest, parameterized

from launch import image
from launch.image import ROOT, Image

NAME = "us-docker.pkg.dev/p/restem/restem"


class FilesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        for name in (
            "restem/em.py", "gin/mine.gin", "my_task.py", "launch/worker.py", "restem/runs/x.py",
            ".git/HEAD", ".venv/bin/python", ".venv-2/x", "runs/demo/run.json", "build/x",
            "restem/__pycache__/em.pyc", "restem.egg-info/PKG-INFO", ".ruff_cache/x", "tests/a.py",
        ):  # fmt: skip
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (self.root / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())

    def test_workers_get_code_and_nothing_else(self):
        self.assertEqual(
            [str(file) for file in image.files(self.root)],
            [".dockerignore", "gin/mine.gin", "launch/worker.py", "my_task.py", "restem/em.py",
             "restem/runs/x.py"],
        )  # fmt: skip

    def test_the_archive_holds_them(self):
        path = self.root / "build" / "a.tar.gz"
        image.archive(path, self.root)
        with tarfile.open(path) as tar:
            self.assertEqual(tar.getnames(), [str(file) for file in image.files(self.root)])

    def test_the_checkout_itself(self):
        files = {str(file) for file in image.files()}
        for needed in ("setup.py", "restem/em.py", "gin/restem_math.gin", "launch/worker.py",
                       "tasks/__init__.py", "models.txt", "README.md"):  # fmt: skip
            self.assertIn(needed, files)
        self.assertFalse([file for file in files if file.startswith((".git/", ".venv", "runs/"))])

    def test_the_tag_changes_with_the_files_and_the_arguments(self):
        before = image.content_tag("tpu", False, self.root)
        self.assertEqual(before, image.content_tag("tpu", False, self.root))
        tags = {before, image.content_tag("cuda12", False, self.root)}
        tags.add(image.content_tag("tpu", True, self.root))
        (self.root / "runs" / "demo" / "run.json").write_text("changed")
        self.assertEqual(before, image.content_tag("tpu", False, self.root))
        (self.root / "restem" / "em.py").write_text("changed")
        tags.add(image.content_tag("tpu", False, self.root))
        self.assertLen(tags, 4)


class ImageTest(parameterized.TestCase):
    @parameterized.parameters(f"{NAME}:1", f"{NAME}@sha256:00", "localhost:5000/restem:1")
    def test_a_whole_name_is_used_as_it_is(self, name):
        found = Image(name, jax_extra="tpu", models=False)
        self.assertEqual((found.name, found.commands()), (name, []))

    @parameterized.parameters(NAME, "localhost:5000/restem")
    def test_a_name_without_a_tag_is_built(self, name):
        found = Image(name, jax_extra="cuda12", models=True)
        self.assertRegex(found.name, rf"^{re.escape(name)}:[0-9a-f]{{16}}$")
        build, push = found.commands()
        self.assertEqual(
            build,
            ["docker", "build", f"--tag={found.name}", "--build-arg=JAX=cuda12",
             "--build-arg=MODELS=1", str(ROOT)],
        )  # fmt: skip
        self.assertEqual(push, ["docker", "push", found.name])


class DockerfileTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.text = (ROOT / "Dockerfile").read_text()

    def test_what_it_is(self):
        self.assertRegex(self.text, r"(?m)^FROM python:3\.12-slim$")
        self.assertIn('"jax[${JAX}]" ".[gcs,seqio]"', self.text)
        self.assertRegex(self.text, r"(?m)^ARG JAX=tpu$")
        self.assertRegex(self.text, r"(?m)^ARG MODELS=0$")

    def test_the_entry_point_is_the_worker_where_the_files_go(self):
        (folder,) = re.findall(r"(?m)^WORKDIR (.+)$", self.text)
        (program,) = re.findall(r'ENTRYPOINT \["python", "(.+)"\]', self.text)
        self.assertTrue((ROOT / pathlib.Path(program).relative_to(folder)).is_file())

    def test_the_layer_of_dependencies_can_be_built(self):
        """The first files copied, and the empty folders made, are all that setup.py asks for."""
        copied = re.findall(r"(?m)^COPY ([a-zA-Z].+) ([a-z]*/|\./)$", self.text)
        (made,) = re.findall(r"(?m)^RUN mkdir -p (.+?) *\\$", self.text)
        files = {str(file) for file in image.files()}
        with tempfile.TemporaryDirectory() as folder:
            for name in made.split():
                pathlib.Path(folder, name).mkdir(parents=True)
            for names, place in copied:
                for name in names.split():
                    self.assertIn(name, files)  # .dockerignore lets it through
                    target = pathlib.Path(folder, place, pathlib.Path(name).name)
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes((ROOT / name).read_bytes())
            done = subprocess.run(
                [sys.executable, "setup.py", "-q", "egg_info"],
                cwd=folder, capture_output=True, text=True,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
            requires = (pathlib.Path(folder) / "restem.egg-info" / "requires.txt").read_text()
            self.assertIn("[gcs]", requires)
            self.assertIn("[seqio]", requires)
            self.assertIn("jax", requires)


if __name__ == "__main__":
    absltest.main()

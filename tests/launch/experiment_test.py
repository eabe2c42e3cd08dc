"""Experiments: jobs side by side, recorded by XManager where it is installed."""

import contextlib
import importlib.util
import io
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile

from absl.testing import absltest

from launch import experiment
from launch.jobs import Job, Resources

ROOT = pathlib.Path(__file__).parents[2]
HAS_XMANAGER = importlib.util.find_spec("xmanager") is not None

JOBS = [Job(f"math-{i}", (), "gs://b/r", Resources(), point={"SEED": str(i)}) for i in range(3)]

# XManager keeps one database for a process, so this is one of its own.
RECORDED = """
from absl import app
from launch import experiment
from tests.launch import experiment_test

def main(argv):
    print(experiment.run("a title", experiment_test.JOBS, lambda job: int(job.point["SEED"])))

app.run(main)
"""


class ExperimentTest(absltest.TestCase):
    def test_without_xmanager_the_jobs_run_all_the_same(self):
        output = io.StringIO()
        with (
            absltest.mock.patch.object(importlib.util, "find_spec", return_value=None),
            contextlib.redirect_stdout(output),
        ):
            codes = experiment.run("a title", JOBS, lambda job: int(job.point["SEED"]))
        self.assertEqual(codes, [0, 1, 2])
        self.assertIn("launch/requirements.txt", output.getvalue())

    @absltest.skipUnless(HAS_XMANAGER, "needs XManager: launch/requirements.txt")
    def test_xmanager_records_a_work_unit_for_each_job(self):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [sys.executable, "-c", RECORDED], cwd=ROOT, capture_output=True, text=True,
                env={**os.environ, "HOME": home, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("[0, 1, 2]", done.stdout)
            with sqlite3.connect(f"{home}/.xmanager/experiments.sqlite3") as database:
                (title,) = database.execute("SELECT experiment_title FROM experiment").fetchone()
                (count,) = database.execute("SELECT COUNT(*) FROM work_unit").fetchone()
        self.assertEqual((title, count), ("a title", 3))


if __name__ == "__main__":
    absltest.main()

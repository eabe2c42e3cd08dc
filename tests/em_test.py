"""The loop end to end on a tiny policy: it improves, it resumes wherever it is killed."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import em
from restem.records import Problem
from restem.run import layout
from restem.runtime import storage
from restem.steps.improve import is_validated
from tests.helpers import tiny

ROOT = pathlib.Path(__file__).parent.parent


def setUpModule():
    os.environ["JAX_PLATFORMS"] = "cpu"


class LoopTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = pathlib.Path(temporary.name)
        tiny.write_run(cls.folder)

    def start(self, directory, *flags, verb="run"):
        command = [
            sys.executable, "-m", "restem", verb, f"--gin_file={self.folder}/tiny.gin",
            f"--workdir={directory}", *flags,
        ]  # fmt: skip
        # Compiling is most of what a process does here.
        environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip

    def finish(self, directory, *flags, verb="run", code=0):
        process = self.start(directory, *flags, verb=verb)
        output, _ = process.communicate(timeout=500)
        self.assertEqual(process.returncode, code, output)
        return output

    def test_killed_in_every_step_it_ends_like_a_run_that_was_not(self):
        whole = epath.Path(self.create_tempdir().full_path)
        output = self.finish(whole)
        self.assertIn("iteration 2", output)
        killed = epath.Path(self.create_tempdir().full_path)
        # SeqIO, which brings TensorFlow, need not be asked twice.
        shutil.copytree(whole / "problems", killed / "problems")
        # One sign for each step that it is under way.
        signs = [
            "iteration_000/evals/letters.json",
            "iteration_001/samples/00000-of-00003.parquet",
            "iteration_001/training/*",
            "iteration_001/candidates/*",
            "iteration_001/improvement.json",
            "iteration_002/samples/00001-of-00003.parquet",
        ]
        deaths = 0
        for sign in signs:
            process = self.start(killed)
            while process.poll() is None and not list(killed.glob(sign)):
                time.sleep(0.002)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                deaths += 1
            process.communicate()
        self.assertGreaterEqual(deaths, 4)
        self.finish(killed)
        one, two = layout.Workdir(whole), layout.Workdir(killed)
        for i in (1, 2):
            a, b = one.iteration(i), two.iteration(i)
            self.assertEqual(
                [(s.problem_id, s.sample_index, s.text, s.reward) for s in a.read_samples()],
                [(s.problem_id, s.sample_index, s.text, s.reward) for s in b.read_samples()],
            )
            self.assertLen({(s.problem_id, s.sample_index) for s in b.read_samples()}, 12 * 8)
            self.assertEqual(storage.read_json(a.selection), storage.read_json(b.selection))
            ends = [storage.read_json(d.improvement) for d in (a, b)]
            for key in ("best_validation", "best_step", "validation", "steps"):
                self.assertEqual(ends[0][key], ends[1][key])
            np.testing.assert_allclose(ends[0]["loss"], ends[1]["loss"], rtol=1e-5)
            passes = [storage.read_json(d.evaluation("letters"))["pass@1"] for d in (a, b)]
            self.assertEqual(passes[0], passes[1])
            self.assertFalse(b.training.exists())
        self.assertGreater(
            storage.read_json(one.iteration(2).improvement)["best_validation"],
            storage.read_json(one.iteration(1).improvement)["validation"][0][1],
        )
        self.assertTrue((whole / "report" / "index.html").exists())

        with self.subTest("what an evaluation says beside pass@1"):
            found = storage.read_json(one.summary)
            self.assertEqual(found["method"], "restem")
            self.assertEqual(found["evaluations"], ["letters", "letters.train"])
            for entry in found["iterations"]:
                gap = entry["evals"]["letters.train"]
                self.assertEqual((gap["n"], gap["split"]), (5, "train"))
            test = found["iterations"][2]["versus_base"]["letters"]["greedy"]
            rates = [found["iterations"][i]["evals"]["letters"]["pass@1"] for i in (0, 2)]
            self.assertAlmostEqual(test["difference"], rates[1] - rates[0])
            overlap = storage.read_json(one.contamination)["tasks"]["letters"]
            self.assertEqual((overlap["num_train"], overlap["num_test"]), (12, 8))

        with self.subTest("a run of other settings is refused, and nothing is lost"):
            output = self.finish(whole, "--gin.select.cap=5", code=2)
            self.assertIn("select.cap was 3 and is 5", output)
            self.assertTrue(one.summary.exists())

        with self.subTest("verify grades again and says what changed"):
            output = self.finish(whole, "--iteration=1", verb="verify")
            self.assertIn("same: 96 samples", output)

    def test_bad_input_ends_with_one_line(self):
        directory = self.create_tempdir().full_path
        for flags, message in (
            (["--gin_file=restem_mth.gin"], "restem_math.gin"),
            (["--gin.select.kap=3"], "kap"),
            (["--gin.Run.base=hf:/nowhere"], "/nowhere/config.json"),
            (["--gin.Run.task=arithmetik"], "arithmetic"),
        ):
            output = self.finish(directory, *flags, code=2)
            last = output.strip().splitlines()[-1]
            self.assertStartsWith(last, "restem: ")
            self.assertIn(message, last)
            self.assertNotIn("Traceback", output)


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(
        (4, 5, [5]), (4, 6, [4, 6]), (4, 8, [4, 8]), (4, 9, [4, 9]), (1, 3, [1, 2, 3]),
        (100, 3, [3]), (3, 3, [3]), (None, 6, [3, 6]),
    )  # fmt: skip
    def test_when(self, every, steps, validated):
        at = [
            step for step in range(1, steps + 1) if is_validated(step, steps, step % 3 == 0, every)
        ]
        self.assertEqual(at, validated)


class MinibatchTest(parameterized.TestCase):
    def test_an_epoch_of_minibatches_is_every_problem_once(self):
        problems = [Problem(str(i), "train", "?") for i in range(10)]
        epoch = [em.minibatch(problems, i, 5, seed=1) for i in (1, 2)]
        self.assertCountEqual([p.problem_id for b in epoch for p in b], map(str, range(10)))
        self.assertNotEqual(epoch, [em.minibatch(problems, i, 5, seed=2) for i in (1, 2)])
        self.assertEqual(em.minibatch(problems, 7, None, seed=1), problems)
        self.assertLen(em.minibatch(problems, 3, 4, seed=1), 4)


if __name__ == "__main__":
    absltest.main()

"""The loop end to end on a tiny policy: it improves, it resumes wherever it is killed."""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import gin
import jax
import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import em, records
from restem.cli.main import main
from restem.methods.many_shot import ManyShot
from restem.models.lora import Lora
from restem.records import Problem
from restem.run import layout, reader
from restem.run.settings import RunSettings
from restem.runtime import storage
from restem.steps.settings import ImproveSettings, LoopSettings, Settings
from tests.helpers import tiny
from tests.helpers.hosts import Machine

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
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)

    def arguments(self, directory, *flags, verb="run"):
        return [verb, f"--gin_file={self.folder}/tiny.gin", f"--workdir={directory}", *flags]

    def start(self, directory, *flags, verb="run"):
        log = pathlib.Path(self.create_tempfile().full_path)
        return self.machine.start(1, self.arguments(directory, *flags, verb=verb), log)

    def finish(self, directory, *flags, verb="run", code=0):
        job = self.start(directory, *flags, verb=verb)
        self.assertEqual(job.codes(), [code], job.output())
        return job.output()

    def finish_alone(self, directory):
        """The whole run as a shell starts it, its report included."""
        done = subprocess.run(
            [sys.executable, "-m", "restem", *self.arguments(directory)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
            # Compiling is most of what the process does here.
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def refused(self, *argv):
        """What a command prints that is refused; it runs in this process."""
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        # The command line sets up logging and a compilation cache for a process of its own.
        cache, root = jax.config.jax_compilation_cache_dir, logging.getLogger()
        self.addCleanup(jax.config.update, "jax_compilation_cache_dir", cache)
        self.addCleanup(setattr, root, "handlers", list(root.handlers))
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            self.assertEqual(main(argv), 2, errors.getvalue())
        return errors.getvalue().splitlines()[-1]

    def assert_same(self, one, two):
        """Two runs ended alike."""
        for i in (1, 2):
            a, b = one.iteration(i), two.iteration(i)
            self.assertEqual(
                [(s.problem_id, s.sample_index, s.text, s.reward) for s in reader.read_samples(a)],
                [(s.problem_id, s.sample_index, s.text, s.reward) for s in reader.read_samples(b)],
            )
            self.assertLen({(s.problem_id, s.sample_index) for s in reader.read_samples(b)}, 12 * 8)
            self.assertEqual(storage.read_json(a.selection), storage.read_json(b.selection))
            ends = [storage.read_json(d.improvement) for d in (a, b)]
            for key in ("best_validation", "best_step", "validation", "steps"):
                self.assertEqual(ends[0][key], ends[1][key])
            np.testing.assert_allclose(ends[0]["loss"], ends[1]["loss"], rtol=1e-5)
            passes = [storage.read_json(d.evaluation("letters"))["pass@1"] for d in (a, b)]
            self.assertEqual(passes[0], passes[1])
            self.assertFalse(b.training.exists())

    def test_killed_in_every_step_it_ends_like_a_run_that_was_not(self):
        whole = epath.Path(self.create_tempdir().full_path)
        output = self.finish_alone(whole)
        self.assertIn("iteration 2", output)
        killed = epath.Path(self.create_tempdir().full_path)
        # SeqIO, which brings TensorFlow, need not be asked twice.
        shutil.copytree(whole / "problems", killed / "problems")
        # One sign for each step that it is under way.
        signs = [
            "iteration_000/evals/letters.json",
            "iteration_001/samples/00000-of-00003.parquet",
            "iteration_001/training/*",
            "iteration_001/training/[2-9]*",
            "iteration_001/improvement.json",
            "iteration_002/samples/00001-of-00003.parquet",
        ]
        deaths = 0
        for sign in signs:
            job = self.start(killed)
            while job.is_running(0) and not list(killed.glob(sign)):
                time.sleep(0.002)
            if job.is_running(0):
                os.kill(job.pids[0], signal.SIGKILL)
                deaths += 1
            job.codes()
        self.assertGreaterEqual(deaths, 4)
        self.finish(killed)
        one, two = layout.Workdir(whole), layout.Workdir(killed)
        self.assert_same(one, two)
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

        with self.subTest("a run of other settings or weights is refused, and nothing is lost"):
            argv = ["run", f"--gin_file={self.folder}/tiny.gin", f"--workdir={whole}"]
            self.assertIn("select.cap was 3 and is 5", self.refused(*argv, "--gin.select.cap=5"))
            (self.folder / "base").rename(self.folder / "base_0")
            tiny.save_policy(self.folder / "base", seed=1)
            self.assertIn("the base policy has other weights", self.refused(*argv))
            shutil.rmtree(self.folder / "base")
            (self.folder / "base_0").rename(self.folder / "base")
            self.assertTrue(one.summary.exists())

        with self.subTest("damaged files are removed and made again"):
            damaged = [
                two.identity, two.iteration(1).samples / "00001-of-00003.parquet",
                two.iteration(2).generation, two.iteration(2).evaluation("letters"),
                two.iteration(2).checkpoint / "params" / "_CHECKPOINT_METADATA",
            ]  # fmt: skip
            for path in damaged:
                path.write_bytes(b"")
            output = self.finish(killed, code=2)
            self.assertIn("run.json: not JSON", output.splitlines()[-1])
            self.assertIn("--repair", output.splitlines()[-1])
            output = self.finish(killed, "--repair")
            removed = [line for line in output.splitlines() if "repair: removed" in line]
            # The kills above may have left unfinished files.
            removed = [line for line in removed if "left by a process that was killed" not in line]
            self.assertLen(removed, len(damaged), output)
            self.assert_same(one, two)

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


class FakeRun:
    """A run of which each part is its name."""

    seed = 7
    settings = RunSettings()

    def __init__(self, folder, problems=()):
        self.files = layout.Workdir(folder)
        self._problems = list(problems)

    def directory(self, i):
        return self.files.iteration(i)

    def problems(self, split):
        return [p for p in self._problems if p.split == split]

    def policy(self, i, *, dtype=None):
        self.dtype = dtype
        return f"policy {i}"

    def sampler(self, i):
        return f"sampler {i}"

    def card(self, *, iteration):
        return f"card {iteration}"

    def verifier(self):
        return "verifier"

    def e_step(self):
        return {"slots": 5}

    def m_step(self):
        return {"slots": 6}

    def open(self, settings):
        del settings


class StepsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = epath.Path(self.create_tempdir().full_path)

    @parameterized.parameters(
        (1, [1, 2, 3, 4, 5]), (2, [1, 1, 3, 3, 5]), (3, [1, 1, 1, 4, 4]), (9, [1] * 5)
    )
    def test_improve_steps_share_the_samples_of_the_first(self, every, generated):
        settings = Settings(loop=LoopSettings(generate_every=every))
        self.assertEqual([em.generated_at(i, settings) for i in range(1, 6)], generated)

    def test_the_order_of_the_steps(self):
        calls = []
        for name in ("generate_samples", "select_examples", "improve_policy", "evaluate_policy"):

            def step(*, run, settings, iteration, name=name):
                del run, settings
                calls.append(f"{name.split('_')[0]} {iteration}")

            self.enter_context(mock.patch.object(em, name, step))
        self.enter_context(mock.patch.object(em.summary, "write"))
        loop = LoopSettings(iterations=4, generate_every=2, evaluate_every=3)
        em.em(run=FakeRun(self.folder), settings=Settings(loop=loop))
        self.assertEqual(
            calls,
            [
                "evaluate 0",
                "generate 1", "select 1", "improve 1",
                "select 2", "improve 2",
                "generate 3", "select 3", "improve 3", "evaluate 3",
                "select 4", "improve 4", "evaluate 4",
            ],
        )  # fmt: skip

    def test_the_policy_before_the_iteration_generates(self):
        problems = [Problem(str(i), "train", "?") for i in range(6)]
        made = []
        self.enter_context(mock.patch.object(em, "generate", lambda **given: made.append(given)))
        run = FakeRun(self.folder, problems)
        settings = Settings(loop=LoopSettings(problems_per_iteration=2))
        for i in (1, 2, 3):
            em.generate_samples(run=run, settings=settings, iteration=i)
        self.assertEqual([m["rollout"].policy for m in made], [f"sampler {i}" for i in range(3)])
        self.assertEqual([m["rollout"].card for m in made], [f"card {i}" for i in range(3)])
        self.assertLen({m["rollout"].key for m in made}, 3)
        self.assertEqual({m["rollout"].slots for m in made}, {5})
        self.assertEqual([m["directory"].path.name[-1] for m in made], ["1", "2", "3"])
        self.assertCountEqual([p for m in made for p in m["problems"]], problems)

    def improved_from(self, iteration, *, start_from, **files):
        """What the M-step of an iteration is given."""
        given = {}
        run = FakeRun(self.folder)
        loop = LoopSettings(start_from=start_from, improve=lambda **kwargs: given.update(kwargs))
        for i in range(1, iteration):
            report = {"best_validation": i / 10}
            storage.write_json(run.directory(i).improvement, report)
        examples = [records.Example("p", 0, "q", "t", (), 0.5)]
        table = records.examples_to_table(examples)
        path = layout.shard_path(run.directory(iteration).dataset, 0, 1)
        storage.write_table(path, table)
        for name, value in files.items():
            storage.write_json(getattr(run.directory(iteration - 1), name), value)
        em.improve_policy(run=run, settings=Settings(loop=loop), iteration=iteration)
        self.assertEqual(list(given["examples"]), examples)
        self.assertEqual(given["rollout"].slots, 6)
        self.assertEqual(given["rollout"].card, f"card {iteration - 1}")
        return given

    def test_the_base_policy_is_validated_under_the_limit_of_the_m_step(self):
        limits = []
        self.enter_context(
            mock.patch.object(
                em, "validation_reward", lambda **given: limits.append(given["rollout"])
            )
        )
        self.enter_context(mock.patch.object(em, "improve", lambda **given: None))
        self.enter_context(mock.patch.object(ManyShot, "__call__", lambda self, **given: None))
        run = FakeRun(self.folder)
        table = records.examples_to_table([records.Example("p", 0, "q", "t", (), 0.5)])
        storage.write_table(layout.shard_path(run.directory(1).dataset, 0, 1), table)
        of_steps = ImproveSettings(max_new_tokens=256)
        many_shot = LoopSettings(improve=ManyShot(max_new_tokens=128))
        for settings in (
            Settings(improve=of_steps),
            Settings(improve=of_steps, loop=many_shot),
            Settings(improve=of_steps, loop=LoopSettings(improve=lambda **given: None)),
        ):
            em.improve_policy(run=run, settings=settings, iteration=1)
        self.assertEqual([r.max_new_tokens for r in limits], [256, 128, None])

    @parameterized.parameters(
        ("last", None, "float32"), ("base", None, None), ("last", Lora(), None)
    )
    def test_a_policy_that_training_continues_is_not_rounded(self, start_from, adapter, dtype):
        made = []
        self.enter_context(mock.patch.object(em, "improve", lambda **given: made.append(given)))
        run = FakeRun(self.folder)
        storage.write_json(run.directory(1).improvement, {"best_validation": 0.1})
        table = records.examples_to_table([records.Example("p", 0, "q", "t", (), 0.5)])
        storage.write_table(layout.shard_path(run.directory(2).dataset, 0, 1), table)
        loop, improve = LoopSettings(start_from=start_from), ImproveSettings(adapter=adapter)
        em.improve_policy(run=run, settings=Settings(loop=loop, improve=improve), iteration=2)
        self.assertEqual(run.dtype, dtype)

    @parameterized.parameters((1, 0), (2, 0), (3, 0))
    def test_training_starts_from_the_base(self, iteration, start):
        given = self.improved_from(iteration, start_from="base")
        self.assertEqual(given["rollout"].policy, f"policy {start}")
        self.assertIsNone(given["start_reward"])

    @parameterized.parameters((2, 1, 0.1), (3, 2, 0.2))
    def test_training_starts_from_the_last(self, iteration, start, reward):
        given = self.improved_from(iteration, start_from="last")
        self.assertEqual(given["rollout"].policy, f"policy {start}")
        self.assertEqual(given["start_reward"], reward)

    def test_a_rewritten_prompt_is_continued(self):
        given = self.improved_from(3, start_from="base", prefix={"prefix": "p"})
        self.assertEqual(given["rollout"].policy, "policy 2")

    def test_each_pass_has_a_key_of_its_own(self):
        keys = [self.improved_from(i, start_from="base")["rollout"].key for i in (1, 2)]
        self.enter_context(
            mock.patch.object(em, "generate", lambda **g: keys.append(g["rollout"].key))
        )
        for i in (1, 2):
            em.generate_samples(run=FakeRun(self.folder), settings=Settings(), iteration=i)
        self.assertLen(set(keys), 4)


class MinibatchTest(parameterized.TestCase):
    def test_an_epoch_of_minibatches_is_every_problem_once(self):
        problems = [Problem(str(i), "train", "?") for i in range(10)]
        epoch = [em.minibatch(problems, i, 5, seed=1) for i in (1, 2)]
        self.assertCountEqual([p.problem_id for b in epoch for p in b], map(str, range(10)))
        self.assertNotEqual(epoch, [em.minibatch(problems, i, 5, seed=2) for i in (1, 2)])
        self.assertEqual(em.minibatch(problems, 7, None, seed=1), problems)
        self.assertLen(em.minibatch(problems, 3, 4, seed=1), 4)

    def test_every_e_step_has_problems_of_its_own(self):
        """ReST's Improve steps share the samples of one E-step, and its mini-batch."""
        problems = [Problem(str(i), "train", "?") for i in range(10)]
        this = mock.Mock(seed=1)
        this.problems.return_value = problems
        loop = LoopSettings(iterations=6, generate_every=3, problems_per_iteration=5)
        asked = [
            em.asked_problems(this, dataclasses.replace(Settings(), loop=loop), i)
            for i in range(1, 7)
        ]
        self.assertEqual(asked[0], asked[2])
        self.assertCountEqual(asked[0] + asked[3], problems)

    def test_problems_are_shuffled_anew_in_each_epoch(self):
        problems = [Problem(str(i), "train", "?") for i in range(10)]
        order = [
            [p.problem_id for i in (1, 2) for p in em.minibatch(problems, 2 * epoch + i, 5, seed=1)]
            for epoch in range(3)
        ]
        self.assertLen(set(map(tuple, [map(str, range(10)), *order])), 4)


if __name__ == "__main__":
    absltest.main()

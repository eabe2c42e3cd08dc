"""`restem verify`: what a verifier changed, and which samples are not the verifier's."""

import contextlib
import dataclasses
import io
import logging
import subprocess
import sys
from unittest import mock

import gin
import jax
from absl.testing import absltest
from etils import epath

from restem import records, verify
from restem.cli import gin_files, main  # noqa: F401  the first registers names with gin
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.run import layout, lease, reader, run
from restem.runtime import storage
from restem.runtime.progress import CONSOLE
from restem.steps.settings import Settings
from restem.verify import grading
from restem.verify.pool.process import Launch
from tests.helpers import run_files

TASK = ["Run.base = 'orbax:/nowhere'", "Run.task = 'sums'", "generate.num_samples = 3"]


def sample(problem, index, text, reward, **fields):
    verdict = Verdict(reward, "by the verifier of before")
    return Sample(
        problem, index, text, (1, 2), -1.0, "eos", reward=reward, verdict=verdict, **fields
    )


class VerifyVerbTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        self.keep_process_settings()
        self.folder = self.create_tempdir().full_path

    def keep_process_settings(self):
        """The command line sets up logging and a compilation cache for a process of its own."""
        cache = jax.config.jax_compilation_cache_dir
        self.addCleanup(jax.config.update, "jax_compilation_cache_dir", cache)
        root = logging.getLogger()
        handlers = list(root.handlers)
        self.addCleanup(setattr, root, "handlers", handlers)

    def write(self, shards, *, grader=None, bindings=(), iteration=2):
        """A run of two problems whose E-step is finished."""
        gin.parse_config([*TASK, *bindings])
        settings = Settings.from_gin()
        this = run.Run(self.folder, settings.run)
        card = TaskCard("sums", grader=grader or {"kind": "math", "extraction": "boxed"})
        problems = [
            Problem(name, "train", f"What is {name}?", answer=answer)
            for name, answer in (("1+1", "2"), ("1/2", "\\frac{1}{2}"))
        ]
        run_files.write_problems(this.files, card, problems)
        this.open(settings)
        directory = this.directory(iteration)
        for i, samples in enumerate(shards):
            path = layout.shard_path(directory.samples, i, len(shards))
            storage.write_table(path, records.samples_to_table(samples))
        storage.write_json(directory.generation, {"mean_reward": 0.5, "problems": 2})
        gin.clear_config()
        return directory

    def verify(self, *flags, bindings=(), code=0):
        settings = [f"--gin.{b.replace(' ', '')}" for b in (*TASK, *bindings)]
        errors = io.StringIO()
        gin.clear_config()
        with CONSOLE.capture() as output, contextlib.redirect_stderr(errors):
            found = main.main(["verify", f"--workdir={self.folder}", *settings, *flags])
        self.assertEqual(found, code, errors.getvalue())
        return output.get() + errors.getvalue()

    def test_a_changed_verifier_changes_rewards_and_says_which(self):
        # The stored rewards are of a verifier that did not know 0.5 for 1/2, and took 3 for 2.
        directory = self.write(
            [
                [sample("1+1", 0, "\\boxed{2}", 1.0), sample("1+1", 1, "\\boxed{3}", 1.0)],
                [sample("1/2", 0, "\\boxed{0.5}", 0.0), sample("1/2", 1, "no idea", 0.0)],
            ]
        )
        before = [path.read_bytes() for path in directory.samples.iterdir()]
        output = self.verify("--dry_run")
        self.assertIn("0 -> 1: 1 samples", output)
        self.assertIn("nothing was written", output)
        self.assertEqual([path.read_bytes() for path in directory.samples.iterdir()], before)
        output = self.verify()
        self.assertIn("0 -> 1: 1 samples\n1 -> 0: 1 samples\nsame: 2 samples\n", output)
        self.assertRegex(output, r"1\+1/1: 1 -> 0 \(.*extracted '3'; gold '2'\)")
        self.assertIn("later steps of iteration 2 keep their old results", output)
        found = {(s.problem_id, s.sample_index): s for s in reader.read_samples(directory)}
        self.assertEqual([s.reward for s in found.values()], [1.0, 0.0, 1.0, 0.0])
        self.assertEqual(found["1/2", 0].verdict.extracted, "0.5")
        self.assertEqual(found["1/2", 0].token_ids, (1, 2))
        self.assertEqual(storage.read_json(directory.generation)["mean_reward"], 0.5)
        output = self.verify("--iteration=2")
        self.assertEqual(output, "same: 4 samples\n")

    def test_a_dry_run_looks_at_a_run_that_is_under_way(self):
        directory = self.write([[sample("1+1", 0, "\\boxed{3}", 1.0)]])
        directory.generation.unlink()  # more shards are to come
        lease.release_all()
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        job = dataclasses.replace(
            lease.Holder.this_process(), pid=child.pid, started=lease._started(child.pid)
        )
        files = layout.Workdir(epath.Path(self.folder))
        storage.write_json(files.lease, dataclasses.asdict(job))
        before = sorted((p.name, p.read_bytes()) for p in files.path.iterdir() if p.is_file())
        self.assertIn("1 -> 0: 1 samples", self.verify("--dry_run"))
        after = sorted((p.name, p.read_bytes()) for p in files.path.iterdir() if p.is_file())
        self.assertEqual(after, before)
        self.assertIn(f"process {child.pid}", self.verify(code=2))
        # Another run's settings are refused all the same.
        message = self.verify("--dry_run", bindings=["Run.seed = 7"], code=2)
        self.assertIn("seed was 0 and is 7", message)

    def test_workers_that_cannot_start_end_with_a_code_that_restarts(self):
        self.write([[sample("1+1", 0, "\\boxed{2}", 1.0)]])
        dead = Launch((sys.executable, "-c", "raise SystemExit(9)"), {}, {}, 10.0, 10.0)
        verify.close_shared()
        with mock.patch.object(grading, "launch", return_value=dead):
            message = self.verify(code=75)
        self.assertIn("no verification worker can be started", message)
        self.assertLen(message.strip().splitlines(), 1)

    def test_samples_that_the_verifier_did_not_reward_keep_their_reward(self):
        human = sample("1+1", 1, "Two, of course.", 1.0, source="human")
        state = sample("1/2", 1, "half", 1.0, source="chain")
        hinted = sample("1/2", 2, "\\boxed{1/3}", 1.0, source="rationalization", inputs="hint")
        directory = self.write([[sample("1+1", 0, "\\boxed{2}", 1.0), human], [state, hinted]])
        output = self.verify()
        self.assertIn("1 -> 0: 1 samples\nnot the verifier's: 2 samples\nsame: 1 samples", output)
        found = reader.read_samples(directory)
        self.assertEqual(found[1:3], [human, state])
        self.assertEqual((found[3].reward, found[3].inputs), (0.0, "hint"))
        self.assertEqual(storage.read_json(directory.generation)["mean_reward"], 0.75)

    def test_the_grading_of_the_run_stays_in_force(self):
        blind = ["generate.grading = @WithoutGold()"]
        unlabelled = Verdict(0.0, "unlabelled", "2", "2")
        samples = [records.regraded(sample("1+1", 0, "\\boxed{2}", 0.0), unlabelled)]
        directory = self.write([samples], bindings=blind)
        self.assertEqual(self.verify(bindings=blind), "same: 1 samples\n")
        self.assertEqual(reader.read_samples(directory), samples)
        with self.subTest("without it the folder is another run's"):
            self.assertIn("generate.grading", self.verify(code=2))
            self.assertEqual(reader.read_samples(directory), samples)

    def test_a_reward_that_float32_rounds_is_the_same(self):
        grader = {"kind": "function", "function": "tests.helpers.rewards:third"}
        directory = self.write([[sample("1+1", 0, "?", 1 / 3)]], grader=grader)
        self.assertEqual(self.verify(), "same: 1 samples\n")
        self.assertAlmostEqual(reader.read_samples(directory)[0].reward, 1 / 3, places=6)

    def test_without_samples_it_says_what_to_run(self):
        self.assertIn("run `restem generate` first", self.verify(code=2))


if __name__ == "__main__":
    absltest.main()

"""Whole runs on 1, 2 and 4 hosts, killed and preempted in every step: all end the same."""

import pathlib
import shutil
import signal
import tempfile

import jax
import numpy as np
from absl.testing import absltest
from etils import epath

from restem.checkpoints import orbax
from restem.records import Problem, TaskCard
from restem.run import layout, reader
from restem.runtime import storage
from restem.runtime.coordination import EXIT_LATE_HOST
from restem.runtime.preemption import EXIT_PREEMPTED
from tests.helpers import run_files, tiny
from tests.helpers.hosts import Machine

GIN = """
include "methods/restem.gin"
Run.base = "{base}"
Run.task = "letters"
Run.seed = 1
em.iterations = 1
generate.num_samples = 8
generate.problems_per_shard = 2
Run.e_step_slots = 8
evaluate.problems_per_shard = 1
select.cap = 3
adamw.learning_rate = 1e-2
adamw.eps = 1e-4  # or rounding decides the sign of a step where a gradient is nearly zero
improve.epochs = 4
improve.batch_examples = 8
improve.row_length = 64
improve.rows_per_batch = 4
improve.patience = 4
initialize.heartbeat_timeout_s = 15
"""
MESHES = """
Run.e_step_mesh = @e_step/make_mesh()
Run.m_step_mesh = @m_step/make_mesh()
e_step/make_mesh.data = 2
m_step/make_mesh.data = 1
m_step/make_mesh.fsdp = 2
"""
MESHES_OF_EACH = """
include "hardware/each_host.gin"
Run.m_step_mesh = @m_step/make_mesh()
m_step/make_mesh.fsdp = 2
"""
KILL, TERM = signal.SIGKILL, signal.SIGTERM
ANSWERS = "evals/letters.parts/greedy/*"
LOST = r"restem: host %d \(.+\) has not been heard of for 15 s"


def setUpModule():
    global machine, folder
    folder = pathlib.Path(tempfile.mkdtemp())
    tiny.save_policy(folder / "base")
    (folder / "tiny.gin").write_text(GIN.format(base=f"orbax:{folder}/base"))
    machine = Machine()


def tearDownModule():
    machine.close()
    shutil.rmtree(folder)


def problems(*, validation: int = 4) -> tuple[TaskCard, list[Problem]]:
    card = TaskCard(
        task="letters",
        prefix="",
        grader={"kind": "function", "function": "tests.helpers.slow_rewards:letters"},
        stop=tuple("0123456789.,;:!?+-*/()[]{}"),
        max_new_tokens=16,
    )
    made = [
        Problem(f"{split}-{i}", split, f"{split} {i}:", answer="")
        for split, count in (("train", 8), ("validation", validation), ("test", 6))
        for i in range(count)
    ]
    return card, made


class RunTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls.new_run("whole")
        job = cls.start(cls.whole, 1)
        assert job.codes() == [0], job.output()

    @staticmethod
    def new_run(name: str, **counts: int) -> layout.Workdir:
        """A folder with its problems, which spares the run TensorFlow."""
        files = layout.Workdir(epath.Path(folder / name))
        run_files.write_problems(files, *problems(**counts))
        return files

    @staticmethod
    def start(files: layout.Workdir, hosts: int, *flags: str):
        argv = ["run", f"--gin_file={folder}/tiny.gin", f"--workdir={files.path}", *flags]
        return machine.start(hosts, argv, folder / f"{files.path.name}.log")

    def interrupted(self, files, hosts, *, host, number, sign) -> tuple[list[int], str]:
        """Exit codes and logs of a job of which one host gets a signal when a file is there."""
        path = files.iteration(1).path
        job = self.start(files, hosts)
        job.interrupt(host, number, lambda: any(path.glob(sign)))
        return job.codes(), job.output()

    def assert_same(self, files: layout.Workdir):
        """The run ended like the one of a single process that nothing interrupted."""
        one, other = self.whole.iteration(1), files.iteration(1)
        samples = [
            [(s.problem_id, s.sample_index, s.text, s.token_ids, s.verdict) for s in samples]
            for samples in (reader.read_samples(one), reader.read_samples(other))
        ]
        self.assertLen(samples[0], 8 * 8)
        self.assertEqual(*samples)
        self.assertEqual(*(storage.read_json(d.selection) for d in (one, other)))
        ends = [storage.read_json(d.improvement) for d in (one, other)]
        self.assertTrue(ends[0]["improved"])
        for key in ("best_step", "steps", "examples", "target_tokens"):
            self.assertEqual(ends[0][key], ends[1][key])
        for key in ("loss", "validation"):
            np.testing.assert_allclose(ends[0][key], ends[1][key], rtol=1e-4)
        policies = [orbax.load_policy(d.checkpoint) for d in (one, other)]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
            *(policy.params for policy in policies),
        )
        for i in (0, 1):
            reports = [storage.read_json(f.iteration(i).evaluation("letters")) for f in
                       (self.whole, files)]  # fmt: skip
            for key in ("n", "mean_reward", "pass@1", "mean_tokens"):
                self.assertEqual(reports[0][key], reports[1][key])
            self.assertFalse(files.iteration(i).evaluation_parts("letters").exists())
        self.assertFalse(other.training.exists())
        self.assertFalse(files.lease.exists())

    def test_two_hosts_one_of_which_dies(self):
        files = self.new_run("killed")
        codes, output = self.interrupted(files, 2, host=1, number=KILL, sign="samples/*")
        self.assertEqual(codes, [EXIT_LATE_HOST, -KILL], output)
        self.assertRegex(output, LOST % 1)
        with self.subTest("the coordinator"):
            codes, output = self.interrupted(files, 2, host=0, number=KILL, sign=ANSWERS)
            self.assertEqual(codes[0], -KILL)
            self.assertIn(codes[1], (EXIT_LATE_HOST, -signal.SIGABRT), output)
            self.assertRegex(output, "coordinat|another task died")
        job = self.start(files, 1)
        self.assertEqual(job.codes(), [0], job.output())
        self.assert_same(files)

    def test_four_hosts_one_of_which_dies(self):
        files = self.new_run("four")
        codes, output = self.interrupted(files, 4, host=2, number=KILL, sign="training/[369]")
        self.assertEqual((codes[0], codes[2]), (EXIT_LATE_HOST, -KILL), output)
        # Where the first host is gone before them, JAX aborts the others.
        self.assertLessEqual({codes[1], codes[3]}, {EXIT_LATE_HOST, -signal.SIGABRT}, output)
        self.assertRegex(output, f"{LOST % 2}|another host was lost .*Gloo")
        # One host continues with the training state of four.
        job = self.start(files, 1)
        self.assertEqual(job.codes(), [0], job.output())
        self.assertIn("continues at step", job.output())
        self.assert_same(files)

    def test_preempted_in_every_step(self):
        files = self.new_run("preempted")
        for sign in ("samples/*", "training/*"):
            codes, output = self.interrupted(files, 1, host=0, number=TERM, sign=sign)
            self.assertEqual(codes, [EXIT_PREEMPTED], output)
            self.assertIn("the same command continues", output)
            # The run that was not interrupted has left its programs in the cache.
            self.assertRegex(output, r" 0 programs compiled, [1-9]\d* taken from the cache")
        # Two hosts go on with the training state of one.
        codes, output = self.interrupted(files, 2, host=1, number=TERM, sign=ANSWERS)
        self.assertEqual(codes, [EXIT_PREEMPTED] * 2, output)
        self.assertIn("continues at step", output)
        job = self.start(files, 1)
        self.assertEqual(job.codes(), [0], job.output())
        self.assert_same(files)

    def test_two_hosts_on_one_mesh(self):
        """Samples over `data`, training over `fsdp`, policies loaded onto the mesh."""
        files = self.new_run("mesh")
        (folder / "mesh.gin").write_text(MESHES)
        job = self.start(files, 2, f"--gin_file={folder}/mesh.gin")
        self.assertEqual(job.codes(), [0, 0], job.output())
        self.assert_same(files)

    def test_a_host_without_a_validation_problem(self):
        """Each host samples and validates on a mesh of its own, after training on one of both."""
        files = self.new_run("few", validation=1)
        (folder / "few.gin").write_text(MESHES_OF_EACH)
        flags = [f"--gin_file={folder}/few.gin", "--gin.initialize.barrier_timeout_s=60.0"]
        job = self.start(files, 2, *flags)
        self.assertEqual(job.codes(), [0, 0], job.output())


if __name__ == "__main__":
    absltest.main()

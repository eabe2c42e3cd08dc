"""A task of programs on a mesh of two processes: killed, resumed, and equal to one host's."""

import json
import pathlib
import shutil
import signal
import tempfile

from absl.testing import absltest
from etils import epath

from restem.records import Problem, TaskCard
from restem.run import layout, reader
from restem.runtime import storage
from restem.runtime.coordination import EXIT_LATE_HOST
from tests.helpers import run_files, tiny
from tests.helpers.hosts import Machine

GIN = """
include "methods/restem.gin"
Run.base = "{base}"
Run.task = "doubling"
Run.e_step_mesh = @e_step/make_mesh()
Run.e_step_slots = 8
generate.num_samples = 4
generate.problems_per_shard = 2
initialize.heartbeat_timeout_s = 15
"""
PROBLEMS = 6


def problems() -> tuple[TaskCard, list[Problem]]:
    """Programs that a policy of random bytes cannot write, but is judged by."""
    tests = json.dumps({"fn_name": "double", "inputs": [[1], [4]], "outputs": [2, 8]})
    card = TaskCard("doubling", grader={"kind": "program"}, stop=("\n",), max_new_tokens=12)
    return card, [Problem(f"p{i}", "train", f"{i}:", tests=tests) for i in range(PROBLEMS)]


class ProgramTaskTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        base = tiny.save_policy(self.folder / "base")
        (self.folder / "tiny.gin").write_text(GIN.format(base=base))
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def new_run(self, name: str) -> layout.Workdir:
        files = layout.Workdir(epath.Path(self.folder / name))
        run_files.write_problems(files, *problems())
        return files

    def start(self, files: layout.Workdir, hosts: int):
        argv = ["generate", f"--gin_file={self.folder}/tiny.gin", f"--workdir={files.path}",
                "--iteration=1"]  # fmt: skip
        return self.machine.start(hosts, argv, self.folder / f"{files.path.name}.log")

    def samples(self, files: layout.Workdir):
        """Samples with their verdicts; how long a program ran is not stored."""
        return [
            (s.problem_id, s.sample_index, s.text, s.token_ids, s.verdict)
            for s in reader.read_samples(files.iteration(1))
        ]

    def test_two_hosts_end_like_one(self):
        alone, together = self.new_run("alone"), self.new_run("together")
        job = self.start(alone, 1)
        self.assertEqual(job.codes(), [0], job.output())
        job = self.start(together, 2)
        shards = together.iteration(1).samples
        job.interrupt(1, signal.SIGKILL, lambda: any(shards.glob("*-of-*.parquet")))
        codes = job.codes()
        self.assertEqual(codes[1], -signal.SIGKILL, job.output())
        self.assertIn(codes[0], (0, EXIT_LATE_HOST), job.output())
        job = self.start(together, 2)
        self.assertEqual(job.codes(), [0, 0], job.output())
        expected = self.samples(alone)
        self.assertLen(expected, PROBLEMS * 4)
        self.assertEqual(self.samples(together), expected)
        verdicts = [verdict for *_, verdict in expected]
        self.assertContainsSubset({v.method for v in verdicts}, {"tests", "error", "none"})
        self.assertIn(2, {v.total for v in verdicts})
        reports = [storage.read_json(f.iteration(1).generation) for f in (alone, together)]
        self.assertEqual(reports[0]["sandbox"], reports[1]["sandbox"])
        self.assertEqual(reports[0]["mean_reward"], reports[1]["mean_reward"])


if __name__ == "__main__":
    absltest.main()

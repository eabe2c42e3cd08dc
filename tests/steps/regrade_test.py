"""Grading again, shard by shard, in a folder that a run may be writing."""

from concurrent import futures

from absl.testing import absltest
from etils import epath

from restem import records
from restem.records import Problem, Sample, Verdict
from restem.run import layout, reader
from restem.runtime import storage
from restem.steps.regrade import regrade

PROBLEMS = [Problem(f"p{i}", "train", "?", str(i)) for i in range(6)]


class Grader:
    """Takes every answer for right, after something has happened."""

    def __init__(self, happens=lambda: None):
        self._happens = happens

    def submit(self, problem, text):
        self._happens()
        self._happens = lambda: None
        done = futures.Future()
        done.set_result(Verdict(1.0, "again"))
        return done


class RegradeTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = layout.Workdir(epath.Path(self.create_tempdir().full_path)).iteration(1)

    def write(self, shard):
        samples = [
            Sample(p.problem_id, i, "text", (1,), -1.0, "eos", 0.0, Verdict(0.0))
            for p in PROBLEMS[2 * shard : 2 * shard + 2]
            for i in range(2)
        ]
        path = layout.shard_path(self.directory.samples, shard, 3)
        storage.write_table(path, records.samples_to_table(samples, (2 * shard, 2 * shard + 2)))

    def rewards(self):
        return [s.reward for s in reader.read_samples(self.directory)]

    def test_all_samples_of_a_finished_step(self):
        for shard in range(3):
            self.write(shard)
        before = {"mean_reward": 0.0, "correct": 0, "samples": 12}
        storage.write_json(self.directory.generation, before)
        changes = regrade(self.directory, PROBLEMS, Grader(), is_dry=True)
        self.assertEqual(changes.kinds, {"0 -> 1": 12})
        self.assertEqual(self.rewards(), [0.0] * 12)
        regrade(self.directory, PROBLEMS, Grader())
        self.assertEqual(self.rewards(), [1.0] * 12)
        report = storage.read_json(self.directory.generation)
        self.assertEqual(report, {"mean_reward": 1.0, "correct": 12, "samples": 12})
        rows = [
            records.problem_rows_of(storage.read_table(path).schema)
            for path in layout.shard_paths(self.directory.samples)
        ]
        self.assertEqual(rows, [(0, 2), (2, 4), (4, 6)])

    def test_what_an_interrupted_step_left_of_further_shards(self):
        self.write(0)
        self.write(1)
        whole = layout.shard_path(self.directory.samples, 1, 3)
        left = layout.unfinished_path(self.directory.samples, 0)
        storage.write_bytes(left, whole.read_bytes())
        whole.unlink()
        self.assertEqual(regrade(self.directory, PROBLEMS, Grader()).kinds, {"0 -> 1": 8})
        samples = records.samples_from_table(storage.read_table(left))
        self.assertEqual([s.reward for s in samples], [1.0] * 4)

    def test_an_interrupted_selection_begins_again(self):
        self.write(0)
        finished = layout.Workdir(self.directory.path.parent).iteration(2)
        for directory in (self.directory, finished):
            storage.write_bytes(layout.shard_path(directory.dataset, 0, 3), b"examples")
        storage.write_json(finished.selection, {})
        both = [self.directory, finished]
        regrade(self.directory, PROBLEMS, Grader(), read_by=both, is_dry=True)
        self.assertTrue(self.directory.dataset.exists())
        regrade(self.directory, PROBLEMS, Grader(), read_by=both)
        self.assertFalse(self.directory.dataset.exists())
        self.assertTrue(finished.dataset.exists())

    def test_a_step_that_ends_meanwhile_keeps_its_own_report(self):
        self.write(0)
        self.write(1)

        def run_ends():
            self.write(2)
            storage.write_json(self.directory.generation, {"mean_reward": 0.25, "samples": 12})

        changes = regrade(self.directory, PROBLEMS, Grader(run_ends))
        self.assertEqual(changes.kinds, {"0 -> 1": 8})
        self.assertEqual(self.rewards(), [1.0] * 8 + [0.0] * 4)
        self.assertEqual(storage.read_json(self.directory.generation)["mean_reward"], 0.25)


if __name__ == "__main__":
    absltest.main()

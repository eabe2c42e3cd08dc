"""The shards of an iteration, read one by one."""

from absl.testing import absltest
from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Example, Problem, Sample, TaskCard
from restem.run import layout, shards
from restem.run.problems import ProblemFile
from restem.runtime import storage
from tests.helpers import run_files

PROBLEMS = [Problem(f"p{i}", "train", f"{i}?") for i in range(6)]


def sample(problem_id):
    return Sample(problem_id, 0, "text", (1, 2), -1.0, "eos", 1.0)


class ShardsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path))
        self.directory = self.files.iteration(1)

    def test_the_problems_of_a_shard(self):
        run_files.write_problems(self.files, TaskCard("t"), PROBLEMS)
        stored = ProblemFile(self.files.problems("t")).split("train")
        samples = [sample("p4"), sample("p3")]
        for rows in (None, (2, 5), (3, 5)):
            for problems in (PROBLEMS, stored):
                self.assertEqual(shards.problems_of(samples, rows, problems), PROBLEMS[3:5])
        with self.assertRaisesRegex(UserError, "p3: a sample's problem is not in problems/"):
            shards.problems_of(samples, (4, 6), stored)

    def test_a_shard_says_where_its_problems_are(self):
        path = layout.shard_path(self.directory.samples, 0, 1)
        for rows in (None, (3, 9)):
            storage.write_table(path, records.samples_to_table([sample("a")], rows))
            self.assertEqual(shards.read(path), ([sample("a")], rows))
        self.assertEqual(shards.sampled(self.directory), [path])
        with self.assertRaisesRegex(UserError, "restem generate"):
            shards.sampled(self.files.iteration(2))
        layout.shard_path(self.files.iteration(3).samples, 1, 4).parent.mkdir(parents=True)
        layout.shard_path(self.files.iteration(3).samples, 1, 4).touch()
        with self.assertRaisesRegex(UserError, "1 of 4 shards"):
            shards.sampled(self.files.iteration(3))

    def test_examples_in_the_order_of_the_shards(self):
        with self.assertRaisesRegex(UserError, "restem select"):
            shards.StoredExamples(self.directory)
        examples = [Example(f"p{i}", 0, "q", "t", (i,), 0.5) for i in range(9)]
        for shard, part in enumerate((examples[:4], [], examples[4:])):
            path = layout.shard_path(self.directory.dataset, shard, 3)
            storage.write_table(path, records.examples_to_table(part))
        stored = shards.StoredExamples(self.directory)
        self.assertLen(stored, 9)
        self.assertTrue(stored)
        self.assertEqual(list(stored), examples)
        self.assertEqual(stored.shard(2), examples[4:])
        self.assertEqual(stored.some(9, seed=0), examples)
        found = {tuple(e.problem_id for e in stored.some(3, seed)) for seed in range(9)}
        parts = [tuple(e.problem_id for e in part) for part in (examples[:4], examples[4:])]
        self.assertEqual(found, set(parts))

    def test_no_examples(self):
        path = layout.shard_path(self.directory.dataset, 0, 1)
        storage.write_table(path, records.examples_to_table([]))
        self.assertFalse(shards.StoredExamples(self.directory))


if __name__ == "__main__":
    absltest.main()

"""When the samples of unfinished shards are saved, and which are found again."""

from unittest import mock

from absl.testing import absltest
from etils import epath

from restem.records import Problem, Sample, Verdict
from restem.rollout import unfinished
from restem.run import layout
from restem.runtime import storage


def sample(problem_id, index, **fields):
    verdict = Verdict(1.0, "string", "7", "7")
    return Sample(problem_id, index, "x", (1, 2), -0.5, "eos", 1.0, verdict=verdict, **fields)


class UnfinishedTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = epath.Path(self.create_tempdir().full_path) / "samples"
        self.path = layout.unfinished_path(self.folder, 0)
        self.now = 0.0
        self.unfinished = unfinished.Unfinished(self.folder, clock=lambda: self.now)

    def saved(self) -> int:
        return storage.num_rows(self.path) if self.path.exists() else 0

    def test_saved_once_a_minute_and_when_asked(self):
        shards = [[sample("a", 0)], [], [sample("b", 0), sample("b", 1)]]
        self.now = 59.0
        self.unfinished.save_if_due(shards)
        self.assertEqual(self.saved(), 0)
        self.now = 60.0
        self.unfinished.save_if_due(shards)
        self.assertEqual(self.saved(), 3)
        shards[1].append(sample("c", 0))
        self.now = 119.0
        self.unfinished.save_if_due(shards)
        self.assertEqual(self.saved(), 3)
        self.unfinished.save(shards)
        self.assertEqual(self.saved(), 4)
        self.unfinished.save([[], []])
        self.assertEqual(self.saved(), 4)

    def test_slow_saves_are_rare(self):
        def write_table(path, table):
            self.now += 30.0

        self.enter_context(mock.patch.object(storage, "write_table", write_table))
        self.unfinished.save([[sample("a", 0)]])
        self.assertEqual(self.now, 30.0)
        for now, saved in ((629.0, False), (630.0, True)):
            self.now = now
            self.unfinished.save_if_due([[sample("a", 0)]])
            self.assertEqual(self.now != now, saved)

    def test_what_was_left_is_found_with_its_verdict(self):
        kept = [sample("a", 1), sample("b", 2), sample("b", 3)]
        self.unfinished.save([kept])
        problems = [Problem("b", "train", "?"), Problem("c", "train", "?")]
        self.assertEqual(self.unfinished.left(problems, range(1, 3), "policy"), [kept[1]])
        self.assertEqual(self.unfinished.left(problems, range(1, 3), "chain"), [])
        layout.unfinished_path(self.folder, 3).write_bytes(self.path.read_bytes())
        self.assertEqual(self.unfinished.left(problems, range(4), "policy"), kept[1:])
        unfinished.remove(self.folder)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_nothing_was_left(self):
        self.assertEqual(self.unfinished.left([Problem("a", "train", "?")], range(3), "policy"), [])


if __name__ == "__main__":
    absltest.main()

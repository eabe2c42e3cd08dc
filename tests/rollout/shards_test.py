"""Steps sample in shards and windows, and neither changes what is sampled."""

import dataclasses
from unittest import mock

from absl.testing import absltest
from etils import epath

from restem.records import Problem, Sample, TaskCard
from restem.rollout import shards
from restem.rollout.rollout import Costs
from restem.run import layout, reader
from restem.run import shards as stored
from restem.run.problems import ProblemFile
from restem.runtime import storage
from tests.helpers import run_files, tiny

PROBLEMS = [Problem(f"p{i:02d}", "train", f"{i}?", str(i)) for i in range(23)]


@dataclasses.dataclass
class FakeRollout:
    """Samples the name of the problem and the index."""

    calls: list = dataclasses.field(default_factory=list)
    costs: Costs = dataclasses.field(default_factory=Costs)
    card: TaskCard = TaskCard("t", max_new_tokens=8)
    policy: object = dataclasses.field(
        default_factory=lambda: mock.Mock(vocabulary=tiny.vocabulary(), config=tiny.config())
    )
    max_new_tokens: int | None = None
    is_shared: bool = False

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)

    def sample(self, problems, num_samples, *, first_sample, source, what, shard_of):
        self.calls.append((what, [p.problem_id for p in problems]))
        assert [shard_of(p) for p in problems] == sorted(map(shard_of, problems))
        for i in range(first_sample, first_sample + num_samples):
            for p in reversed(problems):
                yield Sample(p.problem_id, i, f"{p.problem_id} {i}", (i,), -1.0, "eos", 1.0)
                self.costs.tokens += 1


class SampleShardsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        root = epath.Path(self.create_tempdir().full_path)
        self.folder = root / "samples"
        files = layout.Workdir(root)
        run_files.write_problems(files, TaskCard("t"), PROBLEMS)
        self.problems = ProblemFile(files.problems("t")).split("train")

    def sample(self, folder=None, **given):
        rollout = FakeRollout()
        given = {"problems": self.problems, "problems_per_shard": 4, **given}
        existed = shards.sample_shards(
            rollout, folder or self.folder, num_samples=3, what="s", **given
        )
        return rollout, existed

    def test_consecutive_problems_are_in_a_shard(self):
        rollout, existed = self.sample()
        self.assertEqual(existed, 0)
        self.assertEqual(rollout.costs.tokens, 23 * 3)
        self.assertLen(rollout.calls, 1)
        paths = layout.shard_paths(self.folder)
        self.assertLen(paths, 6)
        for i, path in enumerate(paths):
            samples, rows = stored.read(path)
            start = 4 * i
            self.assertEqual(rows, (start, min(start + 4, 23)))
            ids = [p.problem_id for p in PROBLEMS[start : start + 4] for _ in range(3)]
            self.assertEqual([s.problem_id for s in samples], ids)
            self.assertEqual([s.sample_index for s in samples], [0, 1, 2] * (len(ids) // 3))

    def test_windows_change_nothing(self):
        self.sample()
        whole = reader.read_shards(self.folder)

        def extend(rollout, problems, samples):
            self.assertLen(samples, 3 * len(problems))
            return [dataclasses.replace(s, sample_index=s.sample_index + 3) for s in samples]

        with mock.patch.object(shards, "MOST_SAMPLES", 24):
            windowed, _ = self.sample(self.folder / "windows")
            extended, _ = self.sample(self.folder / "extended", extend=extend)
        names = [what for what, _ in windowed.calls]
        self.assertEqual(names, [f"s, part {i} of 3" for i in (1, 2, 3)])
        self.assertEqual([len(ids) for _, ids in windowed.calls], [8, 8, 7])
        self.assertEqual(reader.read_shards(self.folder / "windows"), whole)
        self.assertEqual(extended.calls, windowed.calls)
        longer = reader.read_shards(self.folder / "extended")
        self.assertEqual([s for s in longer if s.sample_index < 3], whole)
        self.assertLen(longer, 2 * len(whole))

    def test_missing_shards_alone_are_sampled(self):
        self.sample()
        before = reader.read_shards(self.folder)
        for i in (1, 4):
            layout.shard_path(self.folder, i, 6).unlink()
        rollout, existed = self.sample()
        self.assertEqual(existed, 4)
        wanted = [p.problem_id for p in PROBLEMS[4:8] + PROBLEMS[16:20]]
        self.assertEqual(rollout.calls, [("s", wanted)])
        self.assertEqual(reader.read_shards(self.folder), before)
        rollout, existed = self.sample()
        self.assertEqual((rollout.calls, existed), ([], 6))

    def test_a_long_question_is_told_before_the_first_window(self):
        long = dataclasses.replace(PROBLEMS[20], inputs="x" * 600)
        problems = [*PROBLEMS[:20], long, *PROBLEMS[21:]]
        with (
            mock.patch.object(shards, "MOST_SAMPLES", 24),
            self.assertRaisesRegex(Exception, "problem p20 needs 608 tokens"),
        ):
            self.sample(problems=problems)
        self.assertFalse(self.folder.exists())

    def test_lists_of_problems_have_no_rows(self):
        self.sample(problems=PROBLEMS)
        table = storage.read_table(layout.shard_path(self.folder, 0, 6))
        self.assertLen(table, 12)
        self.assertIsNone(stored.read(layout.shard_path(self.folder, 0, 6))[1])

    def test_masks_of_missing_shards(self):
        division = layout.Shards(19, 1)
        for missing in ([], [0], [7, 8, 18], list(range(19))):
            self.assertEqual(shards._indices(shards._mask(missing, division)), missing)


if __name__ == "__main__":
    absltest.main()

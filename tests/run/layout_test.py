"""Where the files of a run are, and which policy an iteration ended with."""

from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.errors import UserError
from restem.run import layout, reader
from restem.runtime import storage
from restem.steps import history
from tests.helpers import run_files


class WorkdirTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path) / "run")

    def test_problems_are_read_with_their_card(self):
        card = records.TaskCard("t", prefix="P\n\n", grader={"kind": "none"})
        problem = records.Problem("p", "train", "q", "1")
        run_files.write_problems(self.files, card, [problem])
        self.assertEqual(reader.read_problems(self.files.problems("t")), (card, [problem]))

    def test_an_iteration_ends_with_its_best_policy_or_the_one_it_began_with(self):
        storage.write_json(self.files.identity, {"base": "hf:base"})
        self.assertEqual(reader.policy_reference(self.files, 0), "hf:base")
        one, two = self.files.iteration(1), self.files.iteration(2)
        storage.write_json(one.improvement, {"improved": True, "start": "hf:base"})
        self.assertEqual(reader.policy_reference(self.files, 1), f"orbax:{one.checkpoint}")
        storage.write_json(two.improvement, {"improved": False, "start": "hf:base"})
        self.assertEqual(reader.policy_reference(self.files, 2), "hf:base")
        self.assertEqual(reader.finished(self.files), [1, 2])
        with self.assertRaisesRegex(UserError, "restem improve"):
            reader.policy_reference(self.files, 3)

    def test_a_moved_folder_keeps_its_policies(self):
        one, two = self.files.iteration(1), self.files.iteration(2)
        storage.write_json(one.improvement, {"improved": True, "start": "hf:base"})
        history.finish(two, {"improved": False, "start": f"orbax:{one.checkpoint}"})
        moved = layout.Workdir(self.files.path.rename(self.files.path.parent / "moved"))
        self.assertEqual(
            reader.policy_reference(moved, 2), f"orbax:{moved.iteration(1).checkpoint}"
        )

    def test_policies_of_the_run(self):
        one, two = self.files.iteration(1), self.files.iteration(2)
        self.assertEqual(two.of_policy(f"orbax:{one.checkpoint}"), one)
        for other in ("hf:base", f"orbax:{self.files.path.parent}/other/iteration_001/checkpoint"):
            self.assertIsNone(two.of_policy(other))

    def test_copies_beside_the_files_do_not_count(self):
        for i in (0, 1, 1000):
            self.files.iteration(i).path.mkdir(parents=True)
        copies = ("iteration_001.old", "iteration_001_old", "iteration_1", "iteration_0001",
                  "iteration_002 (copy)", "iteration_٣٣٣", "iteration_")  # fmt: skip
        for name in copies:
            (self.files.path / name).mkdir()
        (self.files.path / "iteration_003").touch()
        self.assertEqual(self.files.iterations(), [0, 1, 1000])
        self.assertEqual(reader.finished(self.files), [])

        folder = self.files.iteration(1).samples
        names = ("00000-of-00001.parquet", "unfinished-00000.parquet")
        for name in names:
            storage.write_bytes(folder / name, b"")
            storage.write_bytes(folder / name.replace(".parquet", ".old.parquet"), b"")
            storage.write_bytes(folder / f"{name}.old", b"")
        self.assertEqual([p.name for p in layout.shard_paths(folder)], [names[0]])
        self.assertEqual([p.name for p in layout.unfinished_paths(folder)], [names[1]])

    def test_policies_of_others_never_share_a_folder(self):
        references = ["hf:/a/b", "hf:/a_b", "hf:_a_b", "orbax:/a/b", "hf:" + "x" * 120,
                      "hf:" + "y" + "x" * 119]  # fmt: skip
        folders = {self.files.evaluation_of(reference).name for reference in references}
        self.assertLen(folders, len(references))

    def test_what_training_leaves_is_discarded(self):
        directory = self.files.iteration(1)
        for path in (directory.training, directory.best, directory.checkpoint):
            storage.write_bytes(path / "x", b"")
        directory.discard_training()
        self.assertFalse(directory.training.exists() or directory.best.exists())
        self.assertTrue(directory.checkpoint.exists())


class ShardsTest(parameterized.TestCase):
    @parameterized.parameters((0, 4), (1, 4), (4, 4), (5, 4), (23, 4), (24, 4), (7, 1))
    def test_every_problem_is_in_one_shard(self, problems, per_shard):
        shards = layout.Shards(problems, per_shard)
        parts = [shards.positions(i) for i in range(len(shards))]
        self.assertEqual([i for part in parts for i in part], list(range(problems)))
        sizes = {len(part) for part in parts}
        self.assertLessEqual(max(sizes), per_shard)
        self.assertLessEqual(max(sizes) - min(sizes), 1)

    def test_missing_shards_and_the_order_of_many(self):
        folder = epath.Path(self.create_tempdir().full_path)
        shards = layout.Shards(100_002, 1)
        self.assertEmpty(layout.shard_paths(folder / "none"))
        for i in (99_999, 7, 100_000):
            shards.path(folder, i).touch()
        (folder / ".00008-of-100002.parquet.tmp").touch()
        self.assertEqual(
            [path.name[:6].rstrip("-") for path in layout.shard_paths(folder)],
            ["00007", "99999", "100000"],
        )
        missing = shards.missing(folder)
        self.assertLen(missing, 100_002 - 3)
        self.assertContainsSubset([0, 8, 100_001], missing)


if __name__ == "__main__":
    absltest.main()

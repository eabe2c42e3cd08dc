"""TFDS builders over a folder of files, and what they cache."""

import threading

from absl.testing import absltest, parameterized
from etils import epath

from restem.data import tfds_builders
from restem.errors import UserError


class Numbers(tfds_builders._FolderBuilder):
    """Numbers."""

    FIELDS = ("n", "note")
    OPTIONAL = ("note",)
    prepared = 0

    def _split_generators(self, dl_manager):
        type(self).prepared += 1
        return super()._split_generators(dl_manager)


class BuilderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = epath.Path(self.create_tempdir().full_path)
        self.cache = str(self.root / "cache")
        Numbers.prepared = 0

    def files(self, count, name="train.jsonl"):
        path = self.root / name
        path.write_text("".join(f'{{"n": {n}}}\n' for n in range(count)))
        return {"train": [path]}

    def read(self, files):
        return tfds_builders.read(Numbers, files, "train", cache_dir=self.cache)

    def test_prepared_once_and_read_in_order(self):
        rows = self.read(self.files(2500))
        self.assertEqual([row["n"] for row in rows], [str(n) for n in range(2500)])
        self.assertEqual(rows[2], {"n": "2", "note": "", "source": "train.jsonl:3"})
        self.assertEqual(self.read(self.files(2500)), rows)
        self.assertEqual(Numbers.prepared, 1)

    def test_other_contents_are_another_data_set(self):
        self.assertLen(self.read(self.files(3)), 3)
        self.assertLen(self.read(self.files(4)), 4)
        self.assertEqual(Numbers.prepared, 2)

    def test_two_may_prepare_at_once(self):
        files, results = self.files(50), []
        threads = [
            threading.Thread(target=lambda: results.append(self.read(files))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLen(results, 3)
        self.assertTrue(all(len(rows) == 50 for rows in results))
        self.assertEqual(Numbers.prepared, 1)

    def test_a_bad_record_is_named_and_leaves_nothing_behind(self):
        path = self.root / "train.jsonl"
        path.write_text('{"n": 1}\n{"m": 2}\n')
        with self.assertRaisesRegex(UserError, "train.jsonl, line 2: no field 'n'"):
            self.read({"train": [path]})
        self.assertLen(self.read(self.files(2)), 2)


if __name__ == "__main__":
    absltest.main()

"""A file appears whole or not at all."""

import json

import pyarrow as pa
from absl.testing import absltest
from etils import epath

from restem import records
from restem.errors import UserError
from restem.run import layout
from restem.runtime import storage
from tests.helpers import run_files


class WorkdirTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.path = epath.Path(self.create_tempdir().full_path) / "run"
        self.files = layout.Workdir(self.path)

    def test_a_failed_write_leaves_the_old_file(self):
        path = self.path / "x.json"
        storage.write_json(path, {"a": 1})
        with self.assertRaises(TypeError):
            storage.write_json(path, {"a": object()})
        self.assertEqual(storage.read_json(path), {"a": 1})
        self.assertEqual([p.name for p in self.path.iterdir()], ["x.json"])

    def test_missing_and_broken_files_name_themselves(self):
        with self.assertRaisesRegex(UserError, "nothing.json"):
            storage.read_json(self.path / "nothing.json")
        storage.write_bytes(self.path / "bad.json", b"{")
        with self.assertRaisesRegex(UserError, "bad.json"):
            storage.read_json(self.path / "bad.json")
        storage.write_bytes(self.path / "bad.parquet", b"PAR1")
        with self.assertRaisesRegex(UserError, "bad.parquet"):
            storage.read_table(self.path / "bad.parquet")

    def test_records_survive_parquet(self):
        card = records.TaskCard("t", prefix="P\n\n", stop=("Problem:",), grader={"kind": "none"})
        problem = records.Problem("p", "train", "q", "1", None, ("s",), {"level": 3})
        run_files.write_problems(self.files, card, [problem])
        self.assertEqual(self.files.read_problems("t"), (card, [problem]))
        verdict = records.Verdict(0.25, "tests", "x", None, "failed test 3")
        sample = records.Sample("p", 0, "text \u2028 é", (1, 2), -0.5, "stop", 0.25, verdict)
        raw = records.Sample("p", 1, "", (), 0.0, "length")
        table = records.samples_to_table([sample, raw])
        self.assertEqual(records.samples_from_table(table), [sample, raw])
        example = records.Example("p", 0, "q", "t", (5,), 0.125)
        table = records.examples_to_table([example])
        self.assertEqual(records.examples_from_table(table), [example])
        self.assertEqual(table.schema.field("weight").type, pa.float32())

    def test_a_table_of_others_is_refused(self):
        path = self.files.problems("t")
        storage.write_table(path, pa.table({"x": [1]}))
        with self.assertRaisesRegex(ValueError, "no task card"):
            self.files.read_problems("t")

    def test_stable_key_is_stable(self):
        self.assertEqual(records.stable_key(0, "generate", 1), 2066379480)
        self.assertNotEqual(records.stable_key("a", "b"), records.stable_key("ab"))

    def test_json_is_plain(self):
        path = self.path / "x.json"
        storage.write_json(path, {"b": 1, "a": [1.5]})
        self.assertEqual(json.loads(path.read_text()), {"a": [1.5], "b": 1})


if __name__ == "__main__":
    absltest.main()

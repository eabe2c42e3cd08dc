"""A file appears whole or not at all."""

import json
import os
import subprocess
import sys

import pyarrow as pa
from absl.testing import absltest
from etils import epath

from restem.errors import UserError
from restem.runtime import storage


class StorageTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.path = epath.Path(self.create_tempdir().full_path) / "run"

    def test_a_failed_write_leaves_the_old_file(self):
        path = self.path / "x.json"
        storage.write_json(path, {"a": 1})
        with self.assertRaises(TypeError):
            storage.write_json(path, {"a": object()})
        self.assertEqual(storage.read_json(path), {"a": 1})
        self.assertEqual([p.name for p in self.path.iterdir()], ["x.json"])

    def test_a_file_is_replaced_and_never_written_in_place(self):
        path, old = self.path / "x.json", self.path / "old"
        storage.write_json(path, {"a": 1})
        os.link(path, old)  # a reader that opened the file before it was replaced
        storage.write_json(path, {"a": 2})
        self.assertEqual((storage.read_json(old), storage.read_json(path)), ({"a": 1}, {"a": 2}))

    def test_missing_and_broken_files_name_themselves(self):
        with self.assertRaisesRegex(UserError, "nothing.json"):
            storage.read_json(self.path / "nothing.json")
        with self.assertRaisesRegex(UserError, "nothing.parquet"):
            storage.read_table(self.path / "nothing.parquet")
        storage.write_bytes(self.path / "bad.json", b"{")
        with self.assertRaisesRegex(UserError, "bad.json"):
            storage.read_json(self.path / "bad.json")
        storage.write_bytes(self.path / "bad.parquet", b"PAR1")
        with self.assertRaisesRegex(UserError, "bad.parquet"):
            storage.read_table(self.path / "bad.parquet")

    def test_json_is_plain(self):
        path = self.path / "x.json"
        storage.write_json(path, {"b": 1, "a": [1.5]})
        self.assertEqual(json.loads(path.read_text()), {"a": [1.5], "b": 1})

    def test_folders_are_copied_whole(self):
        storage.write_bytes(self.path / "from" / "a" / "x", b"1")
        storage.write_bytes(self.path / "from" / "y", b"2")
        storage.write_bytes(self.path / "to" / "y", b"half")
        storage.copy_folder(self.path / "from", self.path / "to")
        self.assertEqual((self.path / "to" / "a" / "x").read_bytes(), b"1")
        self.assertEqual((self.path / "to" / "y").read_bytes(), b"2")

    def test_tables_survive(self):
        table = pa.table({"x": [1, 2]})
        storage.write_table(self.path / "t.parquet", table)
        self.assertEqual(storage.read_table(self.path / "t.parquet"), table)


PROGRAM = """
import os, sys
import pyarrow as pa
from etils import epath
from restem.runtime import storage

path = epath.Path(sys.argv[1]) / "t.parquet"
storage.write_table(path, pa.table({"x": list(range(1000)), "y": [{"a": "b"}] * 1000}))
before = set(os.listdir("/proc/self/task"))
assert storage.read_table(path).num_rows == 1000
print(len(set(os.listdir("/proc/self/task")) - before))
"""


class ThreadsTest(absltest.TestCase):
    def test_no_thread_is_left_to_abort_the_process_at_its_end(self):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, self.create_tempdir().full_path],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.assertEqual(done.stdout.strip(), "0")


if __name__ == "__main__":
    absltest.main()

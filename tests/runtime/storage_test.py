"""A file appears whole or not at all."""

import errno
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import pyarrow as pa
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.errors import UserError
from restem.runtime import storage


class StorageTest(parameterized.TestCase):
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

    @parameterized.parameters(
        (b"", "not JSON"), (b"{", "not JSON"), (b"\xff\xfe{}", "not JSON"), (bytes(40), "not JSON"),
        (b"[]", "holds no JSON object but a list"), (b"null", "no JSON object but a NoneType"),
        (b"3", "no JSON object"), (b"[" * 100_000, "not JSON"), (b'{"b": 1}', "lacks a"),
    )  # fmt: skip
    def test_a_damaged_object_names_the_remedy(self, data, message):
        path = self.path / "x.json"
        storage.write_bytes(path, data)
        with self.assertRaisesRegex(UserError, f"x.json: .*{message}.* --repair removes it"):
            storage.read_json(path, "a")

    def test_damaged_bytes_of_a_table_are_noticed(self):
        path = self.path / "t.parquet"
        rows = [{"x": f"row {i}", "y": {"a": [i]}} for i in range(50)]
        storage.write_table(path, pa.Table.from_pylist(rows))
        data = path.read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        noticed = 0
        for position in range(0, len(data), 3):
            path.write_bytes(data[:position] + bytes([data[position] ^ 64]) + data[position + 1 :])
            try:
                found = storage.read_table(path).to_pylist()
            except UserError as error:
                self.assertRegex(str(error), r"t\.parquet: not a Parquet file .* --repair")
                noticed += 1
            else:
                # The footer has no checksum: names and statistics may be others.
                self.assertTrue(position >= footer or found == rows, position)
        self.assertGreater(noticed, len(data) // 9)

    def test_a_table_of_other_columns_names_itself(self):
        path = self.path / "t.parquet"
        storage.write_table(path, pa.table({"x": [1, 2]}))
        for read in (records.samples_from_table, records.examples_from_table,
                     records.problems_from_table):  # fmt: skip
            with self.assertRaisesRegex(UserError, "t.parquet: not a table of this kind"):
                storage.read_records(path, read)

    def test_a_file_is_on_disk_before_it_has_its_name(self):
        order = []
        path = self.path / "x.json"
        self.path.mkdir()
        names = {}

        def fsync(descriptor):
            names[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
            order.append((pathlib.Path(names[descriptor]).name, path.exists()))

        with mock.patch.object(os, "fsync", fsync):
            storage.write_json(path, {})
        (first, had_name), *_, (last, _) = order
        self.assertRegex(first, r"^\.x\.json\..*\.tmp$")
        self.assertFalse(had_name)
        self.assertEqual(last, "run")  # the folder, which holds the name

    def test_a_write_that_fails_leaves_nothing(self):
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(os, "fsync", side_effect=full), self.assertRaises(OSError):
            storage.write_json(self.path / "x.json", {})
        self.assertEmpty(list(self.path.iterdir()))

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

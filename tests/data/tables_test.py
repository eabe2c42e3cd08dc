"""Records of data files and their places."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized
from etils import epath

from restem.data import tables
from restem.errors import UserError
from tests.helpers.data_folders import DataFolderTest

ROWS = [
    {"question": "a, b\nand c?", "answer": "1"},
    {"question": 'with "quotes"', "answer": None},
    {"question": "d\u2028e", "answer": "3"},
]
CSV = '\ufeffquestion,answer\r\n"a, b\nand c?",1\r\n"with ""quotes""",\r\n\r\nd\u2028e,3\r\n'


class TablesTest(DataFolderTest):
    def read(self, path):
        return list(tables.read(epath.Path(path)))

    def save(self, name, content):
        path = self.root / name
        path.write_bytes(content)
        return path

    def all_formats(self):
        table = pa.Table.from_pylist(ROWS)
        pq.write_table(table, self.root / "a.parquet", row_group_size=2)
        with (
            pa.OSFile(str(self.root / "a.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table, max_chunksize=2)
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        self.save("a.jsonl", lines.encode())
        self.save("a.jsonl.gz", gzip.compress(lines.encode()))
        self.save("lines.json", lines.encode())
        self.save("list.json", json.dumps(ROWS, indent=1).encode())
        self.save("a.csv", CSV.encode())
        self.save("a.csv.gz", gzip.compress(CSV.encode()))
        return {
            "a.parquet": ("row", [1, 2, 3]),
            "a.arrow": ("row", [1, 2, 3]),
            "a.jsonl": ("line", [1, 2, 3]),
            "a.jsonl.gz": ("line", [1, 2, 3]),
            "lines.json": ("line", [1, 2, 3]),
            "list.json": ("row", [1, 2, 3]),
            "a.csv": ("line", [2, 4, 6]),  # the first record has two lines, and line 5 is empty
            "a.csv.gz": ("line", [2, 4, 6]),
        }

    def test_every_format_gives_the_same_records(self):
        for name, (unit, numbers) in self.all_formats().items():
            with self.subTest(name):
                places = self.read(self.root / name)
                self.assertEqual([dict(place.record) for place in places], ROWS)
                self.assertEqual({place.unit for place in places}, {unit})
                self.assertEqual([place.number for place in places], numbers)
        self.assertEqual(str(places[1]), f"{self.root}/a.csv.gz, line 4")

    @parameterized.parameters(
        ("a.csv", b"q,a\n1,2\n1,2,3\n", "line 3: 3 cells for 2 columns"),
        ("a.csv", b'q,a\n1,2\n"open,2\n', "line 3: not CSV .*unexpected end"),
        ("a.csv", b'q,a\n1,"2"x\n', "line 2: not CSV"),
        ("a.csv", b"q,q\n", "line 1: two columns have the same name"),
        ("a.csv", b"q,a\n\xe9,1\n", "line 2: not UTF-8"),
        ("a.csv.gz", gzip.compress(b"q,a\n1,2\n")[:-9], r"line \d: cannot be read"),
        ("a.json", b'[{"q": 1}, 2]', "row 2: expected a JSON object, found int"),
        ("a.json", b'[{"q": 1},\n oops]', "line 2: not JSON"),
        ("a.parquet", b"PAR1 no parquet PAR1", "after row 0: not readable as Parquet"),
        ("a.arrow", b"no arrow", "after row 0: not readable as Arrow"),
        ("a.arrow", b"", "after row 0: not readable as Arrow"),
    )
    def test_a_damaged_file_is_named_in_one_line(self, name, content, message):
        path = self.save(name, content)
        with self.assertRaisesRegex(UserError, f"{name}, {message}|{name}: {message}") as caught:
            self.read(path)
        self.assertNotIn("\n", str(caught.exception))

    def test_a_damaged_page_of_a_parquet_file_is_named(self):
        rows = [{"question": f"{i} and some text" * 20} for i in range(4000)]
        path = self.root / "big.parquet"
        pq.write_table(
            pa.Table.from_pylist(rows), path, row_group_size=1000, compression="snappy",
            use_dictionary=False,
        )  # fmt: skip
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 400] = b"\xff" * 400
        path.write_bytes(content)
        with self.assertRaisesRegex(UserError, r"big.parquet, after row \d+: not readable"):
            self.read(path)

    @parameterized.parameters("a.csv", "a.parquet", "a.arrow", "a.jsonl")
    def test_a_missing_file_is_named(self, name):
        with self.assertRaisesRegex(UserError, f"{name}: no such file"):
            self.read(self.root / name)


if __name__ == "__main__":
    absltest.main()

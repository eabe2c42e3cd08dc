"""The data folder, and reading its files."""

import gzip
import json
import os

import gin
from absl.testing import absltest, parameterized
from etils import epath

from restem.data import folder
from restem.errors import UserError
from tests.helpers.data_folders import DataFolderTest

LAYOUT = folder.Layout("two files", {"train": ("set/train.jsonl*",), "test": ("set/test.jsonl*",)})


class FolderTest(DataFolderTest):
    def find(self, argument=None):
        return folder.find(argument, task="toy", layouts=[LAYOUT], source="https://example.org")

    def test_argument_then_gin_then_environment(self):
        self.assertIsNone(folder.data_dir())
        os.environ[folder.ENVIRONMENT] = "/from/environment"
        self.assertEqual(folder.data_dir(), "/from/environment")
        gin.parse_config("DATA_DIR = None")
        self.assertEqual(folder.data_dir(), "/from/environment")
        gin.parse_config("DATA_DIR = '/from/gin'")
        self.assertEqual(folder.data_dir(), "/from/gin")
        self.assertEqual(folder.data_dir("/from/argument"), "/from/argument")

    def test_absence_names_file_folder_and_source(self):
        with self.assertRaisesRegex(
            UserError, r"toy.*set/train\.jsonl.*https://example\.org.*DATA_DIR=FOLDER"
        ):
            self.find()
        with self.assertRaisesRegex(UserError, "/no/such/place does not exist"):
            self.find("/no/such/place")
        with self.assertRaisesRegex(UserError, rf"set/test\.jsonl.*{self.root}.*example\.org"):
            self.find(str(self.root))

    def test_finds_what_is_there_and_asks_for_the_split_that_is_not(self):
        path = self.write("set/test.jsonl", "{}")
        layout, files = self.find(str(self.root))
        self.assertEqual({k: [str(f) for f in v] for k, v in files.items()}, {"test": [str(path)]})
        with self.assertRaisesRegex(UserError, r"no train files; looked for set/train"):
            folder.require_split(files, "train", task="toy", layout=layout)

    def test_reads_plain_and_gzipped_lines_whatever_stands_in_them(self):
        records = [{"a": "line\u2028separator"}, {"a": "caf\u00e9\n"}]
        text = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records)
        plain = self.write("plain.jsonl", text)
        packed = self.root / "packed.jsonl.gz"
        packed.write_bytes(gzip.compress(text.encode()))
        for path in (plain, packed):
            found = list(folder.read_jsonl(epath.Path(path), required=("a",)))
            self.assertEqual(found, [(1, records[0]), (3, records[1])])

    @parameterized.parameters(
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ('{"a": 1}\n[1]', "line 2: expected a JSON object, found list"),
        ('{"b": 1}', "line 1: no field 'a'; it has 'b'"),
        ('{"a": null}', "line 1: no field 'a'"),
    )
    def test_bad_lines_are_named(self, text, message):
        path = self.write("bad.jsonl", text)
        with self.assertRaisesRegex(UserError, f"bad.jsonl, {message}"):
            list(folder.read_jsonl(epath.Path(path), required=("a",)))

    def test_bad_files_are_named(self):
        truncated = self.root / "cut.jsonl.gz"
        truncated.write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-12])
        with self.assertRaisesRegex(UserError, r"cut.jsonl.gz, line \d+: cannot be read"):
            list(folder.read_jsonl(epath.Path(truncated)))
        latin = self.root / "latin.jsonl"
        latin.write_bytes(b'{"a": "\xe9"}')
        with self.assertRaisesRegex(UserError, "latin.jsonl, line 1: not UTF-8"):
            list(folder.read_jsonl(epath.Path(latin)))
        with self.assertRaisesRegex(UserError, "none.jsonl: no such file"):
            list(folder.read_jsonl(self.root / "none.jsonl"))

    def test_checksum_depends_on_names_and_contents_only(self):
        def checksum(base, **contents):
            for name, text in contents.items():
                self.write(f"{base}/set/{name}", text)
            return folder.checksum(epath.Path(self.root / base / "set" / n) for n in contents)

        first = checksum("one", a="x", b="y")
        self.assertEqual(checksum("two", a="x", b="y"), first)
        self.assertNotEqual(checksum("three", a="x", b="z"), first)
        self.assertNotEqual(checksum("four", a="x\n", c="y"), first)


if __name__ == "__main__":
    absltest.main()

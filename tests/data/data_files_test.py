"""Which files hold each split: of folders, of patterns, and of the Hub's cache."""

from unittest import mock

import huggingface_hub
from absl.testing import absltest, parameterized
from huggingface_hub import constants, errors

from restem.data import data_files
from restem.errors import UserError
from tests.helpers.data_folders import DataFolderTest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FolderTest(DataFolderTest):
    def find(self, *files, patterns=None, path=None):
        for file in files:
            self.write(file, "{}")
        path = path or str(self.root)
        found = data_files.find(path, patterns, setting="toy/file_task")
        return {
            split: [str(f.relative_to(self.root)) for f in members]
            for split, members in found.items()
        }

    @parameterized.parameters(
        (("train.csv", "test.csv"), {"train": ["train.csv"], "test": ["test.csv"]}),
        (("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
          "data/validation-00000-of-00001.parquet"),
         {"train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
          "validation": ["data/validation-00000-of-00001.parquet"]}),
        (("train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow",
          "dataset_dict.json", "train/state.json", "test/dataset_info.json",
          "train/cache-12ab.arrow"),
         {"train": ["train/data-00000-of-00001.arrow"],
          "test": ["test/data-00000-of-00001.arrow"]}),
        (("toy_dev.jsonl", "toy_training.jsonl", "README.md"),
         {"train": ["toy_training.jsonl"], "validation": ["toy_dev.jsonl"]}),
        (("data-00000-of-00001.arrow", "state.json"), {"train": ["data-00000-of-00001.arrow"]}),
        (("constraints.jsonl", "contest.jsonl"), {"train": ["constraints.jsonl", "contest.jsonl"]}),
    )  # fmt: skip
    def test_splits_are_recognised(self, files, expected):
        self.assertEqual(self.find(*files), expected)

    def test_patterns_choose_files(self):
        files = ("main/a.jsonl", "main/b.jsonl", "other/b.jsonl")
        patterns = {"train": "main/a*", "test": "*/b.jsonl"}
        self.assertEqual(
            self.find(*files, patterns=patterns),
            {"train": ["main/a.jsonl"], "test": ["main/b.jsonl", "other/b.jsonl"]},
        )

    def test_a_file_is_the_train_split(self):
        path = self.write("any.txt", "{}")
        self.assertEqual(self.find(path=str(path)), {"train": ["any.txt"]})

    def test_what_is_ambiguous_or_absent_is_refused(self):
        with self.assertRaisesRegex(UserError, "has no data files"):
            self.find("README.md")
        with self.assertRaisesRegex(UserError, r"train files in several folders \(main, other\)"):
            self.find("main/train.csv", "other/train.csv")
        with self.assertRaisesRegex(UserError, "no file matches 'x/[*]'"):
            self.find(patterns={"test": "x/*"})
        with self.assertRaisesRegex(UserError, "files: '[*][*]/a': use [*] for each folder"):
            self.find(patterns={"test": "**/a"})
        with self.assertRaisesRegex(UserError, "files: no split 'dev'"):
            self.find(patterns={"dev": "*"})
        with self.assertRaisesRegex(UserError, "/nowhere: no such file or folder"):
            self.find(path="/nowhere")
        with self.assertRaisesRegex(UserError, "is a file; name its folder"):
            self.find(path=str(self.write("a.csv", "q")), patterns={"test": "*"})


class HubTest(DataFolderTest):
    """Against a cache in the Hub's own layout, and a Hub that cannot be reached."""

    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(constants, "HF_HUB_CACHE", str(self.root)))
        self.enter_context(mock.patch.object(constants, "HF_HUB_OFFLINE", True))
        home = f"datasets--org--toy/snapshots/{COMMIT}"
        for folder in ("main", "socratic"):
            self.write(f"{home}/{folder}/train-00000-of-00001.jsonl", {"q": folder})
        self.write("datasets--org--toy/refs/main", COMMIT)

    @parameterized.parameters("hf:org/toy/main", f"hf:org/toy@{COMMIT}/main/")
    def test_the_cache_is_read(self, reference):
        found = data_files.find(reference, None, setting="toy/file_task")
        (file,) = found["train"]
        self.assertIn('"main"', file.read_text())

    def test_configurations_are_named(self):
        with self.assertRaisesRegex(UserError, r"several folders \(main, socratic\)"):
            data_files.find("hf:org/toy", None, setting="toy/file_task")

    def test_what_is_not_there_is_one_line(self):
        with self.assertRaisesRegex(
            UserError, "hf:org/other: not in the cache .* cannot be reached.*hf download"
        ) as caught:
            data_files.find("hf:org/other", None, setting="toy/file_task")
        self.assertNotIn("\n", str(caught.exception))
        with self.assertRaisesRegex(UserError, "hf:toy: a data set is named hf:ORG/NAME"):
            data_files.find("hf:toy", None, setting="toy/file_task")

    @parameterized.parameters(
        errors.RepositoryNotFoundError, errors.HfHubHTTPError,
        ConnectionError,
    )  # fmt: skip
    def test_the_hubs_refusals_are_one_line(self, kind):
        error = kind.__new__(kind)  # their constructors need a response of the server
        Exception.__init__(error, "401 Client Error.\n\nRepository Not Found")
        self.enter_context(
            mock.patch.object(huggingface_hub, "snapshot_download", side_effect=error)
        )
        with self.assertRaisesRegex(UserError, "hf:org/toy: .*401 Client Error. Repo") as caught:
            data_files.find("hf:org/toy", None, setting="toy/file_task")
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()

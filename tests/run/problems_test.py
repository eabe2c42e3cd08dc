"""Problems are read by range, and each range equals that part of the whole."""

from unittest import mock

import numpy as np
from absl.testing import absltest
from etils import epath

from restem import records
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.run.problems import ProblemFile, at
from restem.runtime import storage

CARD = TaskCard("t", prefix="P", stop=("\n",))
PROBLEMS = [
    Problem(f"p{i}", "test" if i % 5 == 4 else "train", f"{i}?", str(i), None, (f"s{i}",), {"n": i})
    for i in range(23)
]
TRAIN = [p for p in PROBLEMS if p.split == "train"]


class ProblemFileTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.path = epath.Path(self.create_tempdir().full_path) / "t.parquet"
        table = records.problems_to_table(PROBLEMS, CARD)
        storage.write_table(self.path, table, rows_per_group=4)
        self.train = ProblemFile(self.path).split("train")

    def test_splits_and_their_parts(self):
        file = ProblemFile(self.path)
        self.assertEqual(file.card, CARD)
        self.assertEqual(list(file.split("train")), TRAIN)
        self.assertEqual(list(file.split("test")), [p for p in PROBLEMS if p.split == "test"])
        self.assertEmpty(file.split("validation"))
        self.assertLen(self.train, len(TRAIN))
        for start in range(len(TRAIN)):
            self.assertEqual(self.train[start], TRAIN[start])
            for stop in (start, start + 1, start + 7, len(TRAIN)):
                self.assertEqual(self.train[start:stop], TRAIN[start:stop])

    def test_chosen_positions(self):
        chosen = [0, 3, 4, 11, 17]
        self.assertEqual(list(self.train.at(chosen)), [TRAIN[i] for i in chosen])
        self.assertEqual(at(TRAIN, chosen), [TRAIN[i] for i in chosen])
        self.assertEqual(list(self.train.at(chosen).at([1, 3])), [TRAIN[3], TRAIN[11]])

    def test_the_rows_of_consecutive_problems_lead_back_to_them(self):
        part = self.train.at(range(0, len(TRAIN), 2))
        rows = part.span(range(2, 5))
        inside = list(self.train.within(rows))
        for problem in part[2:5]:
            self.assertIn(problem, inside)
        self.assertEqual(list(part.within(rows)), part[2:5])
        self.assertEmpty(self.train.within(part.span(range(2, 2))))

    def test_problems_are_found_by_id(self):
        found = list(ProblemFile(self.path).find({"p4", "p19", "other"}))
        self.assertEqual(found, [PROBLEMS[4], PROBLEMS[19]])

    def test_a_range_reads_the_row_groups_that_hold_it(self):
        reads = []
        group = ProblemFile._group
        with mock.patch.object(ProblemFile, "_group", lambda f, g: reads.append(g) or group(f, g)):
            self.train[2:5]
        self.assertEqual(reads, [0, 1])
        self.assertIsInstance(self.train.rows, np.ndarray)

    def test_another_file_is_refused(self):
        storage.write_bytes(self.path, b"no table")
        with self.assertRaisesRegex(UserError, "t.parquet: not a Parquet file"):
            ProblemFile(self.path)
        storage.write_table(self.path, records.samples_to_table([]))
        with self.assertRaisesRegex(UserError, "no task card"):
            ProblemFile(self.path)
        with self.assertRaisesRegex(UserError, "no such file"):
            ProblemFile(self.path.parent / "none.parquet")


if __name__ == "__main__":
    absltest.main()

"""Paired comparisons of two policies."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.cli.main import main
from restem.errors import UserError
from restem.evaluation import breakdown, comparisons, paired_tests
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.run import layout
from restem.runtime import storage
from tests.helpers import run_files


def answers(greedy: str, sampled: tuple[str, ...] = ()) -> list[Sample]:
    """Samples of problems 0, 1, ...: "1" is right, "0" is wrong."""
    rows = [greedy, *sampled]
    return [
        Sample(str(p), i, "", (), 0.0, "eos", float(mark))
        for i, row in enumerate(rows)
        for p, mark in enumerate(row)
    ]


class ComparisonTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = epath.Path(self.create_tempdir().full_path)

    def write(self, name, samples) -> str:
        path = self.folder / f"{name}.parquet"
        storage.write_table(path, records.samples_to_table(samples))
        return str(path)

    def test_greedy_answers_by_mcnemar(self):
        first = self.write("a", answers("1110000000"))
        second = self.write("b", list(reversed(answers("0111111100"))))
        found = comparisons.compare_files(first, second)
        self.assertEqual(list(found), ["greedy"])
        test = found["greedy"]
        self.assertEqual((test.only_a, test.only_b, test.n), (1, 5, 10))
        self.assertEqual(test.p_value, paired_tests.mcnemar(1, 5))
        self.assertAlmostEqual(test.p_value, 2 * (1 + 6) / 2**6)
        self.assertAlmostEqual(test.difference, 0.4)

    def test_samples_by_sign_flips(self):
        before = answers("000", ("100", "000"))
        after = answers("111", ("111", "110"))
        found = comparisons.compare(*[self.rewards(s) for s in (before, after)])
        test = found["sampled"]
        # Rates 1/2, 0, 0 against 1, 1, 1/2: of the 8 sign patterns two are as extreme.
        self.assertAlmostEqual(test.difference, 2 / 3)
        self.assertAlmostEqual(test.p_value, 2 / 8)
        self.assertEqual(test.method, "sign-flip")
        self.assertEqual(found["greedy"].only_b, 3)

    def rewards(self, samples):
        return comparisons.Answers(
            np.array([s.problem_id for s in samples], object),
            np.array([s.sample_index == 0 for s in samples]),
            np.array([s.correct for s in samples], np.float32),
        )

    def test_only_problems_that_both_answered_count(self):
        first, second = answers("11"), answers("0000")
        found = comparisons.compare(self.rewards(first), self.rewards(second))
        self.assertEqual((found["greedy"].n, found["greedy"].only_a), (2, 2))

    def test_several_outputs_of_a_scored_file_are_samples(self):
        outputs = lambda *rows: [
            dataclasses.replace(s, source="completions") for s in answers(rows[0], rows[1:])
        ]
        first = self.write("a", outputs("100", "100"))
        second = self.write("b", outputs("011", "111"))
        (test,) = comparisons.compare_files(first, second).values()
        # Rates 1, 0, 0 against 1/2, 1, 1.
        self.assertEqual((test.method, test.n, test.only_a, test.only_b), ("sign-flip", 3, 1, 2))
        self.assertAlmostEqual(test.difference, 1.5 / 3)
        lines = breakdown.lines(first, second, ["truncated"])
        self.assertEqual(lines[0], "samples that are truncated:")
        self.assertStartsWith(lines[2], "  B      0 of 6, 0 of them correct; of the others, 5")
        single = self.write("c", outputs("110"))
        found = comparisons.compare_files(self.write("d", answers("001")), single)
        self.assertEqual((list(found), found["greedy"].only_a), (["greedy"], 1))
        self.assertLen(breakdown.lines(single, single, ["truncated"]), 5)
        with self.assertRaisesRegex(UserError, "of the same kind .a single one, or several"):
            comparisons.compare_files(first, single)
        self.assertEmpty(breakdown.lines(first, single, ["truncated"]))

    def test_by_the_command_line(self):
        first, second = self.write("a", answers("10")), self.write("b", answers("11"))
        self.assertEqual(main(["compare", first, second]), 0)
        lines = comparisons.sentences(comparisons.compare_files(first, second), first, second)
        self.assertIn("+50.0 points", lines[2])
        self.assertIn("exact McNemar", lines[2])
        self.assertEqual(main(["compare", first, f"{self.folder}/none"]), 2)

    def test_answers_without_a_grade_are_refused(self):
        ungraded = Verdict(0.0, "ungraded")
        samples = [dataclasses.replace(s, verdict=ungraded) for s in answers("00")]
        first = self.write("a", samples)
        for pair in ((first, first), (self.write("b", answers("11")), first)):
            with self.assertRaisesRegex(UserError, "a.parquet: these answers are not graded"):
                comparisons.compare_files(*pair)
        self.assertEqual(main(["compare", first, first]), 2)

    def test_other_problems_under_the_same_ids_are_refused(self):
        folders = [self.folder / name for name in ("a", "b")]
        for folder, golds in zip(folders, ("1234", "1235"), strict=True):
            files = layout.Workdir(folder)
            problems = [Problem(str(i), "test", f"q{i}", gold) for i, gold in enumerate(golds)]
            run_files.write_problems(files, TaskCard("t"), problems)
            table = records.samples_to_table(answers("1110"))
            storage.write_table(files.iteration(0).answers("t"), table)
        paths = [str(layout.Workdir(f).iteration(0).answers("t")) for f in folders]
        with self.assertRaisesRegex(UserError, "1 of 4 problems have the same id, such as '3'"):
            comparisons.compare_files(*paths)
        comparisons.compare_files(paths[0], paths[0])

    def test_files_that_cannot_be_compared(self):
        first = self.write("a", answers("10"))
        other = self.folder / "examples.parquet"
        storage.write_table(other, records.examples_to_table([]))
        with self.assertRaisesRegex(UserError, "not a table of answers"):
            comparisons.compare_files(first, str(other))
        empty = self.write("empty", [])
        with self.assertRaisesRegex(UserError, "share no problem"):
            comparisons.compare_files(first, empty)


if __name__ == "__main__":
    absltest.main()

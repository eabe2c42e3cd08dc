"""Counts of answers that share a trait."""

from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.cli.main import main
from restem.errors import UserError
from restem.evaluation import breakdown
from restem.records import Sample, Verdict
from restem.runtime import storage


def answer(problem, text, correct=False, finish="eos", method="string", index=0) -> Sample:
    extracted = None if method == records.NO_ANSWER_METHOD else text
    verdict = Verdict(float(correct), method, extracted)
    return Sample(str(problem), index, text, (), 0.0, finish, verdict.reward, verdict)


A = [
    answer(0, "import os\nf", True),
    answer(1, "from os import x"),
    answer(2, "f = 1  # import", True),
    answer(3, "f", finish="length"),
    answer(4, "\nimport re", method=records.NO_ANSWER_METHOD),
    answer(0, "f", index=1),
    answer(8, "import re", True),
    answer(9, "import only_a", True),
]
B = [
    answer(4, "f", True),
    answer(3, "import re", True),
    answer(2, "g", True, finish="length"),
    answer(1, "f\nimport late", True),
    answer(0, " import os"),
    Sample("8", 0, "import re", (), 0.0, "eos"),  # not verified
]
SAMPLES = [answer(0, "import os", True, index=1), answer(0, "f", index=2)]


class BreakdownTest(parameterized.TestCase):
    @parameterized.parameters(
        # Problem 0 has the trait in both, 1 and 4 only in A, 3 only in B. Those with one verified
        # answer, 8 and 9, and a sample beside the greedy answer do not count.
        (r"\A\s*(from|import)\b", [(1, 1, 0), (2, 0, 2), (1, 0, 1), (1, 1, 1)]),
        (r"^import", [(0, 0, 0), (2, 1, 1), (2, 0, 2), (1, 1, 1)]),
        ("truncated", [(0, 0, 0), (1, 0, 1), (1, 1, 1), (3, 1, 2)]),
        ("unformatted", [(0, 0, 0), (1, 0, 1), (0, 0, 0), (4, 2, 3)]),
    )
    def test_counts(self, name, expected):
        found = breakdown.breakdown(A, B, breakdown.trait(name))
        self.assertEqual([tuple(cell) for cell in found.values()], expected)
        self.assertEqual(tuple(found), breakdown.PLACES)

    def test_samples(self):
        """Greedy answers, other problems' samples and those not verified do not count."""
        has = breakdown.trait("^python")
        a = [answer(0, "python", True, index=1), answer(0, "f", index=2), answer(1, "f", index=1)]
        b = [answer(0, "f", True, index=1), answer(0, "python", index=2), answer(2, "f", index=1)]
        b += [answer(0, "python", index=3), answer(0, "python"), answer(0, "g", True, index=4)]
        b += [Sample("0", 5, "f", (), 0.0, "eos")]
        found = breakdown.sample_counts(a, b, has)
        self.assertEqual([tuple(count) for count in found], [(1, 1, 1, 0), (2, 0, 2, 2)])
        self.assertIsNone(breakdown.sample_counts(a, B, has))

    def test_a_pattern_that_is_none(self):
        with self.assertRaisesRegex(UserError, r"--by=\(: neither truncated nor unformatted nor"):
            breakdown.trait("(")

    def test_by_the_command_line(self):
        folder = epath.Path(self.create_tempdir().full_path)
        files = [str(folder / "a.parquet"), str(folder / "b.parquet")]
        for path, samples in zip(files, (A, B), strict=True):
            storage.write_table(epath.Path(path), records.samples_to_table(samples))
        self.assertEqual(main(["compare", *files, "--by=truncated", "--by=^import"]), 0)
        lines = breakdown.lines(*files, ["truncated", "^import"])
        self.assertLen(lines, 10)
        self.assertEqual(lines[0], "greedy answers that are truncated:")
        self.assertRegex(lines[2], "^  only A +1 problems: A solves 0, B solves 1$")
        self.assertEqual(lines[5], "greedy answers that match ^import:")
        self.assertEqual(main(["compare", *files, "--by=("]), 2)
        storage.write_table(epath.Path(files[1]), records.samples_to_table([*B, *SAMPLES]))
        lines = breakdown.lines(*files, ["^import"])
        self.assertEqual(
            lines[5:],
            [
                "samples that match ^import:",
                "  A      0 of 1, 0 of them correct; of the others, 0",
                "  B      1 of 2, 1 of them correct; of the others, 0",
            ],
        )
        storage.write_table(epath.Path(files[0]), records.samples_to_table(SAMPLES))
        self.assertLen(breakdown.lines(*files, ["^import"]), 3)
        self.assertEqual(breakdown.lines("none", "none", []), [])


if __name__ == "__main__":
    absltest.main()

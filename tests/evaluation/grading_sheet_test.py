"""Grading sheets: what a person gets, and that what comes back is added up rightly."""

import csv
import json
import pathlib
import unittest

from absl.testing import absltest, parameterized
from etils import epath

from restem.cli.main import main
from restem.errors import UserError
from restem.evaluation import grading_sheet
from restem.records import Problem, Sample, TaskCard
from tests.helpers import chromium

FORMULA = '=HYPERLINK("http://x")'


class GradingSheetTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = epath.Path(self.create_tempdir().full_path)
        self.sheet = self.folder / "exam.sheet.csv"
        self.problems = [Problem(f"exam-{i}", "test", f"Problem:\n{i}, <b>?") for i in range(3)]
        texts = ["$x = 2$\n\nso 2", FORMULA, "</pre><script>alert(1)</script>"]
        self.texts = texts
        self.report = self.write(texts)
        (self.folder / "exam.json").write_text(json.dumps({"n": 3, **self.report}))

    def write(self, texts):
        answers = [
            Sample(p.problem_id, 0, text, (), 0.0, "eos")
            for p, text in zip(self.problems, texts, strict=False)
        ]
        card = TaskCard("exam", grader={"kind": "none"})
        return grading_sheet.Sheet.of(self.folder / "exam", card, self.problems, answers).write()

    def rows(self):
        with open(self.sheet, encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def fill(self, points, delimiter=",", maximum="4"):
        rows = self.rows()
        with open(self.sheet, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, grading_sheet.COLUMNS, delimiter=delimiter)
            writer.writeheader()
            for row, given in zip(rows, points, strict=True):
                writer.writerow({**row, "points": given, "max_points": maximum})
        return rows

    def test_the_sheet_holds_the_answers_and_no_formula(self):
        rows = self.fill(["1", "2", "3"])
        self.assertEqual(rows[0]["completion"], "$x = 2$\n\nso 2")
        self.assertEqual(rows[1]["completion"], f"'{FORMULA}")
        self.assertIsNone(self.report["pass@1"])

    @parameterized.parameters(",", ";", "\t")
    def test_points_are_added_up(self, delimiter):
        self.fill(["4", "2,5", "0"], delimiter)
        self.assertEqual(main(["score", f"--grades={self.sheet}"]), 0)
        stored = json.loads((self.folder / "exam.json").read_text())
        self.assertEqual((stored["points"], stored["max_points"], stored["n"]), (6.5, 12.0, 3))
        self.assertAlmostEqual(stored["score"], 6.5 / 12)

    @parameterized.parameters(
        (["4", "", "1"], "no points or no max_points for exam-1"),
        (["4", "5", "1"], "exam-1 has 5 of 4 points"),
        (["4", "-1", "1"], "exam-1 has -1 of 4 points"),
        (["4", "half", "1"], "exam-1: points is 'half'"),
    )
    def test_what_cannot_be_added_up_is_named(self, points, message):
        self.fill(points)
        with self.assertRaisesRegex(UserError, message):
            grading_sheet.add_up(self.sheet)
        self.assertNotIn("points", json.loads((self.folder / "exam.json").read_text()))

    def test_a_new_sheet_takes_the_points_of_the_same_answers_over(self):
        self.write(self.texts[:2])
        self.fill(["1", "2"], maximum="5")
        self.write(self.texts)
        found = [(row["points"], row["max_points"]) for row in self.rows()]
        self.assertEqual(found, [("1", "5"), ("2", "5"), ("", "")])
        self.assertEqual(self.rows()[1]["completion"], f"'{FORMULA}")

    def test_an_empty_sheet_is_replaced(self):
        self.write(["another", *self.texts[1:]])
        self.assertEqual(self.rows()[0]["completion"], "another")

    @parameterized.parameters("points", "max_points", "comment")
    def test_a_sheet_that_is_filled_in_for_other_answers_stays(self, column):
        given = [{**row, column: "1"} for row in self.rows()]
        with open(self.sheet, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, grading_sheet.COLUMNS)
            writer.writeheader()
            writer.writerows(given)
        with self.assertRaisesRegex(UserError, r"for other answers \(exam-0\); move it"):
            self.write(["another", *self.texts[1:]])
        with self.assertRaisesRegex(UserError, r"\(exam-2\); move it"):
            self.write(self.texts[:2])
        self.assertEqual(self.rows(), given)

    def test_another_file_is_no_sheet(self):
        other = self.folder / "other.csv"
        other.write_text("a,b\n1,2\n")
        with self.assertRaisesRegex(UserError, "not a grading sheet"):
            grading_sheet.add_up(other)
        with self.assertRaisesRegex(UserError, "no such file"):
            grading_sheet.add_up(self.folder / "nowhere.csv")

    def test_the_page_shows_what_a_model_wrote_as_text(self):
        page = pathlib.Path(self.folder / "exam.sheet.html").read_text()
        self.assertNotIn("<b>?", page)
        self.assertNotIn("<script>alert", page)
        self.assertEqual(page.count("<article"), 3)

    @unittest.skipUnless(chromium.find(), "no Chromium on this machine")
    def test_the_page_saves_what_is_added_up(self):
        with chromium.Chromium(chromium.find()) as browser:
            browser.open(f"file://{self.folder}/exam.sheet.html", width=400)
            browser.evaluate("""articles.forEach((a, i) => {
              for (const [name, value] of [['points', i + 0.5], ['max_points', 3]]) {
                const input = a.querySelector(`[name=${name}]`);
                input.value = value;
                input.dispatchEvent(new Event('input', {bubbles: true}));
              }
            })""")
            total = browser.evaluate("document.getElementById('total').textContent")
            saved = browser.evaluate("sheet()")
            wide = browser.evaluate("document.documentElement.scrollWidth")
            self.assertEmpty(browser.errors())
        self.assertEqual(total, "4.5 of 9 points, 0 problems open")
        self.assertLessEqual(wide, 400)
        self.sheet.write_bytes(saved.encode())
        found = grading_sheet.add_up(self.sheet)
        self.assertEqual((found["points"], found["max_points"], found["graded"]), (4.5, 9.0, 3))
        rows = self.fill(["1", "1", "1"])
        self.assertEqual(rows[1]["completion"], f"'{FORMULA}")


if __name__ == "__main__":
    absltest.main()

"""The task `math`, from folders made here."""

import gin
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.tasks import math  # noqa: F401  adds the task
from tests.helpers.data_folders import DataFolderTest


class MathTest(DataFolderTest):
    def row(self, i):
        return {
            "problem": f"What is ${i}+1$?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": f"It is $\\boxed{{{i}}}$ and one more: $\\boxed{{{i + 1}}}.$",
        }

    def test_official_folders(self):
        for i in range(6):
            self.write(f"MATH/train/algebra/{i}.json", self.row(i))
        self.write("MATH/test/algebra/6.json", self.row(6))
        gin.parse_config("import restem.tasks\nmath.validation_size = 2")
        card, problems = self.materialize("math")
        sizes = {split: len(found) for split, found in problems.items()}
        self.assertEqual(sizes, {"train": 4, "validation": 2, "test": 1})
        self.assertEqual(card.notes["layout"], "hendrycks/math")
        self.assertEqual(card.prompt_source, "restem")
        (problem,) = problems["test"]
        self.assertEqual(problem.inputs, "Problem:\nWhat is $6+1$?\n\nSolution:")
        self.assertEqual(problem.answer, "7")
        self.assertEqual(
            problem.solutions,
            (
                f"\n{self.row(6)['solution']}\n"
                "Final Answer: The final answer is $7$. I hope it is correct.",
            ),
        )
        self.assertEqual(problem.metadata["source"], "algebra/6:1")

    def test_levels(self):
        rows = [{**self.row(i), "level": f"Level {1 + i % 5}"} for i in range(20)]
        self.write("math/train.jsonl", *rows, {**self.row(99), "level": "Level ?"})
        self.write("math/test.jsonl", *rows[:5])
        gin.parse_config("math.validation_size = 2\nmath.levels = [1, 2, 3]")
        card, problems = self.materialize("math")
        sizes = {split: len(found) for split, found in problems.items()}
        self.assertEqual(sizes, {"train": 10, "validation": 2, "test": 3})
        levels = {p.metadata["level"] for found in problems.values() for p in found}
        self.assertEqual(levels, {"Level 1", "Level 2", "Level 3"})
        self.assertEqual(card.notes["levels"], "only 1, 2, 3 of 1 to 5")
        self.assertEqual((card.notes["train_rows"], card.notes["train_rows_of_levels"]), (21, 12))

    @parameterized.parameters("(0,)", "(6,)", "'12'", "()", "(1.5,)", "('1',)")
    def test_levels_that_do_not_exist(self, levels):
        self.write("math/test.jsonl", self.row(0))
        gin.parse_config(f"math.levels = {levels}")
        with self.assertRaisesRegex(UserError, "math.levels = .*: must be some of the levels"):
            self.materialize("math", splits=("test",))

    def test_an_id_is_the_same_in_every_layout(self):
        self.write("MATH/test/algebra/6.json", self.row(6))
        _, one = self.materialize("math", splits=("test",))
        self.write("math/test.jsonl", self.row(5), self.row(6))
        card, other = self.materialize("math", splits=("test",))
        self.assertEqual(card.notes["layout"], "math/*.jsonl")
        self.assertEqual(one["test"][0].problem_id, other["test"][1].problem_id)

    def test_an_answer_that_is_an_empty_box(self):
        self.write(
            "math/test.jsonl", {"problem": "How many?", "solution": "There are $\\boxed{}$."}
        )
        _, problems = self.materialize("math", splits=("test",))
        self.assertEqual((problems["test"][0].answer, problems["test"][0].solutions), ("", ()))

    def test_what_is_missing_is_named(self):
        with self.assertRaisesRegex(UserError, r"math/train\.jsonl.*github\.com/hendrycks/math"):
            self.materialize("math")
        self.write("math/test.jsonl", self.row(0))
        with self.assertRaisesRegex(UserError, "has test but no train files"):
            self.materialize("math")
        self.write("math/test.jsonl", {"problem": "without a solution"})
        with self.assertRaisesRegex(UserError, "test.jsonl, line 1: no field 'solution'"):
            self.materialize("math", splits=("test",))
        self.write("math/test.jsonl", self.row(0))
        self.write("math/train.jsonl", *[self.row(i) for i in range(3)])
        with self.assertRaisesRegex(
            UserError, "math.validation_size = 500: cannot hold out 500 of 3 training"
        ):
            self.materialize("math", splits=("train",))


if __name__ == "__main__":
    absltest.main()

"""The task `gsm8k`, from folders made here."""

from absl.testing import absltest

from restem.errors import UserError
from restem.tasks import gsm8k  # noqa: F401  adds the task
from tests.helpers.data_folders import DataFolderTest


class Gsm8kTest(DataFolderTest):
    def test_answers_and_solutions(self):
        self.write(
            "grade_school_math/data/test.jsonl",
            {
                "question": "2 boxes of 600?",
                "answer": "There are 2*600 = <<2*600=1200>>1,200 things\nThat is all.\n#### 1,200",
            },
        )
        card, problems = self.materialize("gsm8k", splits=("test",))
        (problem,) = problems["test"]
        self.assertEqual(problem.inputs, "Q: 2 boxes of 600?\nA:")
        self.assertEqual(problem.answer, "1200")
        self.assertEqual(
            problem.solutions,
            (" There are 2*600 = 1,200 things. That is all. The answer is 1200.",),
        )
        self.assertEqual(card.grader, {"kind": "numeric", "extraction": "answer_is"})

    def test_an_answer_without_its_mark_is_named(self):
        self.write("gsm8k/test.jsonl", {"question": "a", "answer": "12"})
        with self.assertRaisesRegex(UserError, r"test\.jsonl:1: the answer has no '####'"):
            self.materialize("gsm8k", splits=("test",))


if __name__ == "__main__":
    absltest.main()

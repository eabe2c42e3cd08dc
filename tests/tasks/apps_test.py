"""The task `apps`, from folders made here."""

import json

import gin
from absl.testing import absltest

from restem.tasks import apps
from tests.helpers.data_folders import DataFolderTest


class AppsTest(DataFolderTest):
    tests = json.dumps({"inputs": ["1\n"], "outputs": ["1\n"]})
    calls = json.dumps({"fn_name": "f", "inputs": [[1]], "outputs": [[1]]})

    def row(self, problem_id, **fields):
        return {
            "problem_id": problem_id,
            "question": f"Problem {problem_id}",
            "input_output": self.tests,
            "source_file": "data/apps/train_intro.parquet",
            **fields,
        }

    def test_the_filter_says_what_it_drops(self):
        rows = [self.row(i) for i in range(5)]
        rows += [
            self.row(10, input_output=""),
            self.row(11, input_output=json.dumps({"inputs": [], "outputs": []})),
            self.row(12, input_output="{not json"),
            self.row(13, input_output=json.dumps({"inputs": ["1"], "outputs": []})),
            self.row(14, question="x" * 101),
            self.row(15, input_output=json.dumps({"inputs": ["1" * 300], "outputs": [""]})),
            self.row(20, source_file=apps.HOLD_OUT),
        ]
        self.write("apps/train_introductory.jsonl", *rows)
        gin.parse_config("""
            import restem.tasks
            apps.max_question_chars = 100
            apps.max_test_chars = 200
            apps.validation_size = 2
        """)
        card, problems = self.materialize("apps")
        sizes = {split: len(found) for split, found in problems.items()}
        self.assertEqual(sizes, {"train": 3, "validation": 2, "test": 1})
        self.assertEqual(problems["test"][0].problem_id, "train-0020")
        self.assertEqual(
            card.notes["train_filter"],
            {
                "read": 11,
                "kept": 5,
                "dropped": {
                    "no tests": 2,
                    "tests do not parse": 2,
                    "question over 100 characters": 1,
                    "tests over 200 characters": 1,
                },
            },
        )
        self.assertIn("not the APPS test set", card.notes["test"])

    def test_training_problems_with_few_tests_may_be_left_out(self):
        three = json.dumps({"inputs": ["1", "2", "3"], "outputs": ["1", "2", "3"]})
        rows = [self.row(i, input_output=three if i % 2 else self.tests) for i in range(6)]
        rows.append(self.row(20, source_file=apps.HOLD_OUT))
        self.write("apps/train_introductory.jsonl", *rows)
        gin.parse_config("""
            import restem.tasks
            apps.min_tests = 3
            apps.validation_size = 1
        """)
        card, problems = self.materialize("apps")
        kept = [p.problem_id for p in (*problems["train"], *problems["validation"])]
        self.assertCountEqual(kept, ["train-0001", "train-0003", "train-0005"])
        self.assertLen(problems["test"], 1)
        self.assertEqual(card.notes["train_filter"]["dropped"], {"fewer than 3 tests": 3})

    def test_official_folders(self):
        for split, number, difficulty in (
            ("train", "0001", "introductory"),
            ("train", "0002", "interview"),
            ("train", "0003", "introductory"),
            ("test", "0001", "introductory"),
        ):
            base = f"APPS/{split}/{number}"
            self.write(f"{base}/metadata.json", {"difficulty": difficulty, "url": "u"})
            self.write(f"{base}/question.txt", f"{split} {number}")
            self.write(f"{base}/input_output.json", self.calls)
            self.write(f"{base}/starter_code.py", "def f(x):\n\t")
            self.write(f"{base}/solutions.json", ["def f(x):\n    return x"])
        gin.parse_config("import restem.tasks\napps.validation_size = 1")
        card, problems = self.materialize("apps")
        self.assertEqual(card.notes["layout"], "hendrycks/apps")
        ids = sorted(p.problem_id for p in problems["train"] + problems["validation"])
        self.assertEqual(ids, ["train-0001", "train-0003"])
        (problem,) = problems["test"]
        self.assertEqual(problem.problem_id, "test-0001")
        self.assertEqual(
            problem.inputs,
            "QUESTION:\ntest 0001\n\ndef f(x):\n\nUse Call-Based format\n\nANSWER:\n",
        )
        self.assertEqual(problem.solutions, ("def f(x):\n    return x\n",))
        self.assertEqual(problem.tests, self.calls)

    def test_standard_input_form(self):
        self.assertEqual(
            apps.query("Echo.\n", "", {"inputs": ["1"], "outputs": ["1"]}),
            "QUESTION:\nEcho.\n\nUse Standard Input format\n\nANSWER:\n",
        )


if __name__ == "__main__":
    absltest.main()

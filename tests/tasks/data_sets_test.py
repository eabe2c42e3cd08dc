"""The tasks that read published data sets, from small folders made here and from the real ones."""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import gin
from absl.testing import absltest, parameterized

from restem.data import folder, registry, sources
from restem.errors import UserError
from restem.tasks import apps, bbh, gsm8k, math, mbpp, shots

DATA = os.environ.get(folder.ENVIRONMENT)
needs_data = unittest.skipUnless(DATA, f"{folder.ENVIRONMENT} is not set")
PYTHON = [sys.executable, "-I", "-c"]


class TempTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.create_tempdir().full_path)
        self.addCleanup(gin.clear_config)
        self.enter_context(mock.patch.dict(os.environ))
        os.environ.pop(folder.ENVIRONMENT, None)

    def write(self, name, *values):
        """Texts as they are, anything else as one JSON a line."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        path.write_text("\n".join(lines), "utf-8")

    def materialize(self, task, **options):
        cache = str(self.root / "cache")
        card, problems = sources.materialize(
            task, data_dir=str(self.root), cache_dir=cache, **options
        )
        by_split = collections.defaultdict(list)
        for problem in problems:
            by_split[problem.split].append(problem)
        return card, by_split


class MathTest(TempTest):
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


class Gsm8kTest(TempTest):
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


class AppsTest(TempTest):
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
            "QUESTION:\ntest 0001\n\ndef f(x):\n\nUse Call-Based format\n\nANSWER:",
        )
        self.assertEqual(problem.solutions, ("\ndef f(x):\n    return x\n",))
        self.assertEqual(problem.tests, self.calls)

    def test_standard_input_form(self):
        self.assertEqual(
            apps.query("Echo.\n", "", {"inputs": ["1"], "outputs": ["1"]}),
            "QUESTION:\nEcho.\n\nUse Standard Input format\n\nANSWER:",
        )


class BbhTest(TempTest):
    def test_27_files_are_23_tasks(self):
        self.assertLen(bbh.FILES, 27)
        self.assertLen(bbh.TASKS, 23)
        for style in bbh.STYLES:
            members = registry.group(f"bbh_{style}")
            self.assertEqual(sorted(members), [bbh.task_name(style, f) for f in bbh.FILES])

    def test_a_task_of_three_files_counts_once(self):
        accuracies = dict.fromkeys(bbh.FILES, 0.0)
        accuracies["snarks"] = 0.46
        accuracies["logical_deduction_five_objects"] = 0.69
        self.assertAlmostEqual(bbh.macro_average(accuracies), (0.46 + 0.23) / 23)
        named = {bbh.task_name("cot", file): value for file, value in accuracies.items()}
        self.assertAlmostEqual(bbh.macro_average(named), 0.03)
        with self.assertRaisesRegex(ValueError, "no accuracy for snarks"):
            bbh.macro_average({k: v for k, v in accuracies.items() if k != "snarks"})

    def test_official_folders_and_absent_prompts(self):
        self.write("bbh/snarks.json", {"examples": [{"input": "Which?", "target": "(A)"}]})
        rows = registry.get("bbh_cot_snarks").source("test", data_dir=str(self.root))
        self.assertEqual(
            [(r["inputs"], r["answer"]) for r in rows],
            [("Q: Which?\nA: Let's think step by step.", "(A)")],
        )
        with self.assertRaisesRegex(UserError, "no examples of hyperbaton"):
            registry.get("bbh_direct_hyperbaton").source("test", data_dir=str(self.root))
        with self.assertRaisesRegex(UserError, r"bbh/prompts\.jsonl.*BIG-Bench-Hard"):
            self.materialize("bbh_cot_snarks")
        self.write(
            "bbh/prompts.jsonl",
            *[{"task": f, "cot_prompt": "Q", "direct_prompt": "Q"} for f in bbh.FILES],
        )
        with self.assertRaisesRegex(UserError, "these are not the published cot prompts"):
            self.materialize("bbh_cot_snarks")


class OwnPromptsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("arithmetic_4shot", "Problem:\n", 4),
        ("math_4shot", "Problem:\n", 4),
        ("hungarian_1shot", "Problem:\n", 1),
        ("gsm8k_8shot", "Q: ", 8),
        ("apps_2shot", "QUESTION:\n", 2),
        ("mbpp_3shot", "You are an expert", 3),
    )
    def test_form(self, name, opening, number):
        prefix = shots.own(name).prefix
        self.assertLen(re.findall(rf"(?:\A|\n\n){re.escape(opening)}", prefix), number)
        self.assertEndsWith(prefix, "\n\n")
        self.assertNotEndsWith(prefix, "\n\n\n")
        self.assertNotIn("\r", prefix)

    def test_math_shots_end_in_the_sentence_and_box_the_same_answer(self):
        from restem.verify.answers import extract as math_answer

        for shot in shots.own("math_4shot").prefix.split("\n\nProblem:\n"):
            solution = shot.split("\n\nSolution:\n")[1]
            answer = math_answer.extract(solution, mode="minerva")
            self.assertIsNotNone(answer)
            self.assertEqual(answer, math_answer.extract_gold(solution))

    def test_gsm8k_shots_compute_what_they_say(self):
        for shot in shots.own("gsm8k_8shot").prefix.strip().split("\n\n"):
            answer = re.search(r"The answer is (\d+)\.$", shot)[1]
            equations = re.findall(r"((?:\d+ [-+*/] )+\d+) = (\d+)", shot)
            self.assertNotEmpty(equations)
            for left, right in equations:
                self.assertEqual(eval(left), int(right), shot)
            self.assertIn(answer, [right for _, right in equations])

    def test_apps_shots_solve_their_examples(self):
        first, second = shots.own("apps_2shot").prefix.strip().split("\n\nQUESTION:\n")
        question, program = first.split(f"\n\n{apps.STANDARD_INPUT}\n\nANSWER:\n")
        examples = re.findall(r"Input\n(.*?)\n\nOutput\n(\d+)", question, re.S)
        self.assertLen(examples, 2)
        for given, expected in examples:
            done = subprocess.run(
                [*PYTHON, program], input=given, capture_output=True, text=True, check=True
            )
            self.assertEqual(done.stdout.strip(), expected)
        question, program = second.split(f"\n\n{apps.CALL_BASED}\n\nANSWER:\n")
        examples = re.findall(r"(is_stairs\(.*\)) returns (.*)", question)
        self.assertLen(examples, 2)
        checks = "\n".join(f"assert {call} is {value}" for call, value in examples)
        subprocess.run([*PYTHON, f"{program}\n{checks}\nassert is_stairs('')"], check=True)
        # The shots are queries as the task itself writes them.
        starter = question.rsplit("\n\n", 1)[1]
        statement = question.rsplit("\n\n", 1)[0].removeprefix("QUESTION:\n")
        self.assertStartsWith(
            "QUESTION:\n" + second, apps.query(statement, starter, {"fn_name": "is_stairs"})
        )

    def test_mbpp_shots_pass_their_tests(self):
        for shot in shots.own("mbpp_3shot").prefix.strip().split("\n\nYou are an expert"):
            asked, program = shot.split("\n[BEGIN]\n")
            program = program.removesuffix("\n[DONE]")
            tests = re.findall(r"^assert .*$", asked, re.M)
            self.assertLen(tests, 3)
            subprocess.run([*PYTHON, "\n".join([program, *tests])], check=True)


@needs_data
class RealDataTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cache = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.cache)

    def sizes(self, problems):
        return dict(collections.Counter(problem.split for problem in problems))

    def materialize(self, task, **options):
        return sources.materialize(task, cache_dir=self.cache, **options)

    def test_math(self):
        card, problems = self.materialize("math")
        self.assertEqual(self.sizes(problems), {"train": 7000, "validation": 500, "test": 5000})
        self.assertEqual((card.notes["train_rows"], card.notes["test_rows"]), (7500, 5000))
        self.assertEqual(card.prompt_source, math.MINERVA.file)
        self.assertEqual(card.prefix_sha256, math.MINERVA.sha256)
        self.assertIn("480\\\\\n\\Rightarrow", card.prefix)
        self.assertLen({p.problem_id for p in problems}, 12_500)
        self.assertLen([p for p in problems if not p.answer], 2)
        levels = {p.metadata["level"] for p in problems}
        self.assertLen(levels, 6)  # "Level 1" to "Level 5", and "Level ?" of two problems

    def test_gsm8k(self):
        card, problems = self.materialize("gsm8k")
        self.assertEqual(self.sizes(problems), {"train": 6973, "validation": 500, "test": 1319})
        self.assertEqual(card.prefix_sha256, gsm8k.COT_8SHOT.sha256)
        self.assertTrue(all(re.fullmatch(r"-?\d+(\.\d+)?", p.answer) for p in problems))
        self.assertFalse(any("<<" in p.solutions[0] for p in problems))

    def test_apps(self):
        card, problems = self.materialize("apps")
        kept = {part: card.notes[f"{part}_filter"] for part in ("train", "test")}
        self.assertEqual((kept["train"]["read"], kept["test"]["read"]), (2176, 221))
        self.assertEqual(2176 + 221, 2397)
        self.assertEqual(self.sizes(problems), {"train": 2019, "validation": 150, "test": 221})
        for part in kept.values():
            self.assertEqual(part["read"], part["kept"] + sum(part["dropped"].values()))
        styles = collections.Counter(p.inputs.split("\n\n")[-2].split("\n")[-1] for p in problems)
        self.assertEqual(set(styles), {apps.STANDARD_INPUT, apps.CALL_BASED})

    def test_humaneval_mbpp_and_the_hungarian_exam(self):
        _, problems = self.materialize("humaneval")
        self.assertEqual(self.sizes(problems), {"test": 164})
        tests = json.loads(problems[0].tests)
        self.assertEqual(tests["prompt"], problems[0].inputs)
        card, problems = self.materialize("mbpp")
        self.assertEqual(card.notes["rows"], 974)
        self.assertEqual(self.sizes(problems), {"train": 374, "validation": 90, "test": 500})
        self.assertFalse(any("\r" in p.solutions[0] for p in problems))
        self.assertEqual(
            {split: len(numbers) for split, numbers in mbpp.SPLITS.items()}, self.sizes(problems)
        )
        card, problems = self.materialize("hungarian")
        self.assertEqual(self.sizes(problems), {"test": 33})
        self.assertEqual(card.grader, {"kind": "none"})

    def test_bbh(self):
        counts = {
            file: len(registry.get(f"bbh_direct_{file}").source("test", data_dir=DATA))
            for file in bbh.FILES
        }
        self.assertEqual(sum(counts.values()), 6511)
        self.assertEqual(collections.Counter(counts.values()), {250: 24, 187: 1, 178: 1, 146: 1})
        for style in bbh.STYLES:
            self.assertLen(bbh.read_prompts(style, DATA), 27)
        card, problems = self.materialize("bbh_cot_navigate")
        self.assertLen(problems, 250)
        # The query goes on from the prefix in the form of its shots.
        self.assertEqual(card.prefix.count("\n\nQ: "), 3)
        self.assertEqual(card.prefix.count("\nA: Let's think step by step.\n"), 3)
        self.assertEndsWith(problems[0].inputs, "\nA: Let's think step by step.")

    def test_human_solutions_are_right_by_the_tasks_own_grader(self):
        from restem.verify import Verifier

        for task in ("arithmetic", "math", "gsm8k"):
            card, problems = self.materialize(task, splits=("train",), limits={"train": 100})
            problems = [p for p in problems if p.solutions]
            with Verifier(grader=card.grader) as verifier:
                verdicts = verifier.grade(problems, [p.solutions[0] for p in problems])
            wrong = [v for v in verdicts if v.reward != 1.0]
            self.assertEmpty(wrong, task)
            # The answer of another problem is wrong, or the check above could not fail.
            shifted = [*problems[1:], problems[0]]
            with Verifier(grader=card.grader) as verifier:
                verdicts = verifier.grade(problems, [p.solutions[0] for p in shifted])
            self.assertLess(sum(v.reward for v in verdicts), 30)


if __name__ == "__main__":
    absltest.main()

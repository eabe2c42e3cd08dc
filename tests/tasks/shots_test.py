"""The prompts that restem brings: their form, and that they say what is right."""

import re
import subprocess
import sys

from absl.testing import absltest, parameterized

from restem.tasks import apps, shots
from restem.verify.answers.extract import extract, extract_gold

PYTHON = [sys.executable, "-I", "-c"]


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
        for shot in shots.own("math_4shot").prefix.split("\n\nProblem:\n"):
            solution = shot.split("\n\nSolution:\n")[1]
            answer = extract(solution, mode="minerva")
            self.assertIsNotNone(answer)
            self.assertEqual(answer, extract_gold(solution))

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


if __name__ == "__main__":
    absltest.main()

"""Tasks whose problems are lists in memory."""

from absl.testing import absltest, parameterized

from restem.data.chat import ChatSettings
from restem.data.task import Task
from restem.errors import UserError
from tests.helpers import tiny


class TaskTest(parameterized.TestCase):
    def test_forms_of_a_problem(self):
        task = Task(
            "sums",
            train=["why?", ("1 + 1", 2), {"inputs": "whole query", "answer": "3", "tests": None}],
            test=[("1 + 1", "2")],
            template="Q: {problem}\nA:",
            prefix="Q: 0 + 1\nA: 1\n\n",
            stop=["\n"],
        )
        shown = [(p.problem_id, p.split, p.inputs, p.answer) for p in task.problems]
        self.assertEqual(
            shown,
            [
                ("train-00000", "train", "Q: why?\nA:", None),
                ("train-00001", "train", "Q: 1 + 1\nA:", "2"),
                ("train-00002", "train", "whole query", "3"),
                ("test-00000", "test", "Q: 1 + 1\nA:", "2"),
            ],
        )
        self.assertEqual(task.card.prefix, "Q: 0 + 1\nA: 1\n\n")
        self.assertEqual(task.card.stop, ("\n",))
        self.assertEqual(task.card.grader, {"kind": "math", "extraction": "any"})
        self.assertLen(task.of_split("train"), 3)
        with self.assertRaisesRegex(UserError, r"has no validation problems: Task\(validation="):
            task.of_split("validation")

    def test_a_function_as_grader(self):
        task = Task("letters", train=["a"], grader=tiny.few_letters)
        wanted = {"kind": "function", "function": "tests.helpers.tiny:few_letters"}
        self.assertEqual(task.card.grader, wanted)

    def test_a_chat(self):
        fields = dict(train=["a"], template="Q: {problem}\nA:", stop=["\n"])
        card = Task("chat", **fields, chat=ChatSettings(system="Be brief.")).card
        self.assertEqual((card.chat.form, card.chat.system), ("Q: {problem}\nA:", "Be brief."))
        self.assertEqual(card.stop, ())
        self.assertIsNone(Task("text", **fields).card.chat)

    @parameterized.parameters(
        ("no split", {}),
        ("problem 2 is 3; write a question", {"train": ["a", 3]}),
        ("problem 1 is \\('a',\\); write", {"train": [("a",)]}),
        ("template has no {problem}", {"train": ["a"], "template": "Q:"}),
        ("stop = '\\\\n': must be a tuple", {"train": ["a"], "stop": "\n"}),
        ("stop = .*: must be a tuple of strings, none", {"train": ["a"], "stop": [""]}),
        ("stop = .*: must be a tuple of strings, none", {"train": ["a"], "stop": [5]}),
        ("stop_after = None: must be a tuple", {"train": ["a"], "stop_after": None}),
        ("max_new_tokens = 0: must be at least 1", {"train": ["a"], "max_new_tokens": 0}),
        ("unknown grader kind 'maths'", {"train": ["a"], "grader": {"kind": "maths"}}),
        ("cannot import the grader '.*lambda>'", {"train": ["a"], "grader": lambda p, t: 1.0}),
        ("'x' occurs twice", {"train": [{"inputs": "a", "problem_id": "x"}] * 2}),
    )
    def test_refusals(self, message, fields):
        with self.assertRaisesRegex(UserError, message):
            Task("bad", **fields)


if __name__ == "__main__":
    absltest.main()

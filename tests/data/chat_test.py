"""How tasks are put to instruct models, and what gin can change about it."""

import dataclasses
import json
import os
from unittest import mock

import gin
from absl.testing import absltest, parameterized

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.cli.gin_files import parse_gin
from restem.data import chat, prompts, registry, sources
from restem.errors import UserError
from restem.records import problems_from_table, problems_to_table
from restem.run import bindings
from tests.helpers import toys
from tests.helpers.toys import ToyTest

FORM = "Q: {problem}\nA:"


class SplitShotsTest(parameterized.TestCase):
    @parameterized.parameters("apps", "arithmetic", "gsm8k", "hungarian", "math", "mbpp")
    def test_the_prompts_of_tasks_consist_of_shots(self, name):
        spec = registry.get(name)
        prefix = spec.read_prompt(None).prefix
        preamble, shots = prompts.split_shots(prefix, spec.form)
        self.assertEqual(preamble, "")
        self.assertNotEmpty(shots)
        before, after = prompts.split_form(spec.form)
        self.assertLen(shots, prefix.count(before))
        for problem, solution in shots:
            self.assertIn(f"{before}{problem}{after}", prefix)
            self.assertIn(solution, prefix)
            self.assertNotIn(before, solution)

    def test_text_before_the_first_shot(self):
        prefix = "Sort the words.\n\nQ: b a\nA: a b\n\nSo.\n\nQ: d c\nA: c d\n\n"
        preamble, shots = prompts.split_shots(prefix, FORM)
        self.assertEqual(preamble, "Sort the words.\n\n")
        self.assertEqual(shots, (("b a", "a b\n\nSo."), ("d c", "c d")))

    def test_prompts_of_another_form(self):
        for prefix, form in (
            ("Solve.\n\n", FORM),
            ("Q: a\nB: b\n\n", FORM),
            ("a: b\n", "{problem}:"),
        ):
            self.assertEqual(prompts.split_shots(prefix, form), (prefix, ()))


class ChatTest(ToyTest):
    def card(self, task, *lines):
        gin.clear_config()
        parse_gin([], lines)
        bindings.check()
        limits = {"train": 2, "validation": 2, "test": 2}
        return sources.materialize(task, chat=True, limits=limits)[0]

    def toy(self, **fields):
        toys.add(**fields, form="Q: What is {problem}?\nA:")

    def test_the_default_is_the_tasks_instruction_without_shots(self):
        direct = dataclasses.replace(registry.get("arithmetic"), through_seqio=False)
        self.enter_context(mock.patch.dict(registry._TASKS, {"arithmetic": direct}))
        card = self.card("arithmetic")
        self.assertEqual((card.prefix, card.stop, card.stop_after), ("", (), ()))
        self.assertEqual(card.grader, {"kind": "math", "extraction": "minerva_or_boxed"})
        self.assertIn("\\boxed{}", card.chat.query)
        self.assertEqual(card.chat.form, "Problem:\n{problem}\n\nSolution:")
        self.assertEqual(card.opening, "Problem:\n")

    def test_shots_are_shown_with_the_tasks_own_grader(self):
        self.toy()
        for shots in ("turns", "text"):
            card = self.card("toy", f"chat.shots = '{shots}'")
            self.assertEqual(card.prefix, "Q: What is 0 + 1?\nA: The answer is 1.\n\n")
            self.assertEqual(card.grader, {"kind": "numeric", "extraction": "answer_is"})
            self.assertEqual((card.stop, card.chat.query), (("\nQ:",), "{problem}"))
            self.assertEqual(card.chat.shots, shots)

    def test_all_is_bound_by_gin_for_one_task_or_all(self):
        self.toy()
        card = self.card(
            "toy",
            "chat.system = 'Count.'",
            "toy/chat.query = '{problem} End with #### and the number.'",
            "toy/chat.grader = {'kind': 'numeric', 'extraction': 'hashes'}",
            "toy/chat.stop = ('###', )",
            "toy/chat.max_new_tokens = 99",
            "toy/chat.options = {'enable_thinking': False}",
            "other/chat.date = '2026-01-01'",
        )
        self.assertEqual(card.chat.system, "Count.")
        self.assertEqual(card.chat.query, "{problem} End with #### and the number.")
        self.assertEqual(card.grader, {"kind": "numeric", "extraction": "hashes"})
        self.assertEqual((card.stop, card.max_new_tokens), (("###",), 99))
        self.assertEqual(card.chat.options, {"enable_thinking": False})
        self.assertEqual(card.chat.date, "2024-07-26")

    @parameterized.parameters(
        ("chat.shots = 'some'", r"chat\.shots = 'some': must be one of"),
        ("chat.query = 'Go.'", r"chat\.query.*\{problem\}"),
        ("chat.date = 'today'", r"chat\.date.*YYYY-MM-DD"),
        ("chat.stop = 'x'", r"chat\.stop"),
        (
            "chat.stop = ('x', '')",
            r"chat\.stop = .*: must be a tuple of strings, none of them empty",
        ),
        ("chat.grader = {'kind': 'maths'}", "maths"),
    )
    def test_bad_settings_end_with_one_line(self, line, message):
        self.toy()
        with self.assertRaisesRegex(UserError, message):
            self.card("toy", line)

    def test_a_prompt_that_is_no_sequence_of_shots_cannot_be_turns(self):
        self.toy(prompt="Add the numbers.\n\n")
        with self.assertRaisesRegex(UserError, r'task toy: .*bind chat\.shots = "text"'):
            self.card("toy", "chat.shots = 'turns'")
        self.assertEqual(self.card("toy").prefix, "")
        card = self.card("toy", "chat.shots = 'text'")
        self.assertEqual(card.prefix, "Add the numbers.\n\n")

    def test_a_task_from_files(self):
        path = os.path.join(self.create_tempdir().full_path, "problems.jsonl")
        with open(path, "w") as file:
            for i in range(4):
                file.write(json.dumps({"problem": f"{i}+1", "answer": i + 1}) + "\n")
        card = self.card("mine", f"mine/file_task.path = '{path}'")
        self.assertEqual(card.grader["extraction"], "minerva_or_boxed")
        self.assertIn("\\boxed{}", card.chat.query)
        grader = "mine/file_task.grader = {'kind': 'numeric', 'extraction': 'last_number'}"
        card = self.card("mine", f"mine/file_task.path = '{path}'", grader)
        self.assertEqual(card.grader["extraction"], "last_number")
        self.assertEqual(card.chat.query, "{problem}")

    def test_cards_keep_it_in_files_and_in_the_identity(self):
        self.toy()
        card = self.card("toy", "chat.shots = 'turns'")
        again, _ = problems_from_table(problems_to_table([], card))
        self.assertEqual(again, card)
        other = self.card("toy", "chat.shots = 'turns'", "chat.system = 'Count.'")
        self.assertNotEqual(other.prefix_sha256, card.prefix_sha256)
        plain = sources.materialize("toy")[0]
        self.assertIsNone(plain.chat)
        self.assertEqual(plain.prefix, card.prefix)
        self.assertNotEqual(plain.prefix_sha256, card.prefix_sha256)

    def test_names_that_no_scope_can_have(self):
        self.assertEqual(chat.of_task("a-b:c").shots, "none")


if __name__ == "__main__":
    absltest.main()

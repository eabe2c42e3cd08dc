"""Finding programs in model texts, and reading their tests."""

# ruff: noqa: E501  (tables)

import json

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.verify.programs.tests import StandardInput, parse_tests
from restem.verify.programs.text import (
    MODES,
    compiles,
    extract_program,
    join_prompt,
    without_trailing_prose,
)

_FENCED = (
    "Idea.\n```python\ndef f(x):\n    return x\n```\nUsage:\n```python\nprint(f(1))\n```\nDone."
)


class ExtractTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("plain", "x = 1\n", "x = 1\n"),
        ("at_a_closing_fence", "x = 1\n```\nThis sets x.", "x = 1\n"),
        ("with_both_fences", "```python\nx = 1\n```\nThis sets x.", "x = 1\n"),
        ("opening_fence_only", "```\nx = 1\n", "x = 1\n"),
        ("windows_lines", "x = 1\r\ny = 2\r\n", "x = 1\ny = 2\n"),
        ("nothing", "  \n", None),
    )
    def test_completion(self, text, program):
        self.assertEqual(extract_program(text, "completion"), program)

    def test_completion_ends_at_stop_strings(self):
        text = "    return 1\n\ndef g():\n    pass\nprint(2)"
        found = extract_program(text, stop=("\nprint", "\ndef", ""))
        self.assertEqual(found, "    return 1\n")

    @parameterized.named_parameters(
        ("last_that_parses", _FENCED, None, "print(f(1))\n"),
        ("last_that_defines", _FENCED, "f", "def f(x):\n    return x\n"),
        ("cut_off", "So:\n```py\nx = 1\ny = 2", None, "x = 1\ny = 2"),
        ("other_language_ignored", "```text\n5\n```\n```\nx = 1\n```\n```json\n{}\n```", None, "x = 1\n"),
        ("longer_fence", "````python\ns = '''\n```\n'''\n````", None, "s = '''\n```\n'''\n"),
        ("tildes", "~~~python\nx = 1\n~~~", None, "x = 1\n"),
        ("none_parses", "```python\nx = \n```", None, "x = \n"),
        ("no_block", "x = 1", None, None),
        ("empty_block", "```python\n```", None, None),
    )  # fmt: skip
    def test_fenced(self, text, defines, program):
        found = extract_program(text, "fenced", defines=defines)
        self.assertEqual(found, program)

    def test_auto(self):
        self.assertEqual(extract_program("x = 1", "auto"), "x = 1")
        self.assertEqual(extract_program("A:\n```\nx = 1\n```", "auto"), "x = 1\n")

    def test_unknown_mode(self):
        with self.assertRaises(ValueError):
            extract_program("x", "magic")

    def test_hostile_texts(self):
        for text in (
            "```\n" * 3000,
            "`" * 100_000,
            "(" * 100_000,
            "```python\n" + "[" * 50_000,
            "```" + "a" * 120_000,
            "\n```python" + " " * 120_000,
            "\t" * 120_000,
        ):
            for mode in MODES:
                program = extract_program(text, mode)
                self.assertTrue(program is None or program in text)
            self.assertIn(without_trailing_prose(text), text)

    def test_trailing_prose(self):
        cut = without_trailing_prose
        program = "x = 1\n\nif x:\n    print(x)\n"
        self.assertEqual(cut(program), program)
        self.assertEqual(
            cut(program + "\nThis program prints x.\nIt's good.").rstrip(), program.rstrip()
        )
        self.assertEqual(cut("This is no program."), "This is no program.")

    def test_prose_is_cut_wherever_it_is_long(self):
        cut = without_trailing_prose
        program = "def f(x):\n    return x\n"
        for line in ("This goes on, and on, for long.\n", "x = 1\nfoo bar\n", "if x:\n",
                     "'''\nopen\n", "1. First, it's called.\n"):  # fmt: skip
            text = program + line * (100_000 // len(line)) + "so:"
            found = cut(text)
            self.assertTrue(found.startswith(program), line)
            self.assertTrue(compiles(found), line)

    def test_join_prompt(self):
        prompt = 'import math\n\n\ndef f(x):\n    """Doc."""\n'
        join = join_prompt
        self.assertEqual(join(prompt, "    return x\n", "f"), prompt + "    return x\n")
        self.assertEqual(join(prompt, prompt + "    return x\n", "f"), prompt + "    return x\n")
        again = "def f(x):\n    return math.sqrt(x)\n"
        self.assertEqual(join(prompt, again, "f"), "import math\n\n\n" + again)


class ParseTest(parameterized.TestCase):
    def test_apps_standard_input(self):
        text = json.dumps({"inputs": ["1\n", ["2", "3"]], "outputs": ["a", ["b", "c"]]})
        self.assertEqual(
            parse_tests(text),
            StandardInput(inputs=("1\n", "2\n3"), outputs=("a", "b\nc")),
        )

    def test_apps_row(self):
        inner = json.dumps({"inputs": ["1"], "outputs": ["a"]})
        parsed = parse_tests({"input_output": inner, "question": "?"})
        self.assertIsInstance(parsed, StandardInput)

    def test_apps_calls(self):
        tests = {"fn_name": "f", "inputs": [[{"1": 2}, {"a": 1}, {"01": 1}]], "outputs": [[3]]}
        parsed = parse_tests(tests)
        self.assertEqual(parsed.inputs, ([{1: 2}, {"a": 1}, {"01": 1}],))
        self.assertTrue(parsed.wrapped)

    def test_human_eval_names(self):
        test = (
            "import copy\ndef check(candidate):\n    y = copy.copy(1)\n"
            "    assert helper(candidate(y)) == math.pi\n"
        )
        parsed = parse_tests({"test": test, "entry_point": "f"})
        self.assertEqual(parsed.program_names, ("f",))
        self.assertEqual(parsed.helper_names, ("helper",))
        self.assertEqual(parsed.module_names, ("math",))

    def test_mbpp_names(self):
        parsed = parse_tests(
            {"test_list": ["assert set(bisect(1)) == set()", "assert re.match('a', g(1))"]}
        )
        # `bisect` is called, so it is the program's; `re` has an attribute taken, so it is a module.
        self.assertEqual(parsed.program_names, ("bisect", "g"))
        self.assertEqual(parsed.module_names, ("re",))

    @parameterized.parameters(
        "", "[]", "nothing", "{}", '{"inputs": [], "outputs": []}', '{"inputs": ["1"], "outputs": []}',
        '{"inputs": "1", "outputs": ["1"]}', '{"fn_name": "f", "inputs": [1], "outputs": [1]}',
        '{"test": "def check(c): pass"}', '{"test": "def check(", "entry_point": "f"}',
        '{"test": "x", "entry_point": "a b"}', '{"test": "x = 1", "entry_point": "f"}', '{"test_list": []}', '{"test_list": ["assert ("]}',
    )  # fmt: skip
    def test_malformed(self, text):
        with self.assertRaises(UserError) as caught:
            parse_tests(text, where="problem 5")
        self.assertIn("problem 5", str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()

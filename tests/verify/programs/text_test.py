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
        (
            "indented_fences",
            "\n  ```python\n  if x:\n      y\n  ```\n  This is y.",
            "if x:\n    y\n",
        ),
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
        ("output_after_it", "```python\nprint(int(input())+1)\n```\nOutput:\n```\n4\n```", None, "print(int(input())+1)\n"),
        ("input_before_it", "```\n4\n```\n```py3\nprint(1)\n```", None, "print(1)\n"),
        ("unlabelled_code_that_is_asked_for", "```python\nimport sys\n```\n```\ndef f(): pass\n```", "f", "def f(): pass\n"),
        ("unlabelled_use", "```python\ndef f(): pass\n```\n```\nprint(f())\n```", None, "def f(): pass\n"),
        ("output_of_unlabelled_code", "```\nprint(input())\n```\n```\n4\n```", None, "print(input())\n"),
        ("output_in_words", "```\nprint(input())\n```\n```\nOutput: YES\n```", None, "print(input())\n"),
        ("output_only", "```\n4\n```", None, "4\n"),
        ("in_a_list", "1. Code:\n   ```python\n   if x:\n\n       f()\n   ```\n2. End", None, "if x:\n\n    f()\n"),
        ("in_a_list_by_tabs", "-\t```python\n\tx = 1\n\t```\n\n\t```py\n\tif x:\n\t\tf()\n\t```", None, "if x:\n\tf()\n"),
        ("right_after_the_mark", "1. ```python\n   x = 1\n   ```\n10) - ```python\n      y = 2\n      ```", None, "y = 2\n"),
        ("cut_off_in_a_list", "1. So:\n   ~~~py\n   x = 1\n   y", None, "x = 1\ny"),
        ("fence_alone_indented", " ```python\nif x:\n f()\n ```", None, "if x:\n f()\n"),
        ("body_in_a_list", "*   ```py\n    x\n    ```\n    ```py\n        return 1\n    ```", None, "x\n"),
        ("method", "```python\nclass Solution:\n  def f(self): pass\n```\n```python\nprint(Solution().f())\n```", "f", "class Solution:\n  def f(self): pass\n"),
        ("inherited_method", "```py\nclass A:\n  def f(self): pass\nclass Solution(A): pass\n```\n```py\nSolution().f()\n```", "f", "class A:\n  def f(self): pass\nclass Solution(A): pass\n"),
        ("method_of_no_solution", "```py\ndef f(): pass\n```\n```py\nclass A:\n  def f(self): pass\n```", "f", "def f(): pass\n"),
        ("assignment", "```py\nf = lambda: 1\n```\n```py\nprint(f())\n```", "f", "f = lambda: 1\n"),
        ("pair_of_assignments", "```py\ng, f = 1, int\n```\n```py\nprint(f())\n```", "f", "g, f = 1, int\n"),
        ("annotated_assignment", "```py\nf: object = int\n```\n```py\nf: object\n```", "f", "f: object = int\n"),
        ("definition_below_a_condition", "```py\ntry:\n  import x\nexcept ImportError:\n  def f(): pass\n```\n```py\nprint(f())\n```", "f", "try:\n  import x\nexcept ImportError:\n  def f(): pass\n"),
        ("use_by_import", "```py\ndef f(): pass\n```\n```py\nfrom a import f\nf()[0].f = f.x = 1\n```", "f", "def f(): pass\n"),
        ("most_of_the_names", "```py\nclass P: pass\ndef f(): pass\n```\n```py\nclass P: pass\n```", ("f", "P"), "class P: pass\ndef f(): pass\n"),
        ("empty_block", "```python\n```", None, None),
    )  # fmt: skip
    def test_fenced(self, text, defines, program):
        found = extract_program(text, "fenced", defines=defines or ())
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
            "- " * 60_000,
            "```\n" + " " * 120_000 + "x",
            "\t" * 50_000 + "```\n" + "\t" * 50_000 + "x",
        ):
            for mode in MODES:
                program = extract_program(text, mode)
                self.assertTrue(program is None or program in text, program)
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

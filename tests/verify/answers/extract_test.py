"""Extraction: what counts as announcing an answer, and what never does."""

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.verify.answers.extract import MODES, extract, extract_gold

SENTENCE = "Final Answer: The final answer is ${}$. I hope it is correct."


class ExtractTest(parameterized.TestCase):
    @parameterized.parameters(
        (SENTENCE.format("5"), "5"),
        ("So $x=5$.\n" + SENTENCE.format(r"\frac{1}{2}"), r"\frac{1}{2}"),
        ("Final Answer: The final answer is 5. I hope it is correct.", "5"),
        ("Final Answer: The final answer is $3.5$. I hope it is correct.", "3.5"),
        ("Final Answer: The final answer is $x=1$ and $y=2$. I hope it is correct.",
         "$x=1$ and $y=2$"),
        (SENTENCE.format("1") + "\n" + SENTENCE.format("2"), "2"),
        (SENTENCE.format(r"\$5"), r"\$5"),
        # Cut off, misspelt or absent: no answer, whatever came before.
        (SENTENCE.format("1") + "\nFinal Answer: The final answer is $2", None),
        ("The final answer is $5$. I hope it is correct.", None),
        (r"\boxed{5}", None),
        (SENTENCE.format(""), None),
        ("", None),
        # Other white space makes no other sentence.
        ("Final Answer:  The final answer\nis $5$. I hope it\nis correct.", "5"),
        ("Final\nAnswer:The final answer is $5$. I  hope it is correct.", "5"),
        ("Final Answer:\u00a0The final answer is $5$. I hope it is correct.", "5"),
        ("FinalAnswer: The final answer is $5$. I hope it is correct.", None),
        # A problem that the model made up, and its answer, do not count.
        (SENTENCE.format("1") + "\n\nProblem:\nNext.\n\nSolution:\n" + SENTENCE.format("2"), "1"),
        (SENTENCE.format("1") + "\n\nProblem: Next. Final Answer: The final answer is", "1"),
        (SENTENCE.format("1") + "\n**Question 2:** Next. " + SENTENCE.format("2"), "1"),
        (SENTENCE.format("1") + " This problem: easy.\n" + SENTENCE.format("2"), "2"),
        ("Problem: again.\n" + SENTENCE.format("1") + "\n" + SENTENCE.format("2"), "2"),
        ("Final Answer: The final answer is\nProblem:\n" + SENTENCE.format("2"), "2"),
    )  # fmt: skip
    def test_minerva(self, text, answer):
        self.assertEqual(extract(text), answer)

    @parameterized.parameters(
        (r"so \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 2$", "2"),
        (r"$\boxed2$", "2"),
        (r"\boxed {3}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\boxed{4}}", "4"),
        # A malformed last box never falls back to an earlier one.
        (r"\boxed{1} then \boxed{\frac{1}{2}", None),
        (r"\boxed{1} then \boxed{", None),
        (r"\boxed{1} then \boxed", None),
        (r"\boxed{1} then \fbox{2", None),
        (r"\boxed{}", None),
        (r"no box, boxed{5}", None),
    )
    def test_boxed(self, text, answer):
        self.assertEqual(extract(text, mode="boxed"), answer)
        self.assertEqual(extract_gold(text), answer)

    def test_boxed_up_to_the_next_problem(self):
        text = "\\boxed{1}\n\nProblem:\nNext.\n\\boxed{2}"
        self.assertEqual(extract(text, mode="boxed"), "1")
        self.assertEqual(extract(text, mode="any"), "1")
        self.assertEqual(extract_gold(text), "2")

    @parameterized.parameters(
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{1}, that is \boxed{1}", "1"),
        (r"\boxed{\boxed{4}} or \boxed 5", r"\boxed{4}, 5"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{1} and \boxed{}", None),
        (r"\boxed{1}" + "\nProblem: next\n" + r"\boxed{2}", "1"),
        ("".join(rf"\boxed{{{n}}}" for n in range(61)), None),
        ("5", None),
    )
    def test_boxes(self, text, answer):
        self.assertEqual(extract(text, mode="boxes"), answer)

    @parameterized.parameters(
        (r"\boxed{1} " + SENTENCE.format("2"), "2"),
        (r"\boxed{1}", "1"),
        (r"\boxed{1} Final Answer: The final answer is $2", None),
        (r"\boxed{1} Final Answer:  The final answer is $2", None),
        ("5", None),
    )
    def test_minerva_or_boxed(self, text, answer):
        self.assertEqual(extract(text, mode="minerva_or_boxed"), answer)

    @parameterized.parameters(
        ("5 + 3 = 8. The answer is 8.", "8"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is $1,200.\nQ: next", "$1,200"),
        ("The answer is 1. No: the answer is 2.", "2"),
        ("The answer is 8.\n\nQ: How many?\nA: The answer is 9.", "8"),
        ("The answer\nis 8.", "8"),
        ("Q: How many? The answer is 7.\nThe answer is 8.", "8"),
        ("It is 8.", None),
        ("The answer is", None),
    )
    def test_answer_is(self, text, answer):
        self.assertEqual(extract(text, mode="answer_is"), answer)

    @parameterized.parameters(
        ("2 + 2 = <<2+2=4>>4\n#### 4", "4"), ("#### 1,000", "1,000"), ("no mark", None)
    )
    def test_hashes(self, text, answer):
        self.assertEqual(extract(text, mode="hashes"), answer)

    @parameterized.parameters(
        ("first 3, then -4.5 apples", "-4.5"), ("1,234,567 in all", "1,234,567"), ("none", None),
        ("a loss of \u2212$5", "\u2212$5"),
    )  # fmt: skip
    def test_last_number(self, text, answer):
        self.assertEqual(extract(text, mode="last_number"), answer)

    @parameterized.parameters(
        ("5", "5"), (r"so \boxed{6}", "6"), (r"5 \boxed{6", None), (SENTENCE.format("7"), "7")
    )
    def test_any(self, text, answer):
        self.assertEqual(extract(text, mode="any"), answer)

    def test_unknown_mode_names_the_known_ones(self):
        with self.assertRaisesRegex(UserError, "minerva_or_boxed"):
            extract("5", mode="guess")

    @parameterized.parameters(*MODES)
    def test_large_hostile_texts(self, mode):
        for text in (
            "Final Answer: The final answer is" * 20_000,
            "\\boxed{" * 50_000,
            "the answer is " * 50_000,
            "1," * 300_000,
            "\ud800\x00" * 1000,
        ):
            answer = extract(text, mode=mode)
            self.assertTrue(answer is None or answer in text)


if __name__ == "__main__":
    absltest.main()

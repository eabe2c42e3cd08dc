"""Graders: what each kind accepts, and which configurations are refused."""

import json

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.records import Problem, verdict_fields
from restem.verify import graders


def problem(answer: str | None, **fields) -> Problem:
    return Problem("p7", "test", "question", answer=answer, **fields)


class KindsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"extraction": "minerva"}, r"\boxed{5}", 0.0),
        ({"extraction": "boxed"}, r"\boxed{5}", 1.0),
        ({"extraction": "boxed"}, r"\boxed{5.0}", 1.0),
        ({"extraction": "boxed"}, r"\boxed{6}", 0.0),
        ({}, "Final Answer: The final answer is $5$. I hope it is correct.", 1.0),
        ({"extraction": "boxed", "labels": False}, r"\boxed{x=5}", 0.0),
        ({"extraction": "boxes", "bare_lists": True}, r"\boxed{5} and \boxed{6}", 0.0),
        ({"extraction": "boxed", "relative_tolerance": 0.1}, r"\boxed{5.1}", 1.0),
        ({"extraction": "boxed", "decimal_comma": True}, r"\boxed{5,0}", 1.0),
    )
    def test_math(self, options, text, reward):
        grade = graders.build({"kind": "math", **options})
        self.assertEqual(grade(problem("5"), text).reward, reward)

    @parameterized.parameters(
        ("The answer is 18.", 1.0),
        ("The answer is $18.00.", 1.0),
        ("The answer is 18 dollars.", 1.0),
        ("The answer is 9 + 9 = 18.", 1.0),
        ("The answer is 1,8.", 0.0),
        ("The answer is 18 or 19.", 0.0),
        ("The answer is -18.", 0.0),
        ("The answer is 18.5.", 0.0),
        ("18", 0.0),
        ("The answer is 18.\nThe answer is", 0.0),
    )
    def test_numeric(self, text, reward):
        grade = graders.build({"kind": "numeric", "extraction": "answer_is"})
        verdict = grade(problem("18"), text)
        self.assertEqual(verdict.reward, reward, verdict)

    @parameterized.parameters(
        ("The answer is \u22125.", "-5", "5"),
        ("The answer is \u20135.", "-5", "5"),
        ("The answer is - 5.", "-5", "5"),
        ("The answer is -$5.", "-5", "5"),
        ("The answer is - $5.", "-5", "5"),
        ("The answer is -\\$5.", "-5", "5"),
        ("The answer is $-5.", "-5", "5"),
        ("The answer is minus 5.", "-5", "5"),
        ("The answer is $2 - 7 = -5$.", "-5", "5"),
        ("The answer is $9 \u2212 4 = 5$.", "5", "-5"),
    )
    def test_numeric_minus(self, text, answer, other):
        grade = graders.build({"kind": "numeric"})
        self.assertEqual(grade(problem(answer), text).reward, 1.0)
        self.assertEqual(grade(problem(other), text).reward, 0.0)

    @parameterized.parameters(
        "2x", "x2", "x-2", "x + 2", "--2", "2!", "2^x", "x^2", "2 * x", "2/x", "x/2",
        r"\sqrt{2}", r"\sqrt2", "\u221a2", r"2\pi", r"\pm 2", "\u00b12", r"2 \times x", "2K", "2M",
        "2 \u2013 3", "2\u00bd", "2\u00b2", "2 - x", "2-x", "2 x", "2 - (x)", "x>=2", "<= 2", "> 2",
        "\u2265 2", "3!=2", "three, not 2",
    )  # fmt: skip
    def test_numeric_in_an_expression(self, answer):
        verdict = graders.build({"kind": "numeric"})(problem("2"), f"The answer is {answer}.")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "none"), verdict)

    @parameterized.parameters(
        "18 and a half", "18 and two thirds", "18 point five", "-(18)", "- (18)", "-[18]",
        "half of 18", "twice 18", "sqrt(18)", "log(18)", "f(18)", "18 tenths", "18 squared",
        "one hundred and 18", "all but 18", r"\boxed{18\text{ and a half}}", r"\boxed{-(18)}",
        r"18\text{ squared}", "18 dollars and five cents", "minus (18)", "negative (18)", "-|18|",
        "(18)!", "(18)x", "18(x)", "the square root of (18)", "a third of 18", "18 to the fourth",
        "18 factorial", "18 times two", "18 plus y", "seventeen or 18", "more than 18",
        "it isn't 18",
    )  # fmt: skip
    def test_numeric_changed_by_words_or_brackets(self, answer):
        verdict = graders.build({"kind": "numeric"})(problem("18"), f"The answer is {answer}.")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "none"), verdict)

    @parameterized.parameters("|-18|", "(|-18|)", "-(-18)", "the absolute value of -18")
    def test_numeric_minus_changed(self, answer):
        verdict = graders.build({"kind": "numeric"})(problem("-18"), f"The answer is {answer}.")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "none"), verdict)

    @parameterized.parameters(
        ("x - 5", "-5"), ("(x) - 5", "-5"), ("x -5", "-5"), ("x minus 5", "-5"),
    )  # fmt: skip
    def test_numeric_difference(self, answer, gold):
        verdict = graders.build({"kind": "numeric"})(problem(gold), f"The answer is {answer}.")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "none"), verdict)

    @parameterized.parameters(
        "5", "5.", "5.0", "$5", "$5.00", "US$5", r"\$5", "5$", "\u20ac5", "5%", r"5\%", "5 apples",
        "5 dollars", "5-year", "5kg", "5 m", "5 a day", "5th", "$5/hour", "5 \u2013 the rest", "+5",
        "**5**", "*5*", "`5`", "**$5**", "(5)", "x = 5", r"\boxed{5}", r"$\boxed{5}$", r"\(5\)",
        r"5 \text{ cm}", r"5\text{cm}", r"\textbf{5}", r"\mathbf{5}", r"\approx 5", "~5",
        r"5^\circ", r"5^{\circ}", "5\u00b0", r"5\,\text{kg}", "a total of 5 apples", "Anna: 5",
        "5 dozen", "5 million dollars", "10 / 2 => 5", "so -> 5", "nothing but 5", "5 - a lot",
        "5cm\u00b3", "5 m\u00b2", r"5 \text{ cm}^2", "[5]", "|5|", "(5 apples)", "five (5)",
        "5 (five)", r"\boxed{(5)}", r"\boxed{5}dollars", "a total of (5)", "a length of 5",
        "5 months", "5 in the third grade", "5 for the second half", "5 half-hour lessons",
        "5 quarters", "5 sixth graders", "5 two-pound bags", "5 times", "5 times as many",
        "5-point lead", "5 to the north", "5 over ten days", "5 plus tax", "5 feet squared",
        "one of them has 5", "5 for two people", "at least 5", "5 more than Bob",
    )  # fmt: skip
    def test_numeric_with_what_leaves_it_the_same(self, answer):
        verdict = graders.build({"kind": "numeric"})(problem("5"), f"The answer is {answer}.")
        self.assertEqual((verdict.reward, verdict.normalized), (1.0, "5"), verdict)

    def test_numeric_thousands(self):
        grade = graders.build({"kind": "numeric"})
        self.assertEqual(grade(problem("1,200"), "The answer is 1200.").reward, 1.0)
        self.assertEqual(grade(problem("1200"), "The answer is $1,200.").reward, 1.0)
        self.assertEqual(grade(problem("1200"), r"The answer is 1{,}200.").reward, 1.0)
        self.assertEqual(grade(problem("1200"), r"The answer is 1,\!200.").reward, 1.0)

    @parameterized.parameters(
        ({"prefix": "the answer is"}, "So the answer is (B).", "(B)", 1.0),
        ({"prefix": "the answer is"}, "The Answer is (B)", "(B)", 1.0),
        ({"prefix": "the answer is"}, "the answer is (A). So the answer is (B).", "(B)", 1.0),
        ({"prefix": "the answer is"}, "the answer is (B). the answer is", "(B)", 0.0),
        ({"prefix": "the answer is"}, "(B)", "(B)", 0.0),
        ({"prefix": "the answer is"}, "the answer is B.", "(B)", 0.0),
        ({"prefix": "the answer is"}, "the answer is yes.\nQ: more", "yes", 1.0),
        ({"prefix": "the answer is"}, "the answer is Yes.", "yes", 0.0),
        ({"prefix": "the answer is", "ignore_case": True}, "the answer is Yes.", "yes", 1.0),
        ({}, "  valid\n", "valid", 1.0),
        ({}, "valid, I think", "valid", 0.0),
        ({}, "   ", "valid", 0.0),
        ({"pattern": r"=> (\w+)"}, "=> a => b", "b", 1.0),
        ({"strip_period": False}, "valid.", "valid", 0.0),
    )
    def test_exact(self, options, text, answer, reward):
        verdict = graders.build({"kind": "exact", **options})(problem(answer), text)
        self.assertEqual(verdict.reward, reward, verdict)

    def test_function(self):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:fraction_of_words"})
        self.assertEqual(grade(problem("a b c d"), "a c x").reward, 0.5)

    def test_function_with_a_verdict(self):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:verdict"})
        verdict = grade(problem("a", metadata={"note": "seen"}), "text")
        self.assertEqual((verdict.reward, verdict.method, verdict.detail), (2.5, "mine", "seen"))

    @parameterized.parameters(("boolean", 1.0), ("scalar_array", 0.5))
    def test_function_with_another_type_of_number(self, name, reward):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:{name}"})
        verdict = grade(problem("a"), "text")
        self.assertEqual((verdict.reward, verdict.method), (reward, f"{REWARDS}:{name}"))

    @parameterized.parameters(
        ("negative", "-1.0"),
        ("words", "'good'"),
        ("numeral", "'1.0'"),
        ("numeral_in_bytes", "b'1.0'"),
        ("nothing", "None"),
        ("several", "[1.0]"),
        ("huge", "1000"),
        ("infinite", "inf"),
        ("infinite_verdict", "reward=inf"),
        ("not_a_number", "nan"),
        ("empty_verdict", "reward=None"),
        ("verdict_without_a_method", "method is not a string"),
        ("broken_number", "an object of type _Broken"),
    )
    def test_function_without_a_reward(self, name, shown):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:{name}"})
        verdict = grade(problem("a"), "text")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "error"))
        self.assertIn(f"{REWARDS}:{name} returned", verdict.detail)
        self.assertIn(shown, verdict.detail)

    def test_function_with_a_verdict_of_numpy_scalars(self):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:numpy_verdict"})
        verdict = grade(problem("a"), "text")
        self.assertEqual((verdict.reward, verdict.method, verdict.passed), (0.5, "rm", 3))
        self.assertIs(type(verdict.reward), float)
        self.assertIs(verdict.correct, True)
        json.dumps(verdict_fields(verdict))

    def test_function_that_raises_is_no_reward(self):
        grade = graders.build({"kind": "function", "function": f"{REWARDS}:misbehave"})
        verdict = grade(problem("a"), "raise")
        self.assertEqual((verdict.reward, verdict.method), (0.0, "error"))
        self.assertIn("ValueError: no such thing", verdict.detail)
        self.assertRegex(verdict.detail, r"rewards\.py:\d+")


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, "kind"),
        ({"kind": "maths"}, "maths"),
        ({"kind": "math", "extraction": "guess"}, "guess"),
        ({"kind": "math", "percent": "both"}, "percent is 'both'"),
        ({"kind": "math", "relative_tolerance": -1}, "relative_tolerance"),
        ({"kind": "math", "tolerance": 0.1}, "tolerance"),
        ({"kind": "exact", "extraction": "boxed"}, "extraction"),
        ({"kind": "function"}, "package.module:function"),
        ({"kind": "function", "function": "os.system"}, "package.module:function"),
        ({"kind": "function", "function": "no_such_module:f"}, "no_such_module"),
        ({"kind": "function", "function": "restem.records:nothing"}, "nothing"),
    )
    def test_configuration(self, grader, message):
        with self.assertRaisesRegex(UserError, message):
            graders.build(grader)

    @parameterized.parameters("math", "numeric", "exact")
    def test_problem_without_an_answer(self, kind):
        with self.assertRaisesRegex(UserError, "p7"):
            graders.build({"kind": kind})(problem(None), "The answer is 5.")


REWARDS = "tests.helpers.rewards"


if __name__ == "__main__":
    absltest.main()

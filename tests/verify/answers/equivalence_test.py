"""Equivalence of answers: tables in both directions, options, hostile texts, MATH's golds."""

import dataclasses
import gzip
import json
import os
import pathlib
import random

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.verify.answers.equivalence import compare, is_equivalent
from restem.verify.answers.extract import extract_gold
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse
from restem.verify.answers.options import Options
from tests.helpers.answer_tables import DIFFERENT, EQUAL, rows


class TableTest(parameterized.TestCase):
    @parameterized.named_parameters(*rows(EQUAL))
    def test_equal(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)
        self.assertEqual(compare(gold, gold).reward, 1.0)

    @parameterized.named_parameters(*rows(DIFFERENT))
    def test_different(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)
        self.assertNotEqual(verdict.detail, "")


class VerdictTest(parameterized.TestCase):
    @parameterized.parameters(
        ("$5$", "5", "string"),
        ("0.5", r"\frac{1}{2}", "numeric"),
        ("(x+1)^2", "x^2+2x+1", "symbolic"),
        ("2, 1", "1, 2", "list"),
        (r"\{2, 1\}", r"\{1, 2\}", "set"),
        ("(0.5, 1)", r"(\frac12, 1)", "tuple"),
        (r"(-\infty,1)", "x<1", "inequality"),
        (r"(2,3)\cup(0,1)", r"(0,1)\cup(2,3)", "interval"),
        (r"y=x+1", "x-y+1=0", "equation"),
        (r"011_2", "11_2", "base"),
        ("ODD", r"\text{odd}", "text"),
        (r"\sqrt", "5", "none"),
    )
    def test_method(self, prediction, gold, method):
        self.assertEqual(compare(prediction, gold).method, method)

    def test_says_what_was_compared(self):
        verdict = compare(r"$\dfrac{1}{2}$.", "0.5")
        self.assertEqual(verdict.extracted, r"$\dfrac{1}{2}$.")
        self.assertEqual(verdict.normalized, "1/2")

    @parameterized.parameters(
        (r"\frac{1}{2}", "1/2"), (r"\dfrac12", "1/2"), ("1/2", "1/2"), ("0.50", "1/2"),
        (r"\frac{2}{4}", "1/2"), ("$.5$", "1/2"), ("3", "3"), ("3.0", "3"), ("1,000", "1000"),
        (r"-\frac{6}{3}", "-2"), ("x + 1", "x+1"), ("x+1", "x+1"),
        (r"10 \pi", r"10\pi"), (r"\sqrt {2}", r"\sqrt{2}"), ("two  lines", "two lines"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    )  # fmt: skip
    def test_one_spelling_of_a_number_for_votes(self, prediction, normalized):
        for gold in ("5", prediction, r"\sqrt5"):
            self.assertEqual(compare(prediction, gold).normalized, normalized)

    def test_says_when_equality_is_evidence(self):
        self.assertIn("300 bits", compare(r"\arctan 1", r"\frac{\pi}{4}").detail)
        self.assertEqual(compare(r"\sqrt{8}", r"2\sqrt{2}").detail, "")


class QuestionTest(parameterized.TestCase):
    """A formula of the question is no answer to it, but may stand before the answer."""

    @parameterized.parameters(
        (r"Compute $\dbinom{16}{5}$.", r"\binom{16}{5}", "4368"),
        (r"Compute $\dbinom{16}{5}$.", r"x = \binom{16}{5}", "4368"),
        (r"Simplify $\frac{6!+7!}{5!}.$", r"\dfrac{6!+7!}{5!}", "48"),
        (r"Factor $t^2-49$.", "t^2-49", "(t-7)(t+7)"),
        (r"Let $a = \sqrt{180}$. Simplify a.", r"\sqrt{180}", r"6\sqrt{5}"),
        (r"Write \[y = 2x + 1\] in standard form.", "y=2x+1", "2x-y=-1"),
        (r"Express $0.1\overline{6}$ as a fraction.", r"0.1\overline{6}", r"\frac16"),
        (r"Simplify $\frac{16}{20}$.", r"\frac{16}{20}", r"\frac{4}{5}"),
        (r"If $g(2) = 3$ and $g(3) = 5$, what is $g(g(2)) - 2$?", "g(2)=3", "3"),
        ("What is 12*34 + 1?", r"12 \cdot 34+1", "409"),
        (r"Compute \(7 \cdot 8\)?", r"7\cdot8", "56"),
    )
    def test_a_formula_of_the_question_is_no_answer(self, question, prediction, gold):
        self.assertEqual(compare(prediction, gold).reward, 1.0)
        verdict = compare(prediction, gold, question=question)
        self.assertEqual((verdict.reward, verdict.method), (0.0, "none"), verdict)
        self.assertEqual(compare(gold, gold, question=question).reward, 1.0)

    @parameterized.named_parameters(
        ("another formula", r"Compute $\binom{16}{5}$.", r"\binom{16}{11}", "4368"),
        ("the gold answer is in the question", "Which equals 4, $1+2$ or $2^2$?", "2^2", "2^{2}"),
        ("copying is the task", r"Is it $\frac{1+x}{2}$ or $x$?", r"\frac{1+x}{2}", r"\frac{1+x}2"),
        ("a number by chance", r"A square has side $\frac15$.", r"\frac15", "0.20"),
        ("a quantity by chance", r"A coat costs $\$60$.", r"\$60", "60"),
        ("a point by chance", "From $(1, 2)$ to $(2, 1)$.", "(1,2)", "(1, 2.0)"),
        ("a variable's value by chance", "Where is $x = 3$?", "x=3", "3"),
        ("no question", "", r"\binom{16}{5}", "4368"),
        ("a question that is no LaTeX", r"Compute $\frac{$.", r"\binom{16}{5}", "4368"),
    )
    def test_others_are(self, question, prediction, gold):
        verdict = compare(prediction, gold, question=question)
        self.assertEqual(verdict.reward, 1.0, verdict)

    @parameterized.parameters(
        ("Find $a+b+c$.", "a+b+c = 23", "23"),
        ("What is $P(5)$?", "P(5)=15", "15"),
        (r"Compute $\cos \theta.$", r"\cos\theta = \frac{3}{8}", r"\frac38"),
        ("Find $|m-n|$.", "|m-n| = 6", "6"),
        ("Find $f^{-1}(2)$.", "f^{-1}(2)=5", "5"),
    )
    def test_what_is_asked_may_stand_before_the_answer(self, question, prediction, gold):
        self.assertEqual(compare(prediction, gold).reward, 0.0)
        self.assertEqual(compare(prediction, gold, question=question).reward, 1.0)
        self.assertEqual(compare(prediction, gold + "1", question=question).reward, 0.0)
        unlabelled = Options(labels=False)
        self.assertEqual(
            compare(prediction, gold, options=unlabelled, question=question).reward, 0.0
        )

    @parameterized.parameters(
        ("What is $2+3$?", "2+3 = 7 = 5", 0.0),
        ("What is $2+3$?", "2+3 = 5", 1.0),
        ("Find $f(2)+f(3)$.", "f(2)+f(3) = 5", 1.0),
        ("Find $f(2)+f(3)$.", "f(2) = 5", 1.0),
        ("Find $f(2)+f(3)$.", "f(2)-f(3) = 5", 0.0),
    )
    def test_a_sum_of_numbers_is_no_name(self, question, prediction, reward):
        self.assertEqual(compare(prediction, "5", question=question).reward, reward)

    def test_an_equation_of_the_question_is_no_label(self):
        question = "If $a+b = 6$, how many pairs are there, and what is $ab$?"
        self.assertEqual(compare("a+b = 6", "6", question=question).reward, 0.0)


class OptionsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, "0.5", r"50\%", True),
        ({"percent": "unit"}, "0.5", r"50\%", False),
        ({"percent": "unit"}, "50", r"50\%", True),
        ({"percent": "value"}, "50", r"50\%", False),
        ({"percent": "value"}, "0.5", r"50\%", True),
        ({"degrees": "unit"}, r"\frac{\pi}{4}", r"45^\circ", False),
        ({"degrees": "value"}, "45", r"45^\circ", False),
        ({"units": "ignore"}, r"12\text{ m}", r"12\text{ cm}", True),
        ({"bases": "required"}, "1011", "1011_2", False),
        ({"bases": "value"}, "11", "1011_2", True),
        ({"labels": False}, "x=5", "5", False),
        ({"bare_lists": True}, "1,2", "(1,2)", True),
        ({"bare_lists": True}, "2,1", "(1,2)", False),
        ({"multiplicity": False}, "1,2", "1,1,2", True),
        ({"ratios": False}, r"\frac35", "3:5", False),
        ({}, "6!", "720", True),
        ({"worked_out": True}, "6!", "720", False),
        ({"worked_out": True}, "x = 6!", "720", False),
        ({"worked_out": True}, r"1\cdot\binom{16}{5}", "4368", False),
        ({"worked_out": True}, r"\frac{675}{900}", r"\frac{3}{4}", False),
        ({"worked_out": True}, r"\frac{3}{4}", "0.75", True),
        ({"worked_out": True}, r"-3\frac12\text{ cm}", "-3.5", True),
        ({"worked_out": True}, "1+2=3", "3", True),
        ({"worked_out": True}, "x^2-1", "(x-1)(x+1)", True),
        ({"worked_out": True}, "(3, 2+2)", "(3,4)", False),
        ({}, r"\log 100", "2", True),
        ({"log_base": 2}, r"\log 8", "3", True),
        ({"lowest_terms": True}, "2:4", "1:2", True),
        ({"lowest_terms": True}, "6:4:10", "3:2:5", True),
        ({"lowest_terms": True}, "2:4", "2:1", False),
        ({"lowest_terms": True}, "0:2:4", "0:1:2", True),
        ({"lowest_terms": True}, "0:0", "1:2", False),
        ({"lowest_terms": True}, "1:2", "0:0", False),
        ({"lowest_terms": True}, "0:1:5", "0:3:2", False),
        ({"lowest_terms": True}, "2:4:6", "1:2", False),
        ({"lowest_terms": True}, r"\sqrt8:2", r"\sqrt2:1", True),
        ({}, "3,14", "3.14", False),
        ({"decimal_comma": True}, "3,14", "3.14", True),
        ({"decimal_comma": True}, "3{,}141", "3.141", True),
        ({"decimal_comma": True}, "1.234,5", r"\frac{2469}{2}", True),
        ({"decimal_comma": True}, r"1,5\text{ cm}", r"15\text{ mm}", True),
        ({"decimal_comma": True}, "2, 1", "1, 2", True),
        ({"decimal_comma": True}, "1,5; 2,5", r"\frac32, \frac52", True),
        ({"decimal_comma": True}, "3,14", "3.15", False),
        ({}, "3.14", r"\pi", False),
        ({"relative_tolerance": 1e-3}, "3.14", r"\pi", True),
        ({"relative_tolerance": 1e-4}, "3.14", r"\pi", False),
        ({"relative_tolerance": 0.01}, "99", "100", True),
        ({"relative_tolerance": 0.01}, "98", "100", False),
        ({"relative_tolerance": 0.01}, "0.001", "0", False),
        ({"relative_tolerance": 0.01}, "1" + "0" * 399, "2" + "0" * 399, False),
        ({"relative_tolerance": 0.01}, "1" + "0" * 399, "1" + "0" * 396 + "999", True),
        ({"relative_tolerance": 0.3}, "130", "100", True),
        ({"relative_tolerance": 0.01}, "5", r"2^{2000}\sqrt2", False),
        ({"relative_tolerance": 0.01}, r"2^{-2000}\sqrt2", "0", False),
        ({"relative_tolerance": 0.01}, "(1.001, 2)", r"(1, 2)", True),
        ({"relative_tolerance": 0.01}, "1.001x", "x", False),
    )
    def test_option(self, options, prediction, gold, equal):
        verdict = compare(prediction, gold, options=Options(**options))
        self.assertEqual(bool(verdict.reward), equal, verdict)

    @parameterized.parameters(
        {"percent": "both"}, {"degrees": 1}, {"units": ""}, {"bases": None}, {"labels": "yes"},
        {"bare_lists": 1}, {"log_base": 1}, {"log_base": 2.5}, {"relative_tolerance": -0.1},
        {"relative_tolerance": 1}, {"relative_tolerance": "0.1"}, {"decimal_comma": 0},
        {"relative_tolerance": float("nan")},
    )  # fmt: skip
    def test_refused(self, **options):
        (name,) = options
        with self.assertRaisesRegex(UserError, name):
            Options(**options)

    def test_documented_with_their_defaults(self):
        page = pathlib.Path(__file__).parents[3] / "docs" / "verification.md"
        text = page.read_text(encoding="utf-8")
        for field in dataclasses.fields(Options):
            default = json.dumps(field.default) if field.type == "str" else repr(field.default)
            self.assertIn(f"| `{field.name}` | `{default}` |", text)


HOSTILE = {
    "tower": r"9^{9^{9^{9}}}",
    "double factorial": "10000!!",
    "binomial": r"\binom{10^9}{5}",
    "fractions": r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
    "million digits": "1" * 10**6,
    "thousands, too many": "1" + ",111" * 2000,
    "thousands, as many as are read": "1" + ",111" * 990,
    "letters and digits in turn": "A1" * 1990,
    "digits and letters in turn, with a base": "1A" * 1990 + "_",
    "million letters": "x" * 10**6,
    "million brackets": "(" * 10**6,
    "million minus signs": "-" * 10**6,
    "braces": "{" * 10**5,
    "boxes": r"\boxed{" * 10**4 + "5" + "}" * 10**4,
    "surrogates": "\ud800\udfff5",
    "nul": "6\x00",
    "import": "__import__('os').system('touch /tmp/pwned')",
    "dunder": "().__class__.__bases__[0].__subclasses__()",
    "large power": "(x+1)^{100000}",
    "large power of a radical": r"(1+\sqrt{2})^{99999}",
    "many radicals": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 150)),
    "many sines": "+".join(rf"\sin({n})" for n in range(2, 100)),
    "root of unity": r"\cos\frac{\pi}{99991}",
    "exponentials": "e^{e^{e^{e^{10}}}}",
    "nested roots": r"\sqrt{2+" * 35 + "1" + "}" * 35,
    "long list": "1," * 1900 + "1",
    "factorials": "7!!!!!!!!!",
    "absolute values": "|" * 1000,
    "functions": r"\sin" * 800 + "x",
    "division by zero": r"\frac{1}{0}",
    "zero to the zero": "0^0",
    "tangent of a right angle": r"\tan 90^\circ",
    "logarithm of zero": r"\ln 0",
    "infinity": r"\infty-\infty",
    "unknown command": r"\catcode`\@=11",
    "base of a digit": "9_2",
    "large base": "1_{99}",
    "large exponent": "1E999999",
    "exponent beyond what Python prints": "1E5000+x",
    "argument beyond what Python prints": "f(10^{5000})",
    "nested sines": r"\sin" * 38 + " 1",
    "nested sums of sines": r"\sum_{k=1}^{3}\sin(" * 18 + "1" + ")" * 18,
    "nested sums of factorials": r"\sum_{k=1}^{500}\sum_{j=1}^{30}(6000)!",
    "nested factors before fractions": r"2\frac{" * 35 + "1" + "}{2}" * 35,
    "nested memberships": r"\{x\in " * 35 + "1" + r"\}" * 35,
    "superscript as a base": "\\text{A5}_{\\text{\u00b9}}",
}


class HostileTest(parameterized.TestCase):
    @parameterized.named_parameters(*(("_" + name, text) for name, text in HOSTILE.items()))
    def test_ends_as_incorrect(self, text):
        for gold in ("5", "x+1", r"\sqrt{2}+\sqrt{3}", "(1,2)", r"(0,\infty)", "1,2", "x=y"):
            verdict = compare(text, gold)
            self.assertEqual(verdict.reward, 0.0, verdict)
            self.assertLess(len(verdict.detail), 500)

    def test_random_tokens_raise_nothing(self):
        numbers = random.Random(0)
        words = (
            r"\frac \sqrt \sin \log \pi \infty \text{ab} \cup \{ \} \% \$ ^\circ \pm \binom "
            r"\begin{pmatrix} \end{pmatrix} \\ & { } ( ) [ ] , ; : = < > ^ _ ! | ' + - * / . "
            r"0 1 2 37 x y e i f( 0.5 1,000 and or \overline \le \in \mathbb{R} \setminus inches"
        )
        tokens = words.split()
        golds = ("5", "x+1", "(1,2)", r"(0,\infty)", "1,2", "y=x", r"\text{A}", "101_2", "3:4")
        for _ in range(3000):
            text = "".join(numbers.choices(tokens, k=numbers.randint(1, 14)))
            verdict = compare(text, numbers.choice(golds))
            self.assertIn(verdict.reward, (0.0, 1.0))
            self.assertEqual(compare(numbers.choice(golds), text).extracted is None, False)


@absltest.skipUnless(os.environ.get("RESTEM_DATA_DIR"), "RESTEM_DATA_DIR is not set")
class MathDataTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.golds = []
        for split in ("train", "test"):
            path = pathlib.Path(os.environ["RESTEM_DATA_DIR"], "math", f"{split}.jsonl.gz")
            with gzip.open(path, "rt") as lines:
                for line in lines:
                    row = json.loads(line)
                    gold = extract_gold(row["solution"])
                    self.golds.append((f"{split}/{row['idx']}", row["type"], gold))

    def test_every_gold_is_itself(self):
        """All 12,500, of which two have an empty box."""
        empty = [place for place, _, gold in self.golds if gold is None]
        self.assertEqual(empty, ["train/5341", "train/5343"])
        for place, _, gold in self.golds:
            if gold is not None:
                self.assertTrue(is_equivalent(gold, gold), place)

    def test_every_gold_can_be_parsed(self):
        """Each is read by the grammar, not only equal to itself as a string."""
        for place, _, gold in self.golds:
            if gold is not None:
                self.assertIsNotNone(parse(clean(gold)), place)

    def test_other_problems_answers(self):
        """Against another problem's answer of its type: only the same number is ever equal."""
        numbers = random.Random(3)
        by_type = {}
        for _, kind, gold in self.golds:
            if gold is not None:
                by_type.setdefault(kind, []).append(gold)
        for kind, golds in by_type.items():
            for gold in numbers.sample(golds, 80):
                other = numbers.choice(golds)
                if compare(other, gold).reward:
                    bare = [
                        "".join(c for c in text if c.isalnum()).replace("dfrac", "frac")
                        for text in (other.replace("circ", ""), gold.replace("circ", ""))
                    ]
                    self.assertEqual(bare[0], bare[1], kind)


if __name__ == "__main__":
    absltest.main()

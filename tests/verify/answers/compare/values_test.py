"""Equality of values: what is proved, what is refuted, and what is refused."""

import random

from absl.testing import absltest, parameterized

from restem.verify.answers.compare.comparison import Comparison
from restem.verify.answers.compare.values import AGREEMENT, compare_values, seeded
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse


def values(a: str, b: str) -> Comparison:
    return compare_values(parse(clean(a)), parse(clean(b)))


class ProofTest(parameterized.TestCase):
    @parameterized.parameters(
        (r"\frac{1}{3}+\frac{1}{6}", r"\frac{1}{2}", "numeric"),
        (r"\sqrt{12}", r"2\sqrt{3}", "symbolic"),
        (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}", "symbolic"),
        (r"\sqrt[3]{7+5\sqrt{2}}", r"1+\sqrt{2}", "symbolic"),
        (r"\cos\frac{2\pi}{5}", r"\frac{\sqrt{5}-1}{4}", "symbolic"),
        (r"(1+i)^8", "16", "symbolic"),
        (r"(\pi+1)^2", r"\pi^2+2\pi+1", "symbolic"),
        (r"(e+\pi)(e-\pi)", r"e^2-\pi^2", "symbolic"),
        (r"(x+y)^5", "x^5+5x^4y+10x^3y^2+10x^2y^3+5xy^4+y^5", "symbolic"),
        (r"\sqrt{2}(x+\sqrt{3})", r"\sqrt{2}x+\sqrt{6}", "symbolic"),
        (r"\pi r^2 \cdot 2", r"2\pi r^2", "symbolic"),
    )
    def test_proved(self, a, b, method):
        self.assertEqual(values(a, b), Comparison(True, method))

    @parameterized.parameters(
        (r"\ln 6", r"\ln 2 + \ln 3"),
        (r"\sin 1 \cos 1", r"\frac{\sin 2}{2}"),
        (r"e^{x+1}", r"e \cdot e^x"),
        (r"\arcsin\frac{1}{2}", r"\frac{\pi}{6}"),
    )
    def test_evidence(self, a, b):
        self.assertEqual(values(a, b), Comparison(True, "symbolic", evidence=AGREEMENT))

    @parameterized.parameters(range(2, 60, 7))
    def test_powers_that_differ_only_far_out(self, n):
        """(1 + sqrt 2)^n is the integer 2p but for (1 - sqrt 2)^n, which is tiny."""
        p, q = 1, 1
        for _ in range(n - 1):
            p, q = p + 2 * q, p + q
        # (1 + sqrt 2)^n = p + q sqrt 2
        self.assertTrue(values(rf"(1+\sqrt{{2}})^{{{n}}}", rf"{p}+{q}\sqrt{{2}}").equal)
        self.assertFalse(values(rf"(1+\sqrt{{2}})^{{{n}}}", f"{2 * p}").equal)

    def test_random_squares_of_sums_of_radicals(self):
        numbers = random.Random(0)
        for _ in range(40):
            a, b, c = (numbers.randint(2, 50) for _ in range(3))
            root = rf"\sqrt{{{a}}}+{c}\sqrt{{{b}}}"
            square = rf"{a + c * c * b}+{2 * c}\sqrt{{{a * b}}}"
            self.assertTrue(values(rf"({root})^2", square).equal, root)
            self.assertTrue(values(rf"\sqrt{{{square}}}", root).equal, root)
            self.assertFalse(values(rf"({root})^2", square + "+10^{-60}").equal, root)
            self.assertFalse(values(root, rf"\sqrt{{{a}}}+{c}\sqrt{{{b + 1}}}").equal, root)

    def test_random_polynomials(self):
        numbers = random.Random(1)
        for _ in range(40):
            roots = [numbers.randint(-9, 9) for _ in range(4)]
            coefficients = [1]
            for root in roots:
                shifted = [*coefficients, 0]
                for index, value in enumerate(coefficients):
                    shifted[index + 1] -= root * value
                coefficients = shifted
            product = "".join(f"(x-({root}))" for root in roots)
            power = len(roots)
            total = "+".join(f"({c})x^{power - k}" for k, c in enumerate(coefficients[:-1]))
            self.assertTrue(values(product, f"{total}+({coefficients[-1]})").equal)
            self.assertFalse(values(product, f"{total}+({coefficients[-1] + 1})").equal)

    def test_points_are_repeatable_and_depend_on_the_answer(self):
        draw = lambda *nodes: seeded(*nodes).getrandbits(64)
        self.assertEqual(draw("a", "b"), draw("a", "b"))
        self.assertNotEqual(draw("a", "b"), draw("a", "c"))

    @parameterized.parameters(
        (r"\sqrt{x^2}", "x"),
        (r"|x|", "x"),
        ("|x|y", "x|y|"),
        (r"\sqrt{x^2y^2}", "|x|y"),
        (r"\ln x^2", r"2 \ln |x| + 10^{-40}"),
    )
    def test_both_signs_are_tried(self, a, b):
        self.assertFalse(values(a, b).equal)

    @parameterized.parameters(
        (r"(x+1)^{99999}", "x"),
        ("7000!", "7000! + 1"),
        (r"2^{10^{7}}", r"4^{5000000}"),
        (r"\sum", "1"),
    )
    def test_refused_or_unreadable_is_not_equal(self, a, b):
        try:
            result = values(a, b)
        except ValueError:
            return
        self.assertFalse(result.equal)
        self.assertNotEqual(result.detail, "")


if __name__ == "__main__":
    absltest.main()

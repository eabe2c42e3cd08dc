"""Numbers in words, words that change the value before them, and other notation of numbers."""

from absl.testing import absltest, parameterized

from restem.verify.answers.equivalence import compare


class NumberWordsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("twenty-one", "21"),
        (r"\text{twenty-one}", "21"),
        ("Twenty one", "21"),
        ("ninety-nine", "99"),
        (r"\mbox{four}", "4"),
        ("two-thirds", r"\frac23"),
        (r"\text{one half}", r"\frac12"),
        ("2 thirds", r"\frac23"),
        (r"3 \text{ tenths}", "0.3"),
        (r"2 \text{ thirds of a mile}", r"\frac23"),
        (r"1 \text{ third}", r"\frac13"),
        (r"3 \text{ quarters of an hour}", r"\frac34"),
    )
    def test_equal(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)

    @parameterized.parameters(
        ("twenty-one", "19"),
        ("twenty-one", "20"),
        ("twenty-one", "0"),
        (r"\text{twenty-one}", "19"),
        ("twenty fifth", "4"),
        ("2 thirds", "2"),
        ("3 tenths", "3"),
        (r"2 \text{ hundredths}", "2"),
    )
    def test_different(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)


class WordsAfterAValueTest(parameterized.TestCase):
    @parameterized.parameters(
        ("5 squared", "5"),
        ("x squared", "x"),
        (r"5 \text{ squared}", "5"),
        (r"5 \text{ factorial}", "5"),
        (r"5\text{!}", "5"),
        (r"5 \text{ +3 apples}", "5"),
        (r"x \text{ over } y", "xy"),
        (r"a \text{ plus } b", "ab"),
        (r"5 \text{ minus } x", "5x"),
        (r"5 \text{ minus two}", "5"),
        (r"5 \text{ point five}", "5"),
        (r"5 \text{ times two}", "5"),
        (r"5 \text{ over two}", "5"),
        (r"5 \text{ to the fourth}", "5"),
        (r"5 \text{ two}", "5"),
        (r"7 \text{ mod ten}", "7"),
        (r"7 \text{ (mod 10)}", "7"),
        (r"5 \text{ below zero}", "5"),
        (r"5 \text{ isn't right}", "5"),
        ("5 isn't right", "5"),
        ("5 January", "5"),
    )
    def test_change_it(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)

    @parameterized.parameters(
        (r"2 \text{ fifth graders}", "2"),
        (r"3 \text{ quarters}", "3"),
        (r"3 \text{ two-digit numbers}", "3"),
        (r"5 \text{ times}", "5"),
        (r"5 \text{ times as many}", "5"),
        (r"5 \text{ left over}", "5"),
        (r"5 \text{ over the weekend}", "5"),
        (r"5 \text{ to the north}", "5"),
        (r"5.3 \text{ to the nearest tenth}", "5.3"),
        (r"5 \text{ (ways)}", "5"),
        (r"5 \text{ plus signs}", "5"),
        (r"5 \text{-gon}", "5"),
        (r"\$5\text{/hour}", "5"),
        (r"5\text{\$}", "5"),
        (r"50\text{ \%}", r"\frac12"),
        ("20\\text{\u00b0}", r"20^\circ"),
        ("20\\text{\u00b0C}", "20"),
    )
    def test_leave_it(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)


class NotationTest(parameterized.TestCase):
    @parameterized.parameters(
        ("0.(3)", r"\frac13"),
        (".(3)", r"\frac13"),
        ("-1.(3)", r"-\frac43"),
        ("0.1(6)", r"\frac16"),
        ("x = 0.1(6)", r"\frac16"),
        ("2.5(4)(3)", "30"),
        ("2(3.5)", "7"),
        (r"\cot^{-1} 1", r"\frac{\pi}{4}"),
        (r"\sin^{-2} x", r"\frac{1}{\sin^2 x}"),
        (r"(\sec x)^{-1}", r"\cos x"),
        (r"\lg 100", "2"),
    )
    def test_equal(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)

    @parameterized.parameters(
        ("1.(3)", "3"),
        ("2.(5)", "10"),
        ("0.1(6)", "0.6"),
        (r"\sec^{-1} x", r"\cos x"),
        (r"\sinh^{-1} 1", r"\frac{1}{\sinh 1}"),
        (r"\ln^{-1} x", r"\frac{1}{\ln x}"),
        (r"\lg 8", "3"),
    )
    def test_different(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)


if __name__ == "__main__":
    absltest.main()

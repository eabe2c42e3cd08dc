"""Which left sides only name a value, and chains of equations."""

from absl.testing import absltest, parameterized

from restem.verify.answers.equivalence import compare

VECTOR = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"


class LabelTest(parameterized.TestCase):
    @parameterized.parameters(
        ("|x|=5", "5"),
        ("|ab|=5", "5"),
        ("x^{-1}=5", "5"),
        ("A^{-1}=5", "5"),
        ("(x,y)=5", "5"),
    )
    def test_is_no_name(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)

    @parameterized.parameters(
        ("AB=5", "5"),
        ("|AB|=5", "5"),
        (r"|\overrightarrow{AB}|=5", "5"),
        (r"|\vec{a}|=5", "5"),
        (r"\frac{x}{y}=5", "5"),
        ("f^{-1}(x)=5x", "5x"),
        (f"A^{{-1}}={VECTOR}", VECTOR),
        ("(x,y)=(1,2)", "(1,2)"),
        (r"(x,y)=(\pm 3,\pm 4)", "(-3,-4), (3,4)"),
    )
    def test_is_a_name(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)


class ChainTest(parameterized.TestCase):
    @parameterized.parameters(
        ("x=4=5", "5"),
        ("y=4=5", "y=5"),
        (r"x=5\text{ m}=400\text{ cm}", r"400\text{ cm}"),
    )
    def test_false(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)

    @parameterized.parameters(
        ("x=2+3=5", "5"),
        ("y=2+3=5", "y=5"),
        ("x=3/6=1/2", r"\frac12"),
        (r"x=\frac{2}{3}=0.667", "0.667"),
        (r"A=4\pi=12.57", "12.57"),
        (r"A=\pi r^2=25\pi", r"25\pi"),
        ("AB=AC+CB=5", "5"),
        ("P=f(2)=5", "5"),
        ("N=101_2=5", "5"),
        (r"x\equiv 17\equiv 7 \pmod{10}", r"7 \pmod{10}"),
        (r"x=5\text{ m}=500\text{ cm}", r"500\text{ cm}"),
        (r"x=0.25=25\%", r"25\%"),
        (r"\theta=\frac{\pi}{4}=45^\circ", r"45^\circ"),
        ("x=0.5(8)=4", "4"),
    )
    def test_true_as_far_as_can_be_told(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)


if __name__ == "__main__":
    absltest.main()

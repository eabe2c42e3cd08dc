"""The grammar: the trees of some answers, and what is refused."""

from fractions import Fraction

from absl.testing import absltest, parameterized

from restem.verify.answers.latex.nodes import (
    Application,
    Degree,
    Function,
    Inverse,
    List,
    Matrix,
    Negation,
    Node,
    Numeral,
    PlusMinus,
    Power,
    Product,
    Quantity,
    Ratio,
    Reals,
    Relation,
    Set,
    Sum,
    Symbol,
    Text,
    Tuple,
    Union,
    number,
)
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse
from restem.verify.answers.latex.tokens import ParseError

X, Y = Symbol("x"), Symbol("y")
ONE, TWO, THREE = number(1), number(2), number(3)
HALF = Product((ONE, Inverse(TWO)))


class ParserTest(parameterized.TestCase):
    @parameterized.parameters(
        ("1,234", number(1234)),
        (r"\frac12", HALF),
        (r"3\frac12", Sum((THREE, HALF))),
        ("3 1/2", Sum((THREE, HALF))),
        (r"\sqrt[3]{x}", Power(X, Inverse(THREE))),
        ("-x^2", Negation(Power(X, TWO))),
        ("x^{y^2}", Power(X, Power(Y, TWO))),
        ("2xy", Product((TWO, X, Y))),
        (r"x-2y", Sum((X, Negation(Product((TWO, Y)))))),
        (r"\sin 2 \cos y", Product((Function("sin", (TWO,)), Function("cos", (Y,))))),
        (r"\sin^{-1} x", Function("arcsin", (X,))),
        (r"\log_2 x", Function("log", (X, TWO))),
        ("f(2)", Application("f", TWO)),
        ("|x-|y||", Function("abs", (Sum((X, Negation(Function("abs", (Y,))))),))),
        (r"45^\circ", Degree(number(45))),
        (r"15\text{ cm}^2", Quantity(number(15), (("cm", 2),))),
        (r"15\text{ cm squared}", Quantity(number(15), (("cm squared", 1),))),
        ("9 a.m.", Quantity(number(9), (("a.m", 1),))),
        ("2 thirds", Product((TWO, Inverse(THREE)))),
        ("twenty-one", number(21)),
        ("0.(3)", number(Fraction(1, 3))),
        ("1011_2", Numeral("1011", 2)),
        (r"1\pm x", Sum((ONE, PlusMinus(1, X)))),
        ("1,2", List((ONE, TWO))),
        (r"\{1,2\}", Set((ONE, TWO))),
        ("(1,2]", Tuple("(", (ONE, TWO), "]")),
        (r"\mathbb{R} \cup \{2\}", Union((Reals(), Set((TWO,))))),
        ("1:2:3", Ratio((ONE, TWO, THREE))),
        (r"1\le x<3", Relation((ONE, X, THREE), ("<=", "<"))),
        (
            r"x=2 \text{ or } x=3",
            List((Relation((X, TWO), ("=",)), Relation((X, THREE), ("=",))), "or"),
        ),
        (r"\begin{pmatrix}1&x\\2&y\end{pmatrix}", Matrix(((ONE, X), (TWO, Y)))),
        (r"\text{two lines}", Text("two lines")),
    )  # fmt: skip
    def test_tree(self, answer: str, tree: Node):
        self.assertEqual(parse(clean(answer)), tree)

    def test_thousands_are_a_list_if_the_gold_answer_is_one(self):
        self.assertEqual(parse("81,256", thousands=False), List((number(81), number(256))))

    @parameterized.parameters(
        "", "{}^2", "(1", "(1}", "1 2", r"\frac{1}", r"\sqrt", r"\catcode", r"\{1", "x_", "@",
        r"\begin{pmatrix}1&2\\3\end{pmatrix}", r"\begin{pmatrix}1\end{bmatrix}", "(1]", "2^" * 50,
        "(" * 41 + "1" + ")" * 41, r"\text{open", "1E999999", r"\sec^{-1} x", "5 squared",
        r"5\text{!}", r"x \text{ over } y",
    )  # fmt: skip
    def test_refused(self, answer):
        with self.assertRaises(ParseError):
            parse(clean(answer))


if __name__ == "__main__":
    absltest.main()

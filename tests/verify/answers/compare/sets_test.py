"""Sets of reals: which expressions denote the same one, and what is none."""

from absl.testing import absltest, parameterized

from restem.verify.answers.compare import sets
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse


def read(answer: str):
    return sets.from_answer(parse(clean(answer)))


class SetsTest(parameterized.TestCase):
    @parameterized.parameters(
        (r"(-\infty,2]\cup(2,5)", r"(-\infty,5)", True),
        (r"[1,1]", r"\{1\}", True),
        (r"(0,2)\cap(1,3)", "(1,2)", True),
        (r"(0,3)\setminus[1,2]", r"(0,1)\cup(2,3)", True),
        (r"(0,\sqrt8)", r"(0,2\sqrt2)", True),
        (r"\mathbb{R}\setminus\emptyset", r"(-\infty,\infty)", True),
        (r"\{x\mid x<1\}", r"(-\infty,1)", True),
        (r"\{x\mid x<1, x>0\}", "(0,1)", True),
        ("(0,1)", "[0,1)", False),
        (r"\{1,2\}", "[1,2]", False),
        (r"(0,1)\cup(1,2)", "(0,2)", False),
    )
    def test_equal(self, a, b, equal):
        self.assertEqual(sets.equal(read(a), read(b)), equal)
        self.assertEqual(sets.equal(read(b), read(a)), equal)

    @parameterized.parameters(
        "(2,1)", "(1,1)", "(0,a)", r"(0,\infty]", "(1,2,3)", r"\mathbb{Z}", "(0,i)",
        r"\{x \in \mathbb{Z} \mid x>2\}",
    )  # fmt: skip
    def test_no_set_of_reals(self, answer):
        with self.assertRaises(sets.NotASet):
            sets.equal(read(answer), read("(0,1)"))

    @parameterized.parameters(
        ("3>x", r"(-\infty,3)"), (r"2\ge x>1", "(1,2]"), (r"x\ne 0", r"\mathbb{R}\setminus\{0\}")
    )
    def test_solutions_of_relations(self, relation, interval):
        solutions = sets.from_relation(parse(clean(relation)))
        self.assertTrue(sets.equal(solutions, read(interval)))

    @parameterized.parameters("x<y", "x^2<4", "1<2", "0<x<y", r"1<x>0")
    def test_other_relations(self, relation):
        with self.assertRaises(sets.NotASet):
            sets.from_relation(parse(clean(relation)))


if __name__ == "__main__":
    absltest.main()

"""Which solutions count as the same."""

from absl.testing import absltest, parameterized

from restem.records import Sample
from restem.steps import distinct


def _sample(text):
    return Sample("a", 0, text, (), -1.0, "eos", 1.0)


class EquationSetTest(parameterized.TestCase):
    @parameterized.parameters(
        ("We add: 2 + 3 = 5. The answer is 5.", "Sum is 2+3=5, so 5.", True),
        ("2 + 3 = 5 and 5 * 2 = 10", "5 * 2 = 10 because 2 + 3 = 5", True),
        ("2 + 3 = 5", "3 + 2 = 5", False),
        ("The answer is five.", "It is five.", False),
        ("$x = \\frac{1}{2}$", "so $x=\\frac{1}{2}$.", True),
        ("$2 + 3 = 5$ apples", "2+3=5", True),
        ("2 + 3 = 5. They cost 5 * $2 = $10", "2 + 3 = 5. They cost $4 + $6 = $10", False),
        ("They cost 5 * $2 = $10", "So 5*2=10 dollars", True),
        ("11,000 - 9,500 = 1,500", "11000 - 9500 = 1500", True),
        ("11,000 - 9,500 = 1,500", "10,000 - 8,500 = 1,500", False),
    )
    def test_equation_set(self, one, two, same):
        one, two = (distinct.equation_set(_sample(t)) for t in (one, two))
        self.assertEqual(one == two, same, f"{one!r} {two!r}")


if __name__ == "__main__":
    absltest.main()

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
    )
    def test_equation_set(self, one, two, same):
        one, two = (distinct.equation_set(_sample(t)) for t in (one, two))
        self.assertEqual(one == two, same, f"{one!r} {two!r}")


if __name__ == "__main__":
    absltest.main()

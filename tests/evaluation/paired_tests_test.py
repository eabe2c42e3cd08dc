"""Paired tests against exact enumeration and published values."""

import itertools
import math

import numpy as np
from absl.testing import absltest, parameterized

from restem.evaluation import paired_tests


class PairedTestTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, 0, 1.0), (0, 6, 2 / 64), (5, 5, 1.0), (2, 12, 2 * (1 + 14 + 91) / 2**14)
    )
    def test_mcnemar_by_hand(self, only_a, only_b, p_value):
        self.assertAlmostEqual(paired_tests.mcnemar(only_a, only_b), p_value, places=14)
        self.assertAlmostEqual(paired_tests.mcnemar(only_b, only_a), p_value, places=14)

    def test_mcnemar_equals_enumeration_of_swaps(self):
        """Under the null every discordant pair may be swapped: sign flips say the same."""
        a = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
        b = np.array([0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0])
        result = paired_tests.paired_test(a, b)
        flips = list(itertools.product((1, -1), repeat=int(np.sum(a != b))))
        observed = abs(int(np.sum(b - a)))
        exact = np.mean([abs(sum(flip)) >= observed for flip in flips])
        self.assertAlmostEqual(result.p_value, exact, places=14)
        self.assertEqual((result.only_a, result.only_b, result.method), (2, 6, "mcnemar"))
        self.assertAlmostEqual(result.difference, 4 / 11)

    def test_interval_equals_published_values(self):
        """Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33:2850: airway reactivity
        before and after stem cell transplantation, cells 1, 1, 7, 12; "square-and-add"."""
        both, only_b, only_a, neither = 1, 1, 7, 12
        a = [1] * both + [0] * only_b + [1] * only_a + [0] * neither
        b = [1] * both + [1] * only_b + [0] * only_a + [0] * neither
        result = paired_tests.paired_test(a, b)
        np.testing.assert_allclose(result.ci, (-0.507, -0.026), atol=5e-4)
        self.assertAlmostEqual(result.p_value, 2 * (1 + 8) / 2**8)

    def test_interval_without_correlation_is_wilson_squared_and_added(self):
        """All of b, none of a: phi is 0, and Wilson's ends are n / (n + z^2) and its mirror."""
        low, high = paired_tests.paired_test([0] * 29, [1] * 29).ci
        end = 29 / (29 + 1.959963984540054**2)
        self.assertAlmostEqual(low, 1 - math.sqrt(2) * (1 - end), places=12)
        self.assertEqual(high, 1.0)

    def test_interval_covers(self):
        """Pairs of a known difference: near 95 of 100 intervals hold it."""
        rng = np.random.default_rng(5)
        held = 0
        for _ in range(600):
            shared = rng.random(80)
            a, b = shared < 0.4, np.where(rng.random(80) < 0.7, shared, rng.random(80)) < 0.55
            low, high = paired_tests.paired_test(a, b).ci
            held += low <= 0.15 <= high
        self.assertBetween(held / 600, 0.92, 0.98)

    def test_graded_scores_use_sign_flips(self):
        a, b = [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 0.5]
        result = paired_tests.paired_test(a, b)
        # Differences .25, .5, -.5: sums are +-.25 (4 of 8), +-.75 (2), +-1.25 (2): all >= .25.
        self.assertEqual((result.method, result.p_value), ("sign-flip", 1.0))
        self.assertAlmostEqual(result.difference, 0.0625)
        larger = paired_tests.paired_test([0.5] * 5, [0.6, 0.7, 0.8, 0.9, 1.0])
        self.assertEqual(larger.p_value, 2 / 32)

    def test_random_flips_agree_with_mcnemar(self):
        """Scores 0 and 2 are no 0/1 scores, yet the same test by random flips."""
        a, b = np.repeat([0, 2, 0], [30, 14, 50]), np.repeat([2, 0, 0], [30, 14, 50])
        result = paired_tests.paired_test(a, b, seed=1)
        self.assertEqual(result.method, "sign-flip")
        self.assertAlmostEqual(result.p_value, paired_tests.mcnemar(14, 30), delta=0.004)

    def test_shapes_must_agree(self):
        with self.assertRaises(ValueError):
            paired_tests.paired_test([1, 0], [1])
        with self.assertRaises(ValueError):
            paired_tests.paired_test([], [])


if __name__ == "__main__":
    absltest.main()

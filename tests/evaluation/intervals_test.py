"""Intervals against published values and exact enumeration."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from restem.evaluation import intervals


class IntervalTest(parameterized.TestCase):
    # Newcombe (1998), Statistics in Medicine 17:857, table I, the score method.
    @parameterized.parameters(
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    )  # fmt: skip
    def test_wilson_equals_published_values(self, successes, n, low, high):
        got = intervals.wilson(successes, n)
        np.testing.assert_allclose(got, (low, high), atol=5e-5)

    def test_wilson_inverts_the_score_test(self):
        """At either end the score statistic is the normal quantile."""
        successes, n = 37, 90
        for end in intervals.wilson(successes, n, level=0.9):
            score = abs(successes / n - end) / math.sqrt(end * (1 - end) / n)
            self.assertAlmostEqual(score, 1.6448536269514722, places=10)

    def test_wilson_ends(self):
        self.assertEqual(intervals.wilson(0, 0), (0.0, 1.0))
        self.assertEqual(intervals.wilson(7, 7)[1], 1.0)
        with self.assertRaises(ValueError):
            intervals.wilson(3, 2)
        with self.assertRaises(ValueError):
            intervals.wilson(1, 2, level=95)

    def test_bootstrap_is_seeded_and_close_to_the_normal_interval(self):
        values = np.random.default_rng(1).random(600)
        got = intervals.bootstrap(values, seed=3)
        self.assertEqual(got, intervals.bootstrap(values, seed=3))
        self.assertNotEqual(got, intervals.bootstrap(values, seed=4))
        half = 1.959964 * values.std() / math.sqrt(600)
        np.testing.assert_allclose(got, (values.mean() - half, values.mean() + half), atol=2e-3)

    def test_bootstrap_quantiles_equal_exact_enumeration(self):
        """Two values: a mean of 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
        self.assertEqual(intervals.bootstrap([0.0, 1.0], seed=0, level=0.4), (0.5, 0.5))
        self.assertEqual(intervals.bootstrap([0.0, 1.0], seed=0, level=0.6), (0.0, 1.0))
        with self.assertRaises(ValueError):
            intervals.bootstrap([], seed=0)


if __name__ == "__main__":
    absltest.main()

"""The statistics against exact enumeration and published values."""

import fractions
import itertools
import math

import numpy as np
from absl.testing import absltest, parameterized

from restem.evaluation import metrics


def enumerated_pass_at_k(correct, k):
    subsets = list(itertools.combinations(correct, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def enumerated_majority(keys, correct, k):
    """Every subset, every vote, ties shared: the definition, in fractions."""
    right = {key for key, mark in zip(keys, correct, strict=True) if mark and key is not None}
    total, count = fractions.Fraction(0), 0
    for subset in itertools.combinations(keys, k):
        count += 1
        votes = {}
        for key in subset:
            if key is not None:
                votes[key] = votes.get(key, 0) + 1
        best = [key for key in votes if votes[key] == max(votes.values())]
        if best:
            total += fractions.Fraction(sum(key in right for key in best), len(best))
    return float(total / count)


class PassAtKTest(parameterized.TestCase):
    @parameterized.parameters(*itertools.product((1, 2, 5, 9), (0, 1, 3, 9)))
    def test_equals_enumeration(self, k, c):
        correct = [True] * c + [False] * (9 - c)
        self.assertAlmostEqual(
            metrics.pass_at_k(9, c, k), enumerated_pass_at_k(correct, k), places=14
        )

    def test_equals_the_formula_in_fractions_where_floats_overflow(self):
        n, c, k = 5000, 7, 400
        exact = 1 - fractions.Fraction(math.comb(n - c, k), math.comb(n, k))
        self.assertAlmostEqual(metrics.pass_at_k(n, c, k), float(exact), places=13)

    def test_ends_are_exact(self):
        self.assertEqual(metrics.pass_at_k(200, 0, 100), 0.0)
        self.assertEqual(metrics.pass_at_k(200, 101, 100), 1.0)
        self.assertEqual(metrics.pass_at_k(10, 3, 1), 1 - 7 / 10)

    def test_arrays_broadcast(self):
        got = metrics.pass_at_k(np.array([4, 8]), np.array([[1], [2]]), 2)
        want = [[metrics.pass_at_k(n, c, 2) for n in (4, 8)] for c in (1, 2)]
        np.testing.assert_allclose(got, want)

    @parameterized.parameters((4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2))
    def test_impossible_counts_raise(self, n, c, k):
        with self.assertRaises(ValueError):
            metrics.pass_at_k(n, c, k)

    def test_is_unbiased(self):
        """Averaged over the binomial c, it is 1 - (1 - p)^k exactly."""
        n, k, p = 12, 4, 0.3
        mean = sum(
            math.comb(n, c) * p**c * (1 - p) ** (n - c) * metrics.pass_at_k(n, c, k)
            for c in range(n + 1)
        )
        self.assertAlmostEqual(mean, 1 - (1 - p) ** k, places=13)

    def test_mean_over_ragged_rows(self):
        rows = [[1, 0, 0], [0, 0, 0, 0], [1, 1]]
        self.assertAlmostEqual(metrics.mean_pass_at_k(rows, 2), (2 / 3 + 0 + 1) / 3)
        with self.assertRaises(ValueError):
            metrics.mean_pass_at_k(rows, 3)
        with self.assertRaises(ValueError):
            metrics.mean_pass_at_k([], 1)


class MajorityTest(parameterized.TestCase):
    @parameterized.parameters(range(40))
    def test_equals_enumeration(self, seed):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 10))
        keys = [None if x == 5 else int(x) for x in rng.integers(0, 6, size=n)]
        right = set(rng.integers(0, 5, size=int(rng.integers(0, 3))).tolist())
        correct = [key in right for key in keys]
        for k in range(1, n + 1):
            self.assertAlmostEqual(
                metrics.maj_at_k(keys, correct, k),
                enumerated_majority(keys, correct, k),
                places=12,
                msg=f"{keys} {right} {k}",
            )

    def test_one_vote_is_the_success_rate(self):
        keys = ["a", "b", "b", None, "c"] * 20
        correct = [key == "b" for key in keys]
        self.assertAlmostEqual(metrics.maj_at_k(keys, correct, 1), 0.4, places=12)

    def test_worked_example_of_the_docstring(self):
        self.assertEqual(metrics.maj_at_k(["5", "5", "7"], [1, 1, 0], 3), 1.0)
        self.assertAlmostEqual(metrics.maj_at_k(["5", "5", "7"], [1, 1, 0], 2), 2 / 3)

    def test_ties_are_shared_and_blanks_do_not_vote(self):
        self.assertEqual(metrics.maj_at_k(["a", "b"], [1, 0], 2), 0.5)
        self.assertEqual(metrics.maj_at_k(["a", None, None], [1, 0, 0], 3), 1.0)
        self.assertEqual(metrics.maj_at_k([None, None], [0, 0], 2), 0.0)

    def test_many_samples_agree_with_drawn_subsets(self):
        rng = np.random.default_rng(0)
        keys = ["a"] * 400 + ["b"] * 380 + ["c"] * 200 + [None] * 500
        keys += [f"x{i}" for i in range(200)]
        correct = [key == "a" for key in keys]
        codes = np.array([{"a": 0, "b": 1, "c": 2, None: 3}.get(key, 4) for key in keys])
        k, hits, draws = 64, 0.0, 4000
        for _ in range(draws):
            # The singles never reach a's votes at this k, so one code is enough for all of them.
            votes = np.bincount(rng.choice(codes, size=k, replace=False), minlength=5)[:3]
            if votes[0] == votes.max():
                hits += 1 / np.sum(votes == votes.max())
        got = metrics.maj_at_k(keys, correct, k)
        self.assertLess(abs(got - hits / draws), 4 * 0.5 / math.sqrt(draws))

    def test_a_class_with_both_verdicts_counts_by_its_share(self):
        self.assertEqual(metrics.maj_at_k(["a", "a", "b"], [1, 0, 0], 3), 0.5)
        self.assertAlmostEqual(metrics.maj_at_k(["a", "a", "b"], [1, 0, 0], 1), 1 / 3)

    def test_impossible_votes_raise(self):
        with self.assertRaises(ValueError):
            metrics.maj_at_k(["a"], [1], 2)
        with self.assertRaises(ValueError):
            metrics.maj_at_k(["a"], [1, 0], 1)

    def test_mean_over_problems(self):
        got = metrics.mean_maj_at_k([["a", "b"], ["c", "c"]], [[1, 0], [1, 1]], 2)
        self.assertEqual(got, 0.75)


class IntervalTest(parameterized.TestCase):
    # Newcombe (1998), Statistics in Medicine 17:857, table I, the score method.
    @parameterized.parameters(
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    )  # fmt: skip
    def test_wilson_equals_published_values(self, successes, n, low, high):
        got = metrics.wilson(successes, n)
        np.testing.assert_allclose(got, (low, high), atol=5e-5)

    def test_wilson_inverts_the_score_test(self):
        """At either end the score statistic is the normal quantile."""
        successes, n = 37, 90
        for end in metrics.wilson(successes, n, level=0.9):
            score = abs(successes / n - end) / math.sqrt(end * (1 - end) / n)
            self.assertAlmostEqual(score, 1.6448536269514722, places=10)

    def test_wilson_ends(self):
        self.assertEqual(metrics.wilson(0, 0), (0.0, 1.0))
        self.assertEqual(metrics.wilson(7, 7)[1], 1.0)
        with self.assertRaises(ValueError):
            metrics.wilson(3, 2)
        with self.assertRaises(ValueError):
            metrics.wilson(1, 2, level=95)

    def test_bootstrap_is_seeded_and_close_to_the_normal_interval(self):
        values = np.random.default_rng(1).random(600)
        got = metrics.bootstrap_ci(values, seed=3)
        self.assertEqual(got, metrics.bootstrap_ci(values, seed=3))
        self.assertNotEqual(got, metrics.bootstrap_ci(values, seed=4))
        half = 1.959964 * values.std() / math.sqrt(600)
        np.testing.assert_allclose(got, (values.mean() - half, values.mean() + half), atol=2e-3)

    def test_bootstrap_quantiles_equal_exact_enumeration(self):
        """Two values: a mean of 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
        self.assertEqual(metrics.bootstrap_ci([0.0, 1.0], seed=0, level=0.4), (0.5, 0.5))
        self.assertEqual(metrics.bootstrap_ci([0.0, 1.0], seed=0, level=0.6), (0.0, 1.0))
        with self.assertRaises(ValueError):
            metrics.bootstrap_ci([], seed=0)


class PairedTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, 0, 1.0), (0, 6, 2 / 64), (5, 5, 1.0), (2, 12, 2 * (1 + 14 + 91) / 2**14)
    )
    def test_mcnemar_by_hand(self, only_a, only_b, p_value):
        self.assertEqual(metrics.mcnemar(only_a, only_b), p_value)
        self.assertEqual(metrics.mcnemar(only_b, only_a), p_value)

    def test_mcnemar_equals_enumeration_of_swaps(self):
        """Under the null every discordant pair may be swapped: sign flips say the same."""
        a = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
        b = np.array([0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0])
        result = metrics.paired_test(a, b)
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
        result = metrics.paired_test(a, b)
        np.testing.assert_allclose(result.ci, (-0.507, -0.026), atol=5e-4)
        self.assertAlmostEqual(result.p_value, 2 * (1 + 8) / 2**8)

    def test_interval_without_correlation_is_wilson_squared_and_added(self):
        """All of b, none of a: phi is 0, and Wilson's ends are n / (n + z^2) and its mirror."""
        low, high = metrics.paired_test([0] * 29, [1] * 29).ci
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
            low, high = metrics.paired_test(a, b).ci
            held += low <= 0.15 <= high
        self.assertBetween(held / 600, 0.92, 0.98)

    def test_graded_scores_use_sign_flips(self):
        a, b = [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 0.5]
        result = metrics.paired_test(a, b)
        # Differences .25, .5, -.5: sums are +-.25 (4 of 8), +-.75 (2), +-1.25 (2): all >= .25.
        self.assertEqual((result.method, result.p_value), ("sign-flip", 1.0))
        self.assertAlmostEqual(result.difference, 0.0625)
        larger = metrics.paired_test([0.5] * 5, [0.6, 0.7, 0.8, 0.9, 1.0])
        self.assertEqual(larger.p_value, 2 / 32)

    def test_random_flips_agree_with_mcnemar(self):
        """Scores 0 and 2 are no 0/1 scores, yet the same test by random flips."""
        a, b = np.repeat([0, 2, 0], [30, 14, 50]), np.repeat([2, 0, 0], [30, 14, 50])
        result = metrics.paired_test(a, b, seed=1)
        self.assertEqual(result.method, "sign-flip")
        self.assertAlmostEqual(result.p_value, metrics.mcnemar(14, 30), delta=0.004)

    def test_shapes_must_agree(self):
        with self.assertRaises(ValueError):
            metrics.paired_test([1, 0], [1])
        with self.assertRaises(ValueError):
            metrics.paired_test([], [])


class DifficultyTest(absltest.TestCase):
    def test_edges_belong_to_the_easier_bucket(self):
        rates = [1.0, 0.75, 0.7499, 0.5, 0.4999, 0.25, 0.2499, 0.0]
        want = ["easy", "easy", "medium", "medium", "hard", "hard", "very hard", "very hard"]
        self.assertEqual(metrics.difficulty(rates), want)

    def test_rates_outside_raise(self):
        for bad in (-0.1, 1.1, float("nan")):
            with self.assertRaises(ValueError):
                metrics.difficulty([bad])

    def test_means_by_bucket(self):
        got = metrics.by_difficulty([0.9, 0.8, 0.1], [1, 0, 1])
        self.assertEqual(got["easy"], {"n": 2, "mean": 0.5})
        self.assertEqual(got["medium"], {"n": 0, "mean": None})
        self.assertEqual(got["very hard"], {"n": 1, "mean": 1.0})
        self.assertEqual(list(got), list(metrics.DIFFICULTIES))
        self.assertEqual(metrics.by_difficulty([], [])["easy"]["n"], 0)
        with self.assertRaises(ValueError):
            metrics.by_difficulty([0.5], [1, 0])


if __name__ == "__main__":
    absltest.main()

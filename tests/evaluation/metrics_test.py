"""Metrics against exact enumeration and published values."""

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


class DifficultyTest(absltest.TestCase):
    def test_edges_belong_to_the_easier_bucket(self):
        rates = [1.0, 0.75, 0.7499, 0.5, 0.4999, 0.25, 0.2499, 0.0]
        want = ["easy", "easy", "medium", "medium", "hard", "hard", "very hard", "very hard"]
        self.assertEqual(metrics.difficulty(rates), want)

    def test_rates_outside_raise(self):
        for bad in (-0.1, 1.1, float("nan")):
            with self.assertRaises(ValueError):
                metrics.difficulty([bad])


if __name__ == "__main__":
    absltest.main()

"""Every combination of filters draws from exactly the distribution that it says."""

import dataclasses
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem.sampling import filters
from restem.sampling.filters import Sampling
from tests.helpers import compilation

COMBINATIONS = [
    Sampling(temperature=t, top_k=k, top_p=p)
    for t in (1.0, 0.6, 1.7)
    for k in (0, 1, 5)
    for p in (1.0, 0.8, 0.3)
]


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


DRAW = jax.jit(filters.draw)


def exact(sampling, logits):
    """The distribution after all filters, by sorting, in float64: [vocab]."""
    x = np.asarray(logits, np.float64) / sampling.temperature
    order = np.argsort(-x, kind="stable")
    p = np.exp(x - x.max())
    keep = np.ones(len(p), bool)
    if sampling.top_k:
        keep[order[sampling.top_k :]] = False
    p = np.where(keep, p, 0)
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= sampling.top_p]] = 0
    return p / p.sum()


def chi_square(counts, probs):
    """Pearson's statistic and its degrees of freedom, rare outcomes put together."""
    expected = probs * counts.sum()
    rare = expected < 5
    statistic, cells = 0.0, 0
    for seen, due in [
        *zip(counts[~rare], expected[~rare], strict=True),
        (counts[rare].sum(), expected[rare].sum()),
    ]:
        if due > 0:
            statistic += (seen - due) ** 2 / due
            cells += 1
    return statistic, cells - 1


def limit(freedom):
    """The 1 - 1e-5 quantile of chi-square (Wilson and Hilferty's approximation)."""
    if freedom <= 0:
        return 1e-9
    a = 2 / (9 * freedom)
    return freedom * (1 - a + 4.265 * a**0.5) ** 3


@dataclasses.dataclass(frozen=True)
class Draws:
    counts: np.ndarray
    logprobs: np.ndarray
    tokens: np.ndarray


def draw_many(sampling, logits, number=20_000, seed=0):
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (number, len(logits)))
    keys = jax.random.split(jax.random.key(seed), number)
    active = jnp.ones(number, bool)
    drawing = filters.Drawing.of(sampling)
    tokens, logprobs = (np.asarray(a) for a in DRAW(drawing, rows, keys, active))
    return Draws(np.bincount(tokens, minlength=len(logits)), logprobs, tokens)


class InverseTest(parameterized.TestCase):
    @parameterized.parameters(
        ([2, 1, 1], 0.5, 1),  # the example of the docstring
        ([2, 1, 1], 0.49, 0),
        ([2, 1, 1], 0.75, 2),
        ([0, 0, 1, 3], 0.0, 2),  # what has no weight is never drawn, not even at its edge
        ([1, 0, 1, 0], 0.5, 2),
    )
    def test_the_first_index_whose_running_sum_exceeds(self, weights, uniform, expected):
        weights = jnp.asarray([weights], jnp.float32)
        found = filters._invert(weights, jnp.asarray([uniform], jnp.float32))
        self.assertEqual(found.tolist(), [expected])


class FiltersTest(parameterized.TestCase):
    @parameterized.parameters(*[dataclasses.asdict(s) for s in COMBINATIONS])
    def test_distribution(self, **fields):
        sampling = Sampling(**fields)
        logits = np.random.default_rng(3).normal(size=12) * 1.5
        probs = exact(sampling, logits)
        draws = draw_many(sampling, logits)
        self.assertEqual(draws.counts[probs == 0].sum(), 0)
        statistic, freedom = chi_square(draws.counts, probs)
        self.assertLess(statistic, limit(freedom))

    @parameterized.parameters(
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.37},
        {"temperature": 1.3, "top_k": 40},
        {"temperature": 1.0, "top_k": 90, "top_p": 0.7},
    )
    def test_distribution_where_the_vocabulary_is_larger_than_the_candidates(self, **fields):
        # 300 ids: no whole number of groups, and nearly flat, so that top-p keeps more than 64.
        sampling = Sampling(**fields)
        logits = np.random.default_rng(5).normal(size=300) * 0.5
        probs = exact(sampling, logits)
        draws = draw_many(sampling, logits)
        self.assertEqual(draws.counts[probs == 0].sum(), 0)
        statistic, freedom = chi_square(draws.counts, probs)
        self.assertLess(statistic, limit(freedom))

    @parameterized.parameters(0.12, 0.27, 0.52, 0.93)
    def test_equal_logits_stay_by_ascending_id(self, p):
        # 20 ids fit among the candidates, 160 do not.
        for vocab in (20, 160):
            draws = draw_many(Sampling(top_p=p), np.zeros(vocab), number=4000)
            self.assertEqual(set(draws.tokens), set(range(math.ceil(p * vocab))))

    def test_a_row_does_not_depend_on_whether_its_neighbours_need_more_candidates(self):
        peaked = np.random.default_rng(0).normal(size=300) * 5
        flat = np.zeros(300)
        keys = jax.random.split(jax.random.key(1), 64)
        drawing = filters.Drawing.of(Sampling(temperature=1.0, top_p=0.9))
        alone = DRAW(drawing, jnp.asarray([peaked] * 64), keys, jnp.ones(64, bool))
        mixed = np.array([peaked, flat] * 32)
        among = DRAW(drawing, jnp.asarray(mixed), keys, jnp.ones(64, bool))
        np.testing.assert_array_equal(alone[0][::2], among[0][::2])

    def test_rows_searched_one_by_one_are_those_searched_together(self):
        rng = np.random.default_rng(2)
        mixed = rng.normal(size=(64, 1000)) * np.where(np.arange(64) % 3, 5, 1)[:, None]
        keys = jax.random.split(jax.random.key(3), 64)
        arguments = (
            filters.Drawing.of(Sampling(temperature=0.8, top_p=0.95)),
            jnp.asarray(mixed, jnp.float32), keys, jnp.arange(64) != 6,
        )  # fmt: skip
        taken = []

        def one_of(*, cpu, default):
            taken.append(cpu)
            return default()

        with mock.patch.object(jax.lax, "platform_dependent", one_of):
            together = jax.jit(lambda *given: filters.draw(*given))(*arguments)
        self.assertLen(taken, 1)
        one_by_one = DRAW(*arguments)
        chosen = np.arange(64) != 6
        np.testing.assert_array_equal(together[0][chosen], one_by_one[0][chosen])

    @parameterized.parameters((50, 7), (300, 1), (1000, 3), (1000, 40), (49152, 40))
    def test_most_likely_is_top_k(self, vocab, k):
        rng = np.random.default_rng(vocab + k)
        # Few distinct values: many ties, which go to the lowest id.
        logits = jnp.asarray(rng.integers(0, 50, (5, vocab)), jnp.float32)
        values, ids = jax.jit(filters.most_likely, static_argnums=1)(logits, k)
        order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(values, np.take_along_axis(np.asarray(logits), order, -1))

    @parameterized.parameters({"temperature": 0.0}, {"temperature": 0.7, "top_k": 3}, {})
    def test_logprob_is_of_the_model_not_of_the_filters(self, **fields):
        sampling = Sampling(**fields)
        logits = np.random.default_rng(0).normal(size=12)
        draws = draw_many(sampling, logits, number=200)
        expected = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(draws.logprobs, expected[draws.tokens], atol=1e-5)

    def test_greedy_takes_the_first_of_the_largest(self):
        draws = draw_many(Sampling(temperature=0.0, top_k=2), [0.0, 2.0, 1.0, 2.0], number=3)
        self.assertEqual(list(draws.tokens), [1, 1, 1])

    def test_filters_compose_over_a_ranked_distribution(self):
        # 0.4 0.3 0.2 0.1: top-k 3 leaves 4/9 3/9 2/9, of which top-p 0.5 keeps the first two.
        logits = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
        kept = filters.TopK(3)(logits, jnp.zeros(1))
        kept = filters.TopP(0.5)(kept, jax.nn.logsumexp(kept, axis=-1))
        self.assertEqual(list(np.asarray(kept[0]) > filters.REMOVED), [True, True, False, False])

    @parameterized.parameters(
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.2},
    )
    def test_values_that_mean_nothing_are_refused(self, **fields):
        with self.assertRaisesRegex(ValueError, next(iter(fields))):
            Sampling(**fields)


if __name__ == "__main__":
    absltest.main()

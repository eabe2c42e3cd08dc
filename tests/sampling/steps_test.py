"""The programs' parts: what a sample's key is made of, and which columns of the ring it reads."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from restem import models
from restem.models import kv_cache
from restem.models.kv_cache import INVALID_POSITION, GroupedCache
from restem.sampling import insertion, steps
from restem.sampling.filters import Drawing, Sampling
from restem.sampling.steps import Rows
from tests.helpers import compilation

CONFIG = models.ModelConfig(
    vocab_size=11, num_layers=1, embed_dim=4, num_heads=1, num_kv_heads=1, head_dim=2, mlp_dim=4,
    max_length=32,
)  # fmt: skip
SLOTS = 4


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class InsertTest(absltest.TestCase):
    def rows(self, samples, seed=0):
        """The rows after samples [(problem key, sample index)] are inserted, slot by slot."""
        slots = steps.empty_slots(CONFIG, (4,), (SLOTS,), 4, unstacked=False)
        inserts = np.zeros((9, SLOTS), np.int32)
        for i, (problem, sample) in enumerate(samples):
            key = np.uint32(problem).view(np.int32)
            inserts[:, i] = (i, i, 0, 1, 7, 2, key, sample, 5)
        _, rows = insertion.insert(
            slots.questions, slots.rows, kv_cache.empty(CONFIG, 1, 4), jax.random.key(seed),
            jnp.int32(10), jnp.asarray(inserts), jnp.asarray([len(samples)], jnp.int32),
        )  # fmt: skip
        return rows

    def keys(self, samples, seed=0):
        data = np.asarray(jax.random.key_data(self.rows(samples, seed).key))
        return [tuple(row) for row in data[: len(samples)].tolist()]

    def test_a_key_is_that_of_problem_sample_and_seed_alone(self):
        samples = [(3, 0), (3, 1), (2**32 - 1, 0), (2**32 - 1, 1)]
        keys = self.keys(samples)
        self.assertLen(set(keys), 4)
        self.assertEqual(self.keys(samples[::-1]), keys[::-1])
        self.assertEmpty(set(keys) & set(self.keys(samples, seed=1)))

    def test_a_sample_starts_at_the_last_token_of_its_question(self):
        rows = self.rows([(3, 0), (4, 0)])
        self.assertEqual(rows.active.tolist(), [True, True, False, False])
        self.assertEqual(rows.token[:2].tolist(), [7, 7])
        self.assertEqual(rows.position[:2].tolist(), [12, 12])
        self.assertEqual(rows.count[:2].tolist(), [0, 0])
        self.assertEqual(rows.limit[:2].tolist(), [5, 5])


class CopyTest(absltest.TestCase):
    def test_nothing_of_the_question_before_is_seen(self):
        slots = steps.empty_slots(CONFIG, (8,), (2,), 4, unstacked=False)
        cache = slots.questions.groups[0]
        before = cache.positions.at[:].set(jnp.arange(8, dtype=jnp.int32))
        questions = GroupedCache((dataclasses.replace(cache, positions=before),), 1)
        prefilled = kv_cache.empty(CONFIG, 3, 2)
        positions = jnp.asarray([[5, 6], [10, 11], [12, INVALID_POSITION]], jnp.int32)
        prefilled = dataclasses.replace(prefilled, positions=positions)
        # Into slot 1, row 1 of its class, the two chunks from 1 on.
        inserts = jnp.zeros((9, 2), jnp.int32).at[:4, 0].set(jnp.asarray([1, 1, 1, 2]))
        after, _ = insertion.insert(
            questions, slots.rows, prefilled, jax.random.key(0), jnp.int32(10), inserts,
            jnp.asarray([1], jnp.int32),
        )  # fmt: skip
        found = after.groups[0].positions.tolist()
        self.assertEqual(found[0], list(range(8)))
        self.assertEqual(found[1], [10, 11, 12] + [INVALID_POSITION] * 5)


class WriteTest(absltest.TestCase):
    def test_a_slot_is_free_after_eos_and_at_its_limit(self):
        cache = kv_cache.empty(CONFIG, SLOTS, 4)
        rows = Rows(
            token=jnp.zeros(SLOTS, jnp.int32),
            position=jnp.full(SLOTS, 6, jnp.int32),
            key=jax.random.split(jax.random.key(0), SLOTS),
            count=jnp.asarray([2, 2, 4, 2], jnp.int32),
            limit=jnp.full(SLOTS, 5, jnp.int32),
            active=jnp.asarray([True, True, True, False]),
        )
        # Slot 0 draws 9, which ends a text, and the others draw 3.
        logits = jax.nn.one_hot(jnp.asarray([9, 3, 3, 3]), CONFIG.vocab_size) * 5
        _, after, tokens, _ = steps.write(
            Drawing.of(Sampling(temperature=0.0)), (8, 9), cache, rows,
            kv_cache.empty(CONFIG, SLOTS, 1), logits, jnp.int32(0),
        )  # fmt: skip
        self.assertEqual(tokens.tolist(), [9, 3, 3, steps.NO_TOKEN])
        self.assertEqual(after.active.tolist(), [False, True, False, False])
        self.assertEqual(after.count.tolist(), [3, 3, 5, 2])
        self.assertEqual(after.position.tolist(), [7] * SLOTS)


class RingTest(absltest.TestCase):
    def test_positions_of_the_docstring_and_none_of_the_sample_before(self):
        for count, expected in ((3, [8, None, 6, 7]), (1, [8, None, None, None]), (0, [None] * 4)):
            rows = Rows(
                token=None, position=jnp.asarray([9], jnp.int32), key=None,
                count=jnp.asarray([count], jnp.int32), limit=None, active=None,
            )  # fmt: skip
            found = steps.ring_positions(rows, jnp.int32(1), 4)[0].tolist()
            self.assertEqual(found, [INVALID_POSITION if p is None else p for p in expected])

    def test_every_column_is_read_once(self):
        rows = Rows(
            token=None, position=jnp.asarray([30], jnp.int32), key=None,
            count=jnp.asarray([20], jnp.int32), limit=None, active=None,
        )  # fmt: skip
        for length, column in itertools.product((1, 3, 8), (0, 2)):
            at = jnp.int32(column % length)
            found = np.asarray(steps.ring_positions(rows, at, length)[0])
            self.assertCountEqual(found.tolist(), range(30 - length, 30))
            self.assertEqual(found[(column - 1) % length], 29)


if __name__ == "__main__":
    absltest.main()

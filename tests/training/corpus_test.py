"""Windows of a training set in shards: every example once, and the same order everywhere."""

import collections

import numpy as np
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.training import corpus, packing
from restem.training.corpus import InMemory, TokenExample

SHAPE = dict(row_length=24, rows_per_batch=2, batch_examples=8)


class Shards:
    """Five shards in memory that count how often they are read."""

    def __init__(self, counts=(9, 0, 14, 5, 12), seed=0):
        rng = np.random.default_rng(seed)
        self.parts = [
            [
                TokenExample(
                    tuple(rng.integers(1, 99, rng.integers(1, 9)).tolist()),
                    tuple(rng.integers(1, 99, rng.integers(0, 12)).tolist()),
                    float(number),
                )
                for number in range(count)
            ]
            for count in counts
        ]
        self.reads = collections.Counter()

    def __len__(self):
        return len(self.parts)

    def shard(self, index):
        self.reads[index] += 1
        return self.parts[index]

    def sizes(self, row_length):
        return corpus.total_sizes([corpus.measured(part, row_length) for part in self.parts])


class WindowsTest(parameterized.TestCase):
    def test_one_window_is_the_shuffle_of_all(self):
        shards = Shards()
        together = InMemory([e for part in shards.parts for e in part])
        for epoch in range(3):
            order = packing.pack(shards, seed=3, epoch=epoch, **SHAPE).examples
            self.assertEqual(order, packing.pack(together, seed=3, epoch=epoch, **SHAPE).examples)
        usable = [e for e in together.examples if e.target_ids]
        permutation = np.random.default_rng([3, 2]).permutation(len(usable))
        self.assertEqual(order, tuple(usable[i] for i in permutation))

    @parameterized.parameters(1, 10, 20, 30)
    def test_each_epoch_has_every_example_once(self, window):
        shards = Shards()
        usable = [e for part in shards.parts for e in part if e.target_ids]
        orders = set()
        for epoch in range(3):
            packed = packing.pack(shards, seed=1, epoch=epoch, window=window, **SHAPE)
            self.assertGreater(len(packed.windows), 1)
            self.assertEqual(collections.Counter(packed.examples), collections.Counter(usable))
            self.assertEqual(sum(int(b.num_examples) for b in packed), len(usable))
            self.assertGreater(packed.efficiency(), 0.2)
            orders.add(packed.examples)
        self.assertLen(orders, 3)

    def test_a_batch_depends_on_nothing_but_its_number(self):
        packed = packing.pack(Shards(), seed=1, epoch=0, window=14, **SHAPE)
        whole = list(packed)
        for k in (4, 1, 3, 0, 2):
            again = packing.pack(Shards(), seed=1, epoch=0, window=14, **SHAPE)
            np.testing.assert_array_equal(again[k].tokens, whole[k].tokens)
            np.testing.assert_array_equal(again[k].weights, whole[k].weights)

    def test_windows_are_read_once_and_only_if_needed(self):
        shards = Shards()
        packed = packing.pack(shards, seed=1, epoch=0, window=14, **SHAPE)
        packed[len(packed) - 1]
        self.assertLess(len(shards.reads), 5)
        shards.reads.clear()
        packed = packing.pack(shards, seed=1, epoch=0, window=14, **SHAPE)
        for batch in packed:
            del batch
            self.assertLessEqual(len(packed._read), 2)
        self.assertEqual(shards.reads, collections.Counter(range(5)))

    def test_without_a_shuffle_the_order_is_that_of_the_shards(self):
        shards = Shards()
        packed = packing.pack(shards, shuffle=False, window=14, **SHAPE)
        usable = tuple(e for part in shards.parts for e in part if e.target_ids)
        self.assertEqual(packed.examples, usable)

    def test_what_is_left_out_is_counted_over_all_shards(self):
        shards = Shards()
        every = [e for part in shards.parts for e in part]
        packed = packing.pack(shards, row_length=9, rows_per_batch=1, batch_examples=4, window=9)
        self.assertEqual(packed.empty, sum(not e.target_ids for e in every))
        self.assertEqual(packed.too_long, sum(bool(e.target_ids) and e.length > 9 for e in every))
        self.assertEqual(packed.num_examples, len(every) - packed.empty - packed.too_long)

    def test_a_shard_that_has_changed_is_refused(self):
        shards = Shards()
        packed = packing.pack(shards, **SHAPE)
        shards.parts[0].append(TokenExample((1,), (2,)))
        with self.assertRaisesRegex(UserError, "not those that were counted"):
            packed[0]

    def test_the_largest_lengths(self):
        sizes = Shards().sizes(None)
        lengths = sorted(sizes.lengths.elements(), reverse=True)
        for count in (1, 8, 1000):
            self.assertEqual(sizes.largest(count).tolist(), lengths[:count])
        self.assertEqual(sizes.total, 40)


if __name__ == "__main__":
    absltest.main()

import collections

import numpy as np
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.training import packing
from restem.training.packing import TokenExample


def some_examples(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TokenExample(
            input_ids=tuple(rng.integers(1, 99, rng.integers(1, 9)).tolist()),
            target_ids=tuple(rng.integers(1, 99, rng.integers(1, 12)).tolist()),
            weight=float(np.float32(rng.uniform(-1, 1))),
        )
        for _ in range(count)
    ]


def unpack(batch, prefix_length):
    """The examples of a batch, read back from its arrays."""
    found = []
    for m in range(batch.tokens.shape[0]):
        for r in range(batch.tokens.shape[1]):
            segments = batch.segments[m, r]
            if m >= batch.num_micro:
                assert not segments.any()
            for s in range(1, segments.max() + 1):
                own = segments == s
                tokens, targets = batch.tokens[m, r][own], batch.targets[m, r][own]
                lengths, weights = batch.lengths[m, r][own], batch.weights[m, r][own]
                predicts = lengths > 0
                count = predicts.sum()
                assert predicts[-count:].all() and (lengths[predicts] == count).all()
                assert (weights[predicts] == weights[-1]).all()
                assert not weights[~predicts].any()
                np.testing.assert_array_equal(targets[-count:-1], tokens[len(tokens) - count + 1 :])
                np.testing.assert_array_equal(
                    batch.positions[m, r][own], prefix_length + np.arange(len(tokens))
                )
                found.append(
                    TokenExample(
                        tuple(tokens[: len(tokens) - count + 1].tolist()),
                        tuple(targets[-count:].tolist()),
                        float(weights[-1]),
                    )
                )
    return found


class PackTest(parameterized.TestCase):
    def test_worked_example_of_the_docstring(self):
        examples = [TokenExample([1, 2], [3, 4], 0.5), TokenExample([5], [6, 7, 8], -2.0)]
        (batch,) = packing.pack(
            examples, row_length=7, rows_per_batch=2, batch_examples=2, prefix_length=2,
            shuffle=False,
        )  # fmt: skip
        np.testing.assert_array_equal(batch.tokens[0, :1], [[1, 2, 3, 5, 6, 7, 0]])
        np.testing.assert_array_equal(batch.segments[0, :1], [[1, 1, 1, 2, 2, 2, 0]])
        np.testing.assert_array_equal(batch.positions[0, :1], [[2, 3, 4, 2, 3, 4, 0]])
        np.testing.assert_array_equal(batch.targets[0, :1], [[0, 3, 4, 6, 7, 8, 0]])
        np.testing.assert_array_equal(batch.weights[0, :1], [[0, 0.5, 0.5, -2, -2, -2, 0]])
        np.testing.assert_array_equal(batch.lengths[0, :1], [[0, 2, 2, 3, 3, 3, 0]])
        self.assertEqual(batch.weights.dtype, np.float32)

    @parameterized.parameters((1, 1, 1), (7, 2, 3), (16, 4, 1), (100, 3, 4))
    def test_every_example_once_an_epoch(self, batch_examples, rows_per_batch, seed):
        examples = some_examples(50, seed)
        epoch = packing.pack(
            examples, row_length=24, rows_per_batch=rows_per_batch,
            batch_examples=batch_examples, prefix_length=5, seed=seed,
        )  # fmt: skip
        self.assertLen(epoch, -(-50 // batch_examples))
        found = []
        for k, batch in enumerate(epoch):
            own = unpack(batch, prefix_length=5)
            self.assertLen(own, min(batch_examples, 50 - k * batch_examples))
            self.assertEqual(batch.num_examples, len(own))
            self.assertEqual(batch.tokens.shape, (epoch.num_micro, rows_per_batch, 24))
            found += own
        self.assertEqual(collections.Counter(found), collections.Counter(examples))

    def test_order_is_a_function_of_seed_and_epoch(self):
        def order(seed, epoch):
            shape = dict(row_length=24, rows_per_batch=2, batch_examples=8)
            return packing.pack(some_examples(40), seed=seed, epoch=epoch, **shape).examples

        self.assertEqual(order(3, 1), order(3, 1))
        self.assertNotEqual(order(3, 1), order(3, 2))
        self.assertNotEqual(order(3, 1), order(4, 1))

    def test_what_does_not_fit_is_counted_and_nothing_is_cut(self):
        examples = [
            TokenExample([1] * 5, [2] * 5),
            TokenExample([1] * 5, [2] * 6),
            TokenExample([1] * 5, []),
        ]
        epoch = packing.pack(examples, row_length=9, rows_per_batch=1, batch_examples=4)
        self.assertEqual(epoch.examples, (examples[0],))
        self.assertEqual((epoch.too_long, epoch.empty), (1, 1))
        self.assertEqual(epoch.efficiency(), 1.0)

    def test_nothing_to_train_on_is_told(self):
        shape = dict(row_length=9, rows_per_batch=1, batch_examples=4)
        with self.assertRaisesRegex(UserError, "raise it"):
            packing.pack([TokenExample([1] * 9, [1] * 2)], **shape)
        with self.assertRaisesRegex(UserError, "example 1 has no input tokens"):
            packing.pack([TokenExample([1], [1]), TokenExample([], [1])], **shape)
        with self.assertRaisesRegex(UserError, "weight nan"):
            packing.pack([TokenExample([1], [1], float("nan"))], **shape)

    def test_the_length_of_the_model_bounds_prefix_and_example_and_not_rows(self):
        examples = [TokenExample([1] * 5, [2] * n) for n in (2, 6, 9)]  # of 6, 10 and 13 tokens
        shape = dict(rows_per_batch=1, batch_examples=4, prefix_length=7)
        epoch = packing.pack(examples, row_length=40, max_length=20, **shape)
        self.assertLess(max(int(batch.positions.max()) for batch in epoch), 20)
        with self.assertRaisesRegex(
            UserError, "13 tokens behind a prefix of 7 exceeds the 19 .* set row_length to 12"
        ):
            packing.pack(examples, row_length=40, max_length=19, **shape)
        epoch = packing.pack(examples, row_length=12, max_length=19, **shape)
        self.assertEqual(epoch.too_long, 1)

    def test_first_fit_decreasing(self):
        self.assertEqual(
            packing.first_fit_decreasing([4, 8, 1, 4, 2, 1], 10), [[1, 4], [0, 3, 2, 5]]
        )

    def test_rows_never_exceed_the_bound(self):
        rng = np.random.default_rng(0)
        for _ in range(300):
            sizes = rng.integers(1, 21, rng.integers(1, 30))
            count = int(rng.integers(1, len(sizes) + 1))
            group = rng.permutation(sizes)[:count]
            rows = packing.first_fit_decreasing(group.tolist(), 20)
            self.assertTrue(all(sum(int(group[i]) for i in row) <= 20 for row in rows))
            self.assertLessEqual(len(rows), packing._rows_bound(sizes, count, 20))


if __name__ == "__main__":
    absltest.main()

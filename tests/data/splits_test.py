"""Splits and subsets by seeded hashes."""

from absl.testing import absltest, parameterized

from restem.data import splits
from restem.errors import UserError


class SplitsTest(parameterized.TestCase):
    items = tuple(f"item {i}" for i in range(200))

    def subset(self, size, seed=0, items=items):
        return splits.subset(items, size, key=str, seed=seed)

    def test_smaller_subsets_are_nested_and_keep_their_order(self):
        small, large = self.subset(20), self.subset(90)
        self.assertLen(small, 20)
        self.assertContainsSubset(small, large)
        self.assertEqual(small, [i for i in self.items if i in set(small)])
        self.assertEqual(self.subset(500), list(self.items))
        self.assertEqual(self.subset(0), [])

    def test_the_choice_depends_on_seed_and_item_not_on_position(self):
        self.assertNotEqual(self.subset(50), self.subset(50, seed=1))
        reversed_items = tuple(reversed(self.items))
        self.assertEqual(
            set(self.subset(50)), set(splits.subset(reversed_items, 50, key=str, seed=0))
        )

    def test_the_choice_is_uniform(self):
        # Mean position of 100 of 200 has standard deviation 57.7 * sqrt(1/100 * 100/199) = 4.1.
        for seed in range(5):
            positions = [self.items.index(i) for i in self.subset(100, seed)]
            self.assertBetween(sum(positions) / 100, 99.5 - 16, 99.5 + 16)

    def test_carving_parts_the_items(self):
        rest, held = splits.carve(self.items, 30, key=str, seed=0, setting="toy.validation_size")
        self.assertLen(held, 30)
        self.assertCountEqual(rest + held, self.items)
        _, more = splits.carve(self.items, 60, key=str, seed=0, setting="toy.validation_size")
        self.assertContainsSubset(held, more)
        # Not the head of the ranking that limits use, or a limited train split would be skewed.
        self.assertNotEqual(held, self.subset(30))

    def test_impossible_sizes(self):
        with self.assertRaisesRegex(
            UserError, "toy.validation_size = 200: cannot hold out 200 of 200"
        ):
            splits.carve(self.items, 200, key=str, seed=0, setting="toy.validation_size")
        with self.assertRaisesRegex(UserError, "not -1"):
            self.subset(-1)


if __name__ == "__main__":
    absltest.main()

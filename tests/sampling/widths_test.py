"""Width classes: few columns for questions whose lengths differ much."""

import numpy as np
from absl.testing import absltest, parameterized

from restem.sampling import widths
from restem.sampling.widths import WidthClasses


class WidthsTest(parameterized.TestCase):
    def test_one_long_question_does_not_widen_every_slot(self):
        # Like MATH: most fit 128 columns, 1 in 100 needs 512, and one has 2,046 tokens.
        lengths = [90] * 86 + [200] * 13 + [500, 2046]
        found = widths.choose(lengths, [32] * 101, slots=1024, bucket=128, ring=512)
        self.assertEqual(found.widths[-1], 2048)
        self.assertEqual(found.slots, 1024)
        # As one class the slots would have 2048 + 512 columns each.
        self.assertLess((found.columns / 1024 + 512) / (2048 + 512), 0.35)
        for length in lengths:
            self.assertLessEqual(length, found.widths[found.class_of(length)])
        # The wide class has its share of the slots.
        shares = np.array(found.sizes) / 1024
        beyond = np.mean(np.array(lengths) > found.widths[0])
        self.assertGreaterEqual(shares[1:].sum(), beyond)

    def test_one_long_question_is_not_prefilled_much_wider_than_it_is(self):
        # Like 128 problems of MBPP. In a class of 8,192, which is rounder, prefill reads four times
        # as many columns.
        lengths = [90] * 84 + [300] * 43 + [3716]
        found = widths.choose(lengths, [1] * 128, slots=128, bucket=128, ring=384)
        self.assertEqual(found.widths, (128, 384, 4096))
        of_wider = WidthClasses((128, 384, 8192), found.sizes)
        reused = widths.reuse(found, [of_wider], lengths, [1] * 128, ring=384)
        self.assertEqual(reused, found)
        # Of many samples for each question, prefill is a small part.
        many = widths.choose([1000] * 9, [64] * 9, slots=128, bucket=128, ring=384)
        self.assertEqual(many.widths, (1024,))

    @parameterized.parameters(
        ([5, 7, 9], 8, 1), ([40] * 50, 128, 4), ([3] * 9 + [100], 12, 3), ([1], 1, 1), ([], 2, 2)
    )
    def test_every_class_is_split_evenly_over_the_mesh(self, lengths, slots, parts):
        found = widths.choose(
            lengths, [1] * len(lengths), slots=slots, bucket=16, ring=16, parts=parts
        )
        self.assertEqual([size % parts for size in found.sizes], [0] * len(found.sizes))
        self.assertGreaterEqual(min(found.sizes), parts)
        self.assertLessEqual(found.slots, slots)

    def test_questions_of_one_length_are_one_class(self):
        found = widths.choose([100] * 9, [4] * 9, slots=128, bucket=16, ring=64)
        self.assertEqual(found, WidthClasses((128,), (128,)))

    def test_the_grid_is_geometric(self):
        self.assertEqual(widths.grid(2046, 128), [128, 256, 384, 512, 768, 1024, 1536, 2048])
        self.assertEqual(widths.grid(200, 128), [128, 256, 384, 512])
        self.assertEqual(widths.grid(1, 16), [16, 32])
        self.assertEqual(widths.grid(33, 16), [16, 32, 48, 64, 96, 128])

    def test_similar_questions_have_the_same_classes(self):
        options = {"slots": 1024, "bucket": 128, "ring": 512}
        train = [90] * 860 + [200] * 120 + [500] * 15 + [900] * 4 + [2046]
        test = [90] * 880 + [190] * 100 + [400] * 18 + [700, 1100]
        of_test = widths.choose(test, [4] * 1000, **options)
        of_train = widths.choose(train, [4] * 1000, **options)
        self.assertEqual(of_test.widths, of_train.widths)
        found = widths.reuse(of_test, [of_train], test, [4] * 1000, ring=512)
        self.assertEqual(found, of_train)
        # Not where they are too narrow, or have too few wide slots, or cost too much.
        longer = [4000, *train[1:]]
        self.assertEqual(widths.reuse(of_test, [of_train], longer, [4] * 1000, ring=512), of_test)
        wide = [200] * 1000
        self.assertEqual(widths.reuse(of_test, [of_train], wide, [4] * 1000, ring=512), of_test)
        short = widths.choose([9] * 10, [1] * 10, **options)
        self.assertEqual(widths.reuse(short, [of_train], [9] * 10, [1] * 10, ring=512), short)

    def test_members_lie_together_on_each_part(self):
        found = WidthClasses((16, 32), (2, 4), 2).members()
        self.assertEqual([m.tolist() for m in found], [[0, 3], [1, 2, 4, 5]])
        found = WidthClasses((8, 16, 32), (3, 2, 1)).members()
        self.assertEqual([m.tolist() for m in found], [[0, 1, 2], [3, 4], [5]])

    def test_fewer_slots(self):
        classes = WidthClasses((16, 64), (112, 16), 2)
        self.assertEqual(classes.shrunk(8), WidthClasses((16, 64), (14, 2), 2))
        self.assertEqual(
            [classes.level_for(n) for n in (200, 128, 64, 17, 16, 1)], [1, 1, 2, 2, 8, 8]
        )

    def test_a_question_goes_to_the_narrowest_class_that_holds_it(self):
        classes = widths.WidthClasses((8, 16, 64), (4, 2, 2))
        lengths = (0, 1, 8, 9, 16, 17, 64)
        self.assertEqual([classes.class_of(n) for n in lengths], [0, 0, 0, 1, 1, 2, 2])


if __name__ == "__main__":
    absltest.main()

"""Prefill batches: few shapes, and questions of one width together."""

from absl.testing import absltest

from restem.sampling.batches import Batches
from restem.sampling.widths import WidthClasses

TOKENS = [5, 20, 7, 16, 300, 3, 15, 40]


def batches_of(classes, tokens=TOKENS, **changes):
    options = {"budget": 64, "lookahead": 1000, "chunk": 16, **changes}
    return Batches(tokens, classes, **options)


class BatchesTest(absltest.TestCase):
    def test_half_of_the_first_class_is_a_width_where_there_are_few(self):
        self.assertEqual(batches_of(WidthClasses((48, 304), (6, 2))).widths, (32, 48, 304))
        self.assertEqual(batches_of(WidthClasses((48, 64, 304), (4, 2, 2))).widths, (48, 64, 304))
        self.assertEqual(batches_of(WidthClasses((16, 304), (6, 2))).widths, (16, 304))

    def test_questions_of_one_width_go_together_but_not_from_far_ahead(self):
        classes = WidthClasses((32, 304), (6, 2))
        found = batches_of(classes)
        self.assertEqual(found.choose(0, range(8)), [0, 2, 3, 5])
        self.assertEqual(found.choose(1, range(1, 8)), [1])
        self.assertEqual(found.choose(4, [4]), [4])
        # Of questions 0 to 3 there are 16 + 32 + 16 + 16 columns.
        self.assertEqual(batches_of(classes, lookahead=80).choose(0, range(8)), [0, 2, 3])

    def test_batches_have_one_shape_unless_one_is_much_larger(self):
        found = batches_of(WidthClasses((32, 240), (6, 2)), [5, 20, 240])
        self.assertEqual([found.rows(w) for w in found.widths], [4, 2, 1])
        self.assertEqual({found.chunks(w) for w in found.widths}, {15})
        found = batches_of(WidthClasses((32, 304), (6, 2)))
        self.assertEqual([found.chunks(w) for w in found.widths], [4, 4, 19])

    def test_no_more_rows_than_there_are_questions(self):
        found = batches_of(WidthClasses((32,), (64,)), [7, 9, 8], budget=512)
        self.assertEqual(found.rows(16), 8)

    def test_rows_are_split_evenly_over_the_mesh(self):
        found = batches_of(WidthClasses((32, 96), (8, 4), 2), [20] * 8 + [90])
        self.assertEqual((found.rows(32), found.rows(96), found.chunks(32)), (2, 2, 12))
        self.assertEqual([found.first_chunk(96, row) for row in range(2)], [0, 6])


if __name__ == "__main__":
    absltest.main()

"""How many queries attend at a time."""

from unittest import mock

from absl.testing import absltest

from restem.models import sharding
from restem.models.query_blocks import MOST_SCORES, query_block


class QueryBlockTest(absltest.TestCase):
    def test_scores_stay_within_the_bound(self):
        # 8 rows x 32 heads x 4096 keys x 4 bytes are 4 MiB a query.
        for (rows, heads, queries, keys, most), expected in {
            (8, 32, 256, 256, MOST_SCORES): None,
            (8, 32, 4096, 4096, MOST_SCORES): 64,
            (8, 8, 4096, 4096, MOST_SCORES): 256,
            (8, 32, 4096, 8192, MOST_SCORES): 32,
            (8, 32, 1024, 4096, MOST_SCORES): 64,
            (8, 32, 4096, 4096, 2**26): 16,
            # Not even the smallest block fits.
            (512, 32, 8192, 8192, MOST_SCORES): 8,
            # A decode step has one query, which cannot be divided.
            (4096, 32, 1, 8192, MOST_SCORES): None,
            (4096, 32, 8, 8192, MOST_SCORES): None,
            # 130 and 64 queries would fit, but with these divisors no block is shorter.
            (8, 32, 2016, 2016, MOST_SCORES): 126,
            (8, 32, 4088, 4096, MOST_SCORES): 56,
        }.items():
            self.assertEqual(query_block(rows, heads, queries, keys, most), expected)

    def test_the_last_block_is_shorter_where_no_divisor_is_near_the_bound(self):
        for (rows, queries, most), expected in {
            (8, 2039, MOST_SCORES): 128,  # a prime
            (8, 4078, MOST_SCORES): 64,  # 2 x 2039
            (8, 3934, MOST_SCORES): 64,  # 14 x 281, and 14 is less than half of 64
            (4096, 2039, MOST_SCORES): 8,  # not even a block of 8 fits
            (4096, 289, 2**30): 8,  # 17 x 17, and 17 does not fit
        }.items():
            found = query_block(rows, 32, queries, queries, most)
            self.assertEqual(found, expected)
            of_query = 4 * rows * 32 * queries
            self.assertTrue(found == 8 or found * of_query <= most)

    def test_a_length_that_is_split_has_equal_blocks(self):
        with mock.patch.object(sharding, "parts", {"length": 2}.get):
            self.assertIsNone(query_block(8, 32, 2039, 2039, MOST_SCORES))
            self.assertEqual(query_block(8, 32, 3934, 3934, MOST_SCORES), 14)
            self.assertEqual(query_block(4096, 32, 289, 289, 2**30), 17)


if __name__ == "__main__":
    absltest.main()

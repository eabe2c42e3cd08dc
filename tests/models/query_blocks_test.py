"""How many queries attend at a time."""

from absl.testing import absltest

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
        }.items():
            self.assertEqual(query_block(rows, heads, queries, keys, most), expected)


if __name__ == "__main__":
    absltest.main()

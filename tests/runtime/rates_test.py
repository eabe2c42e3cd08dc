"""Rates of products."""

from absl.testing import absltest

from restem.runtime.rates import product_rate


class ProductRateTest(absltest.TestCase):
    def test_it_is_that_of_a_processor(self):
        for dtype in ("float32", "bfloat16"):
            self.assertBetween(product_rate(dtype, seconds=0.02), 1e8, 1e16)


if __name__ == "__main__":
    absltest.main()

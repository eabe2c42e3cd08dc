"""The search for the largest size whose program fits."""

from absl.testing import absltest, parameterized

from restem.plan import advice
from restem.plan import planner as plan_lib


class SearchTest(parameterized.TestCase):
    def compiled(self, limit, per=10):
        sizes = []

        def run(size):
            sizes.append(size)
            memory = {"parameters": 1000, "cache": size * per}
            return {"fits": size <= limit, "memory": memory, "slots": size}

        return run, sizes

    @parameterized.parameters((64, 1000), (8, 512))
    def test_finds_the_largest_that_fits(self, unit, start):
        run, sizes = self.compiled(limit=300)
        best = plan_lib._largest(run, run(start), start, unit, hbm=1000 + 300 * 10)
        self.assertEqual(best["slots"], 300 // unit * unit)
        self.assertLessEqual(len(sizes), 6)

    def test_what_the_run_holds_besides_does_not_grow(self):
        held = {"base": 500, "best policy": 400, "as loaded": 100}
        run = lambda size: {
            "fits": size <= 300, "memory": {"parameters": 1000, "cache": size * 10} | held,
            "slots": size,
        }  # fmt: skip
        best = plan_lib._largest(run, run(64), 64, 4, hbm=2000 + 300 * 10)
        self.assertEqual(best["slots"], 300)
        # On twice as many chips a half of these is held on each.
        self.assertTrue(advice._fits(run(64), 2, hbm=1000 + 640))
        self.assertFalse(advice._fits(run(64), 2, hbm=1000 + 639))

    def test_none_fits(self):
        run, _ = self.compiled(limit=0)
        self.assertIsNone(plan_lib._largest(run, run(64), 64, 8, hbm=100))


if __name__ == "__main__":
    absltest.main()

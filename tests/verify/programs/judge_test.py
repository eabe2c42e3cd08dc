"""What the judge gives to programs and counts of their tests."""

from absl.testing import absltest, parameterized

from restem.verify.programs.program_pool import ProgramPool


class PoolTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = ProgramPool(workers=1)
        cls.addClassCleanup(cls.pool.close)

    def grade(self, text, tests):
        return self.pool.submit(text, tests).result()


class CallTest(PoolTest):
    def test_large_arguments_arrive_in_the_time_of_a_test(self):
        sizes = (100_000, 6_000_000, 12_000_000)
        tests = {"fn_name": "f", "inputs": [["a" * n] for n in sizes], "outputs": list(sizes)}
        verdict = self.grade("def f(x): return len(x)", tests)
        self.assertEqual(verdict.reward, 1.0, verdict.detail)


if __name__ == "__main__":
    absltest.main()

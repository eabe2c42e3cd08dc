"""Test code sees a program's values and exceptions, and no program ends a test by them."""

from absl.testing import absltest, parameterized

from restem.verify.programs.program_pool import ProgramPool


class PoolTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = ProgramPool(workers=1, time_limit_s=4.0)
        cls.addClassCleanup(cls.pool.close)

    def grade(self, text, tests):
        return self.pool.submit(text, tests).result()


class ExceptionTest(PoolTest):
    @parameterized.named_parameters(
        ("map", "assert all(map(f, [2, 4, 6]))"),
        ("zip", "for got, want in zip(map(f, [1, 2]), [1, 4]): assert got == want"),
        ("sentinel", "assert all(iter(lambda: f(1), 5))"),
        ("attribute", "import operator\nassert all(map(operator.attrgetter('x'), [f.one]))"),
        ("length", "assert all(map(len, [f.one]))"),
        ("item", "assert all(map(lambda o: o[0], [f.one]))"),
    )
    def test_no_exception_of_the_program_ends_an_iterator_of_the_test(self, test):
        for name in ("StopIteration", "StopAsyncIteration"):
            program = (
                f"def stop(*_): raise {name}\nclass P: __len__ = __getitem__ = __getattr__ = stop\n"
                "def f(x): stop()\nf.one = P()"
            )
            verdict = self.grade(program, {"test_list": [test]})
            self.assertEqual(verdict.reward, 0.0)
            self.assertIn(f"RemoteError: {name}", verdict.detail)

    def test_an_iterator_of_the_program_ends(self):
        program = "def f(x): yield from range(x)"
        tests = [
            "assert list(map(str, f(2))) == ['0', '1']",
            "i = f(1)\nassert [*i, *i] == [0]",
            "i = f(0)\ntry: next(i)\nexcept StopIteration: pass\nelse: assert False",
        ]
        self.assertEqual(self.grade(program, {"test_list": tests}).reward, 1.0)


class ValueTest(PoolTest):
    def test_scalars_of_numpy_are_numbers(self):
        program = "import numpy as np\ndef f(x): return list(np.cumsum(x)), np.sum(x), np.all(x)"
        tests = {"test_list": ["assert f([1, 2]) == ([1, 3], 3, True)"]}
        calls = {"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[[1, 3], 3, True]]}
        for given in (tests, calls):
            verdict = self.grade(program, given)
            self.assertEqual(verdict.reward, 1.0, verdict.detail)
            self.assertEqual(self.grade(program.replace("sum(x)", "max(x)"), given).reward, 0.0)


if __name__ == "__main__":
    absltest.main()

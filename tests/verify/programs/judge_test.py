"""What the judge gives to programs and counts of their tests."""

import subprocess
import sys

from absl.testing import absltest

from tests.helpers.program_pools import PoolTest


class CallTest(PoolTest):
    def test_large_arguments_arrive_in_the_time_of_a_test(self):
        sizes = (100_000, 6_000_000, 12_000_000)
        tests = {"fn_name": "f", "inputs": [["a" * n] for n in sizes], "outputs": list(sizes)}
        verdict = self.grade("def f(x): return len(x)", tests)
        self.assertEqual(verdict.reward, 1.0, verdict.detail)

    def test_standard_error_is_bounded_for_each_test(self):
        noisy = "import sys\ndef f(x):\n  print('d' * (3 << 20), file=sys.stderr)\n  return x"
        calls = {"fn_name": "f", "inputs": [[1]] * 5, "outputs": [1] * 5}
        asserts = {"test_list": ["assert f(1) == 1"] * 5}
        for tests in (calls, asserts):
            verdict = self.grade(noisy, tests)
            self.assertEqual(verdict.reward, 1.0, verdict.detail)
            verdict = self.grade(noisy.replace("3 <<", "9 <<"), tests)
            self.assertEqual((verdict.reward, verdict.method), (0.0, "output"), verdict.detail)


class CountTest(PoolTest):
    def test_defining_check_passes_no_test(self):
        tests = {
            "entry_point": "f",
            "test": "META = {}\n\ndef check(candidate):\n    assert candidate(2) == 4\n",
        }
        for program, passed in (("def f(x): return x * x", 1), ("def f(x): return x", 0)):
            verdict = self.grade(program, tests)
            self.assertEqual((verdict.reward, verdict.passed, verdict.total), (passed, passed, 1))

    def test_set_up_code_is_no_test(self):
        tests = {
            "test_setup_code": "two = 2",
            "test_list": ["assert f(two) == 4", "assert f(3) == 9"],
        }
        for program, passed in (
            ("def f(x): return x * x", 2), ("def f(x): return x + x", 1), ("def f(x): return x", 0)
        ):  # fmt: skip
            verdict = self.grade(program, tests)
            self.assertEqual((verdict.passed, verdict.total), (passed, 2))
            self.assertEqual(verdict.reward, float(passed == 2))


class WarningTest(absltest.TestCase):
    def test_warnings_of_a_program_are_not_shown(self):
        code = (
            "from restem.verify import run_programs\n"
            "text = \"x = int(input())\\nif x is 5: pass\\nprint('\\\\d', x)\"\n"
            "tests = {'inputs': ['7'], 'outputs': ['\\\\d 7']}\n"
            "print(run_programs([text], [tests])[0].reward)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ("1.0\n", ""))


if __name__ == "__main__":
    absltest.main()

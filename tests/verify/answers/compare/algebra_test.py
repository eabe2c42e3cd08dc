"""The last stage: what SymPy decides, what it is never asked, and what it may cost."""

import contextlib
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest, parameterized

from restem.verify.answers.compare import algebra
from restem.verify.answers.equivalence import compare
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse


def ask(answer: str, gold: str):
    return algebra.Oracle()(parse(clean(answer)), parse(clean(gold)))


class OracleTest(parameterized.TestCase):
    @parameterized.parameters(
        (r"\frac{(n+1)!}{n!}", "n+1", True),
        (r"\frac{(n+1)!}{n!}", "n", False),
        (r"\binom{n}{k}", r"\frac{n!}{k!(n-k)!}", True),
        (r"\sum_{k=1}^{n} k^2", r"\frac{n(n+1)(2n+1)}{6}", True),
        (r"\prod_{k=1}^{n} k", "n!", True),
        (r"\sum_{k=0}^{\infty} \frac{1}{k!}", "e", True),
        (r"\sin^2 x + \cos^2 x", "1", True),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\sqrt[3]{-8}", "-2", True),
        (r"\log 100", "2", True),
        (r"\log_2 8", "3", True),
        (r"\lg 100", "2", True),
        (r"\lg 8", "3", False),
        (r"\min(\sqrt2,\sqrt3)", r"\sqrt2", True),
        ("50\\%", r"\frac12", True),
        (r"\cos 60^\circ", r"\frac12", True),
        ("1011_2", "11", True),
        ("f(x)+f(x)", "2f(x)", True),
    )
    def test_decides(self, answer, gold, equal):
        result = ask(answer, gold)
        self.assertEqual((result.equal, result.undecided), (equal, False), result)

    @parameterized.parameters(
        (r"9^{9^{9^{9}}}", "5"),
        ("10000!", "5"),
        (r"\binom{10^9}{5}", "5"),
        (r"(\sqrt2)^{100000}", "5"),
        ("+".join(rf"\sqrt{{{n}}}" for n in range(2, 150)), "5"),
        ("1" * 2000, "5"),
        (r"\sum_{k=1}^{\infty} k", r"-\frac{1}{12}"),
        (r"\frac10", "5"),
    )
    def test_leaves_undecided(self, answer, gold):
        result = ask(answer, gold)
        self.assertEqual((result.equal, result.undecided), (False, True), result)

    def test_time_is_bounded(self):
        """Expanding this takes minutes."""
        with mock.patch.object(algebra, "CPU_S", 0.2):
            result = ask("(a+b+c+d+g+h)^{60}", "(a+b+c+d+g+2h)^{60}+n!")
        self.assertIn("in time", result.detail)

    def test_time_is_shared_by_the_questions_of_one_comparison(self):
        oracle = algebra.Oracle()
        oracle._seconds_left = 0.0
        tree = parse("(a+b+c+d+g+h)^{60}")
        self.assertIn("in time", oracle(tree, parse("n!")).detail)

    def test_an_alarm_that_is_swallowed_comes_again(self):
        """As in a finaliser, whose exceptions Python drops."""
        oracle = algebra.Oracle()
        oracle._seconds_left = 0.01
        end = time.process_time() + 10

        def work():
            while time.process_time() < end:
                pass

        with self.assertRaises(algebra._OutOfTime), oracle._deadline():
            with contextlib.suppress(algebra._OutOfTime):
                work()
            work()
        self.assertEqual(oracle._seconds_left, 0.0)

    def test_other_threads_decide_nothing(self):
        found = []
        thread = threading.Thread(target=lambda: found.append(ask("n!", "n!")))
        thread.start()
        thread.join()
        self.assertIn("main thread", found[0].detail)

    def test_equality_must_hold_at_integer_points(self):
        self.assertIsNone(algebra._holds_at_points(parse("n!"), parse("(n-1)!"), 10))
        self.assertTrue(algebra._holds_at_points(parse("n!"), parse("n(n-1)!"), 10))

    def test_sets_no_timer_that_outlives_it(self):
        import signal

        handler = signal.getsignal(signal.SIGVTALRM)
        ask(r"\frac{(n+1)!}{n!}", "n+1")
        self.assertEqual(signal.getitimer(signal.ITIMER_VIRTUAL), (0.0, 0.0))
        self.assertEqual(signal.getsignal(signal.SIGVTALRM), handler)


class StageTest(parameterized.TestCase):
    def test_says_that_sympy_decided(self):
        self.assertEqual(compare(r"\frac{(n+1)!}{n!}", "n+1").detail, "equal by SymPy")

    @parameterized.parameters(
        (r"n!, \frac{(n+1)!}{n!}", "n+1, n!"),
        (r"(\frac{(n+1)!}{n!}, 2)", "(n+1, 2)"),
        (r"x = \frac{(n+1)!}{n!}", "n+1"),
    )
    def test_inside_lists_and_points(self, answer, gold):
        self.assertEqual(compare(answer, gold).reward, 1.0)

    def test_is_imported_only_when_asked(self):
        program = (
            "import sys\n"
            "from restem.verify import is_equivalent\n"
            "for a, b in (('x+x', '2x'), ('1/0', '5'), (r'\\sqrt8', r'2\\sqrt2'), ('(1', '5')):\n"
            "    is_equivalent(a, b)\n"
            "print('sympy' in sys.modules)\n"
            "is_equivalent(r'\\frac{(n+1)!}{n!}', 'n+1')\n"
            "print('sympy' in sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        self.assertEqual(done.stdout.split(), ["False", "True"], done.stderr)


if __name__ == "__main__":
    absltest.main()

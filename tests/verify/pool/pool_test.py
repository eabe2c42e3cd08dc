"""The worker pool: order, deadlines, deaths, recycling, and what it leaves behind."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import CancelledError

from absl.testing import absltest, parameterized

from restem import verify
from restem.errors import UserError
from restem.records import Problem
from restem.verify import Verifier

MATH = {"kind": "math", "extraction": "any"}
MISBEHAVE = {"kind": "function", "function": "tests.helpers.rewards:misbehave"}


def problem(answer: str | None = "5") -> Problem:
    return Problem("p7", "train", "question", answer=answer)


def children() -> set[int]:
    """Processes whose parent this one is, zombies included."""
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(folder.name))
    return found


class VerifierTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.before = children()

    def tearDown(self):
        self.assertEqual(children() - self.before, set(), "a worker was left behind")
        super().tearDown()

    def test_order(self):
        golds = [str(n) for n in range(300)]
        texts = [str(n if n % 3 else n + 1) for n in range(300)]
        with Verifier(grader=MATH, workers=2) as verifier:
            verdicts = verifier.grade([problem(gold) for gold in golds], texts)
        self.assertEqual([v.reward for v in verdicts], [float(n % 3 > 0) for n in range(300)])
        self.assertEqual([v.extracted for v in verdicts], texts)

    def test_submit_overlaps(self):
        with Verifier(grader=MISBEHAVE, workers=1) as verifier:
            futures = [verifier.submit(problem(), "ok") for _ in range(3)]
            self.assertEqual([future.result().reward for future in futures], [0.5] * 3)

    @parameterized.parameters(
        ("sleep", "timeout"),
        ("spin", "timeout"),
        ("swallow", "timeout"),
        ("exit", "error"),
        ("segfault", "error"),
        ("memory", "error"),
        ("raise", "error"),
    )
    def test_misbehaviour_costs_only_its_own_verdict(self, text, method):
        with Verifier(grader=MISBEHAVE, workers=1, time_limit_s=1.0) as verifier:
            verdicts = verifier.grade([problem()] * 3, ["ok", text, "ok"])
        self.assertEqual([v.reward for v in verdicts], [0.5, 0.0, 0.5])
        self.assertEqual(verdicts[1].method, method, verdicts[1])

    def test_the_whole_group_is_killed(self):
        with tempfile.TemporaryDirectory() as folder:
            note = os.path.join(folder, "child")
            with Verifier(grader=MISBEHAVE, workers=1, time_limit_s=1.0) as verifier:
                verdict = verifier.submit(problem(), f"child:{note}").result()
            self.assertEqual(verdict.method, "timeout")
            with open(note) as stream:
                child = int(stream.read())
        for _ in range(100):
            status = pathlib.Path(f"/proc/{child}/stat")
            # An orphan that nobody reaps yet is dead all the same.
            if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        self.fail("a child of the worker lives on")

    def test_queued_answers_of_a_dead_worker_are_graded_by_another(self):
        texts = ["5"] * 40
        with Verifier(grader=MATH, workers=1) as verifier:
            futures = [verifier.submit(problem(), text) for text in texts]
            futures[0].result()
            for pid in children() - self.before:
                os.kill(pid, 9)
            methods = [future.result().method for future in futures]
        # The one it was at is lost; nobody can know whether it was to blame.
        self.assertLessEqual(methods.count("error"), 1)
        self.assertGreaterEqual(methods.count("string"), 39)

    def test_recycling(self):
        with Verifier(grader=MISBEHAVE, workers=1, jobs_per_worker=2) as verifier:
            pids = [v.reward for v in verifier.grade([problem()] * 6, ["pid"] * 6)]
        self.assertLen(set(pids), 3)

    def test_worker_imports_neither_jax_nor_tensorflow(self):
        with Verifier(grader=MISBEHAVE, workers=1) as verifier:
            self.assertEqual(verifier.submit(problem(), "imports").result().reward, 0.0)

    def test_close_cancels_and_ends(self):
        verifier = Verifier(grader=MISBEHAVE, workers=1)
        futures = [verifier.submit(problem(), "sleep") for _ in range(3)]
        time.sleep(0.2)
        verifier.close()
        for future in futures:
            with self.assertRaises(CancelledError):
                future.result(timeout=0)
        with self.assertRaises(RuntimeError):
            verifier.submit(problem(), "ok")

    def test_user_errors_come_out_of_the_future(self):
        with Verifier(grader=MATH, workers=1) as verifier:
            bad = verifier.submit(problem(None), "5")
            good = verifier.submit(problem(), "5")
            with self.assertRaisesRegex(UserError, "p7"):
                bad.result()
            self.assertEqual(good.result().reward, 1.0)

    def test_reward_function_that_cannot_be_imported(self):
        grader = {"kind": "function", "function": "no_such_module:f"}
        with Verifier(grader=grader, workers=2) as verifier:
            futures = [verifier.submit(problem(), "5") for _ in range(4)]
            for future in futures:
                with self.assertRaisesRegex(UserError, "no_such_module"):
                    future.result()

    def test_bad_grader_is_refused_at_once(self):
        with self.assertRaises(UserError):
            Verifier(grader={"kind": "maths"})
        with self.assertRaises(UserError):
            Verifier(grader=MATH, workers=0)

    def test_none_is_ungraded(self):
        with Verifier(grader={"kind": "none"}) as verifier:
            verdict = verifier.submit(problem(None), "anything").result()
        self.assertEqual((verdict.reward, verdict.method), (0.0, "ungraded"))

    def test_hostile_texts_end_in_order(self):
        texts = ["5", "\ud800", "5", "\x00", "x" * 10**6, r"9^{9^{9^{9}}}", "5"]
        with Verifier(grader=MATH, workers=1) as verifier:
            verdicts = verifier.grade([problem()] * len(texts), texts)
        self.assertEqual([v.reward for v in verdicts], [1.0, 0, 1.0, 0, 0, 0, 1.0])

    def test_workers_end_with_their_parent(self):
        code = (
            "import os, sys\n"
            "from restem.verify import Verifier\n"
            "from restem.records import Problem\n"
            f"verifier = Verifier(grader={MISBEHAVE!r}, workers=1)\n"
            "pid = verifier.submit(Problem('p', '', '', answer='5'), 'pid').result().reward\n"
            "verifier.submit(Problem('p', '', '', answer='5'), 'sleep')\n"
            "print(int(pid), flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        pid = int(done.stdout)
        for _ in range(100):
            status = pathlib.Path(f"/proc/{pid}/stat")
            if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        self.fail("the worker outlives its parent")


class GradeAnswersTest(absltest.TestCase):
    def test_solutions_and_answers(self):
        texts = [
            "0.5",
            r"so \boxed{\frac{2}{4}}",
            "Final Answer: The final answer is $1/2$. I hope it is correct.",
            r"\boxed{1/2} or \boxed{",
        ]
        verdicts = verify.grade_answers(texts, [r"\frac12"] * 4, workers=1)
        self.assertEqual([v.reward for v in verdicts], [1.0, 1.0, 1.0, 0.0])

    def test_options(self):
        verdicts = verify.grade_answers(["x=5"], ["5"], workers=1, labels=False)
        self.assertEqual(verdicts[0].reward, 0.0)
        with self.assertRaises(UserError):
            verify.grade_answers(["5"], ["5"], tolerance=1)
        with self.assertRaises(ValueError):
            verify.grade_answers(["5"], ["5", "6"], workers=1)


if __name__ == "__main__":
    absltest.main()

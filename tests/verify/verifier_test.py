"""`Verifier`: order, deadlines, deaths, recycling, resources, and what it leaves behind."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import CancelledError

from absl.testing import absltest, parameterized

from restem import verify
from restem.errors import UserError
from restem.records import Problem, Verdict
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
            # An orphan that is not reaped yet is dead all the same.
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
            self.assertEqual(methods, ["string"] * 40)
            self.assertLessEqual(verifier.counts.get("deaths", 0), 1)
            self.assertNotIn("lost", verifier.counts)

    def test_workers_killed_from_outside_cost_no_verdict(self):
        with Verifier(grader=MISBEHAVE, workers=2, time_limit_s=60) as verifier:
            for _ in range(4):
                futures = [verifier.submit(problem(), "nap") for _ in range(4)]
                futures[0].result()
                for pid in children() - self.before:
                    os.kill(pid, signal.SIGKILL)
                self.assertEqual([f.result().reward for f in futures], [0.5] * 4)
            self.assertGreater(verifier.counts["deaths"], 0)
            self.assertEqual(verifier.counts["retried"], verifier.counts["deaths"])

    def test_a_text_that_kills_twice_is_no_accident(self):
        with Verifier(grader=MISBEHAVE, workers=1) as verifier:
            verdicts = verifier.grade([problem()] * 3, ["ok", "exit", "ok"])
            self.assertEqual([v.reward for v in verdicts], [0.5, 0.0, 0.5])
            self.assertIn("status 3", verdicts[1].detail)
            self.assertEqual(verifier.counts, {"deaths": 2, "retried": 1, "lost": 1})

    def test_a_worker_that_we_end_is_not_tried_again(self):
        with Verifier(grader=MISBEHAVE, workers=1, time_limit_s=1.0) as verifier:
            self.assertEqual(verifier.submit(problem(), "sleep").result().method, "timeout")
            self.assertEqual(verifier.counts, {"timeouts": 1})

    def test_shared_verifiers_count_together(self):
        self.addCleanup(verify.close_shared)
        before = verify.shared_counts()
        verifier = verify.shared_verifier({**MISBEHAVE, "workers": 1})
        verifier.submit(problem(), "exit").result()
        self.assertEqual(verify.shared_counts() - before, {"deaths": 2, "retried": 1, "lost": 1})
        verify.close_shared()

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


def reward(name: str, **options) -> dict:
    return {"kind": "function", "function": f"tests.helpers.rewards:{name}", **options}


class RewardTest(parameterized.TestCase):
    def grade(self, grader, texts, **settings):
        with Verifier(grader=grader, workers=settings.pop("workers", 1), **settings) as verifier:
            self.addCleanup(verifier.close)
            return verifier.grade([problem()] * len(texts), texts)

    def test_limits_come_from_the_grader_and_arguments_go_first(self):
        grader = reward("misbehave", time_limit_s=0.5, memory_mb=4096, workers=1)
        (verdict,) = self.grade(grader, ["sleep"], workers=None)
        self.assertEqual((verdict.method, verdict.detail), ("timeout", "ran past 0.5 s"))
        (verdict,) = self.grade(grader, ["sleep"], workers=None, time_limit_s=1.0)
        self.assertEqual((verdict.method, verdict.detail), ("timeout", "ran past 1 s"))
        (verdict,) = self.grade({**MATH, "time_limit_s": 3, "memory_mb": 1024}, ["5"])
        self.assertEqual(verdict.reward, 1.0)

    @parameterized.parameters(
        ({"time_limit_s": 0}, "time_limit_s"), ({"time_limit_s": "10"}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"), ({"memory_mb": 1.5}, "memory_mb"),
        ({"memory_mb": 1}, "memory_mb"), ({"workers": 0}, "workers"),
        ({"workers": True}, "workers"), ({"batch": 0}, "batch"), ({"batch": "8"}, "batch"),
        ({"start_limit_s": -1}, "start_limit_s"), ({"warm_up": "a b"}, "warm_up"),
        ({"devices": 0}, "devices"), ({"seconds": 3}, "seconds"),
    )  # fmt: skip
    def test_settings_out_of_range(self, options, name):
        with self.assertRaisesRegex(UserError, name) as caught:
            Verifier(grader=reward("misbehave", **options))
        self.assertNotIn("\n", str(caught.exception))

    def test_programs_check_their_options_too(self):
        for options in ({"seconds": 3}, {"extraction": "boxed"}, {"memory_mb": 3}):
            with self.assertRaises(UserError):
                Verifier(grader={"kind": "program", **options})

    def test_a_worker_warms_up_before_its_clock_runs(self):
        grader = reward("loaded", warm_up="load", time_limit_s=1.0)
        self.assertEqual([v.reward for v in self.grade(grader, ["a", "b"])], [1.0, 1.0])
        with self.assertRaisesRegex(UserError, "warm-up .* no such model"):
            self.grade(reward("loaded", warm_up="broken_load"), ["a"])
        with self.assertRaisesRegex(UserError, "no_such"):
            self.grade(reward("loaded", warm_up="no_such"), ["a"])

    def test_batches(self):
        texts = ["x" * n for n in range(20)]
        verdicts = self.grade(reward("lengths", batch=8), texts)
        self.assertEqual([v.reward % 100 for v in verdicts], [float(n) for n in range(20)])
        self.assertLessEqual(max(v.reward for v in verdicts), 8 * 100 + 19)
        self.assertGreaterEqual(sum(v.reward >= 200 for v in verdicts), 2, "no batch was made")

    @parameterized.parameters(
        ("raise", "error", "ValueError: a bad batch"), ("none", "error", "needs"),
        ("die", "error", "status 3"), ("sleep", "timeout", "ran past"),
    )  # fmt: skip
    def test_a_bad_sample_of_a_batch(self, text, method, detail):
        texts = ["a", "bb", text, "cccc"]
        with Verifier(grader=reward("lengths", batch=4), workers=1, time_limit_s=1.0) as verifier:
            verifier.grade([problem()], ["warm"])
            verdicts = verifier.grade([problem()] * 4, texts)
        self.assertEqual(verdicts[2].method, method, verdicts)
        self.assertIn(detail, verdicts[2].detail)
        if text in ("die", "sleep"):  # it cost the others nothing
            self.assertEqual([v.reward for v in verdicts], [101.0, 102.0, 0.0, 104.0])

    def test_a_batch_as_a_generator(self):
        verdicts = self.grade(reward("generator", batch=2), ["a", "bb"])
        self.assertEqual([v.reward for v in verdicts], [1.0, 2.0])
        (verdict,) = self.grade(reward("broken_generator", batch=2), ["a"])
        self.assertEqual((verdict.reward, verdict.method), (0.0, "error"))
        self.assertIn("ValueError: a bad generator", verdict.detail)

    def test_a_batch_of_too_few_rewards(self):
        (verdict,) = self.grade(reward("lengths", batch=1), ["short"])
        self.assertEqual(verdict.method, "error")
        verdicts = self.grade(reward("lengths", batch=2), ["short", "a"] * 2)
        self.assertIn("error", {v.method for v in verdicts})

    def test_a_subclass_of_a_verdict_crosses_as_the_verdict_that_it_is(self):
        (verdict,) = self.grade(reward("scored"), ["a"])
        self.assertIs(type(verdict), Verdict)
        self.assertEqual((verdict.reward, verdict.method), (0.75, "scored"))

    def test_a_function_that_always_raises_is_stopped(self):
        with (
            self.assertLogs(level="ERROR") as logs,
            self.assertRaisesRegex(UserError, "each of its first 32 .* KeyError") as caught,
        ):
            self.grade(reward("raises"), ["a"] * 100)
        self.assertNotIn("\n", str(caught.exception))
        self.assertLen(logs.records, 1)
        self.assertIn("in raises", logs.output[0])
        self.assertEqual(
            [v.method for v in self.grade(reward("raises"), ["a"] * 31)], ["error"] * 31
        )

    def test_a_function_that_raises_now_and_then_is_not_stopped(self):
        texts = ["raise"] * 31 + ["ok"] + ["raise"] * 40
        verdicts = self.grade(reward("misbehave"), texts)
        self.assertEqual([v.reward for v in verdicts], [0.5 * (t == "ok") for t in texts])

    def test_a_warning_if_the_verifier_fails_often(self):
        texts = ["ok"] * 190 + ["raise"] * 20
        with self.assertLogs(level="WARNING") as logs:
            self.grade(reward("misbehave"), texts)
        self.assertRegex(logs.output[0], "of 2.. verdicts .* failures of the verifier")


class SharedTest(absltest.TestCase):
    def test_one_verifier_per_grader(self):
        self.addCleanup(verify.close_shared)
        first = verify.shared_verifier(MATH)
        self.assertIs(verify.shared_verifier(dict(reversed(MATH.items()))), first)
        self.assertIsNot(verify.shared_verifier({**MATH, "extraction": "boxed"}), first)
        self.assertIsNot(verify.shared_verifier(MATH, True), first)
        verify.close_shared()
        with self.assertRaises(RuntimeError):
            first.submit(problem(), "5")
        self.assertIsNot(verify.shared_verifier(MATH), first)


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

    def test_questions(self):
        given = (["7*8", "7*8"], ["56", "56"])
        verdicts = verify.grade_answers(*given, questions=["What is 7*8?", "4*14?"], workers=1)
        self.assertEqual([v.reward for v in verdicts], [0.0, 1.0])
        with self.assertRaises(ValueError):
            verify.grade_answers(*given, questions=["What is 7*8?"], workers=1)

    def test_options(self):
        verdicts = verify.grade_answers(["x=5"], ["5"], workers=1, labels=False)
        self.assertEqual(verdicts[0].reward, 0.0)
        with self.assertRaises(UserError):
            verify.grade_answers(["5"], ["5"], tolerance=1)
        with self.assertRaises(ValueError):
            verify.grade_answers(["5"], ["5", "6"], workers=1)


if __name__ == "__main__":
    absltest.main()

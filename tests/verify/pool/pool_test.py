"""The worker pool by itself: starts that fail, a bounded queue, jobs that cannot be sent."""

import errno
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from unittest import mock

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.records import Problem
from restem.verify import Verifier, WorkersLostError
from restem.verify.pool import pool, process
from restem.verify.pool.process import Launch
from restem.verify.programs import program_pool

MATH = {"kind": "math", "extraction": "any"}


def launch(code: str, **settings) -> Launch:
    command = (sys.executable, "-c", code)
    return Launch(
        command=command, environment={}, setup={}, time_limit_s=10.0, cpu_s=10.0, **settings
    )


class StartTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("exits", "import sys; sys.exit(3)", 60.0, "status 3"),
        ("is_killed", "import os; os.kill(os.getpid(), 9)", 60.0, "status -9"),
        ("says_nothing", "import time; time.sleep(60)", 0.5, "ran past 0.5 s"),
    )
    def test_workers_that_never_start(self, code, limit, reason):
        workers = pool.WorkerPool(lambda _: launch(code, start_limit_s=limit), workers=2)
        with workers:
            futures = [workers.submit("job") for _ in range(5)]
            for future in futures:
                with self.assertRaisesRegex(WorkersLostError, reason) as caught:
                    future.result()
            with self.assertRaises(WorkersLostError):
                workers.start()
            with self.assertRaises(WorkersLostError):
                workers.submit("job").result()
        # Not the code of bad input: the same command may be run again.
        self.assertEqual(caught.exception.exit_code, 75)
        self.assertNotIsInstance(caught.exception, UserError)

    def test_a_command_that_does_not_exist(self):
        bad = Launch(("/no/such/file",), {}, {}, time_limit_s=1.0, cpu_s=1.0)
        with pool.WorkerPool(lambda _: bad, workers=1) as workers, self.assertRaises(OSError):
            workers.start()

    @parameterized.parameters(
        (errno.EAGAIN, 1), (errno.ENOMEM, 2), (errno.EMFILE, 3), (errno.EIO, 3)
    )  # fmt: skip
    def test_a_machine_that_refuses_a_process(self, number, times):
        problem = Problem("p", "", "", answer="5")
        started, refused = subprocess.Popen, []

        def refuse(*arguments, **settings):
            if len(refused) < times:
                refused.append(number)
                raise OSError(number, os.strerror(number))
            return started(*arguments, **settings)

        with (
            mock.patch.object(pool, "RETRY_S", 0.01),
            mock.patch.object(process.subprocess, "Popen", refuse),
            Verifier(grader=MATH, workers=1) as verifier,
        ):
            future = verifier.submit(problem, "5")
            if times < pool.START_ATTEMPTS:
                self.assertEqual(future.result().reward, 1.0)
            else:
                with self.assertRaisesRegex(WorkersLostError, os.strerror(number)):
                    future.result()
            self.assertLen(refused, times)


_DROP_CAP_SYS_RESOURCE = """
import ctypes
ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP; only root has it to lose
"""
_WORKER = """
import contextlib, os
from restem.verify.pool import worker
broken = {broken!r}
def answer(jobs):
    if broken == "grading" or jobs[0] == "deadly":
        os._exit(3)
    return [{{"verdict": {{"reward": 1.0, "method": "tests"}}}}] * len(jobs)
def no_limits(self):
    raise ValueError("not allowed")
if broken == "limits":
    worker.Limits.allow_cpu = no_limits
@contextlib.contextmanager
def prepare(setup, channel, limits):
    yield {{}}, answer
worker.serve(prepare)
"""


class DeathTest(parameterized.TestCase):
    """Workers that start, and die of a job: the text is to blame, or the machine is."""

    def pool(self, broken="", **settings):
        return pool.WorkerPool(lambda _: launch(_WORKER.format(broken=broken)), **settings)

    @parameterized.parameters(("limits", None), ("grading", "harmless"))
    def test_workers_that_die_of_every_job_give_no_verdict(self, broken, probe):
        with self.pool(broken, workers=2, probe=probe) as workers:
            workers.start()
            futures = [workers.submit(f"job {n}") for n in range(12)]
            for future in futures:
                with self.assertRaisesRegex(WorkersLostError, "die of every job") as caught:
                    future.result()
            with self.assertRaises(WorkersLostError):
                workers.submit("another").result()
            self.assertEqual(workers.counts["lost"], 0)
        self.assertEqual(caught.exception.exit_code, 75)

    @parameterized.parameters(None, "harmless")
    def test_texts_alone_never_break_the_pool(self, probe):
        with self.pool(workers=1, probe=probe) as workers, self.assertLogs() as logs:
            futures = [workers.submit("deadly") for _ in range(9)]
            good = workers.submit("good")
            verdicts = [future.result() for future in futures]
            self.assertEqual({(v.reward, v.method) for v in verdicts}, {(0.0, "error")})
            self.assertIn("died with status 3", verdicts[0].detail)
            self.assertEqual(good.result().reward, 1.0)
            self.assertEqual(+workers.counts, {"deaths": 18, "retried": 9, "lost": 9})
        told = [line for line in logs.output if "killed a verification worker" in line]
        self.assertLen(told, 4)  # 1, 2, 4 and 8 of them
        self.assertIn("8 of the samples so far", told[-1])

    @parameterized.parameters("", "deadly")
    def test_supervisors_that_die(self, deadly):
        code = (
            "import os\nfrom restem.verify.programs import supervisor\n"
            "grade = supervisor.Supervisor.grade\n"
            "supervisor.Supervisor.grade = lambda self, job: (\n"
            f"    os._exit(4) if {deadly!r} in job['text'] else grade(self, job))\n"
            "supervisor.start([])\n"
        )
        command = [sys.executable, "-c", code]
        tests = {"inputs": ["7"], "outputs": ["7"]}
        with (
            mock.patch.object(program_pool.bootstrap, "command", lambda _: command),
            mock.patch.object(
                program_pool.bootstrap, "CLEAN_ENVIRONMENT", {"PYTHONPATH": ":".join(sys.path)}
            ),
            program_pool.ProgramPool(workers=1) as programs,
        ):
            bad = programs.submit("print('deadly')", tests)
            good = programs.submit("print(input())", tests)
            if not deadly:
                for future in (bad, good):
                    with self.assertRaisesRegex(WorkersLostError, "status 4"):
                        future.result()
                return
            with self.assertLogs() as logs:
                self.assertEqual((bad.result().reward, bad.result().method), (0.0, "error"))
                self.assertEqual(good.result().reward, 1.0)
            self.assertIn("1 of the samples so far killed", logs.output[0])

    def test_a_machine_with_a_hard_limit_on_cpu_time(self):
        code = (
            "import json, resource\n"
            "resource.setrlimit(resource.RLIMIT_CPU, (3600, 3600))\n"
            "from restem.verify import grade_answers, run_programs\n"
            "tests = [{'inputs': ['7'], 'outputs': ['7']}] * 2\n"
            "programs = ['print(input())', 'while True: pass']\n"
            "found = run_programs(programs, tests, time_limit_s=1, workers=1)\n"
            "found += grade_answers(['1/2'], ['0.5'], workers=1)\n"
            "print(json.dumps([(v.reward, v.method == 'timeout') for v in found]))\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", _DROP_CAP_SYS_RESOURCE + code],
            capture_output=True,
            text=True,
        )
        self.assertEqual(found.returncode, 0, found.stderr)
        self.assertEqual(json.loads(found.stdout), [[1.0, False], [0.0, True], [1.0, False]])


class GroupTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("exits", "sys.exit(3)"), ("is_killed", "os.kill(os.getpid(), 9)"),
        ("closes_its_output", "os.close(1); time.sleep(99)"),
    )  # fmt: skip
    def test_nothing_that_a_worker_started_outlives_it(self, end):
        pipe = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), "pipe")
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        code = (
            f"import os, sys, time\nos.open({pipe!r}, os.O_WRONLY)\n"
            f"if os.fork() == 0:\n  os.closerange(0, 3)\n  time.sleep(99)\n{end}"
        )
        worker = process.WorkerProcess(launch(code))
        self.assertEqual(worker.step(lambda: False).kind, "died")
        self.assertEmpty(select.select([reader], [], [], 0.0)[0])
        worker.stop()
        # The other end of the pipe closes with the last process that holds it.
        self.assertEqual(select.select([reader], [], [], 30.0)[0], [reader])
        self.assertEqual(os.read(reader, 1), b"")


class QueueTest(absltest.TestCase):
    def test_no_more_than_so_many_wait(self):
        problem = Problem("p", "", "", answer="5")
        with (
            mock.patch.object(pool, "MOST_WAITING", 3),
            Verifier(grader=MATH, workers=1) as verifier,
        ):
            futures, most = [], 0
            for _ in range(60):
                futures.append(verifier.submit(problem, "5"))
                most = max(most, len(verifier._pool._queue))
            self.assertEqual([future.result().reward for future in futures], [1.0] * 60)
            self.assertLessEqual(most, 3)

    def test_a_caller_that_waits_for_room_learns_of_the_end(self):
        problem = Problem("p", "", "", answer="5")
        found = []

        def submit():
            try:
                while True:
                    verifier.submit(problem, "sleep")
            except RuntimeError as error:
                found.append(str(error))

        grader = {"kind": "function", "function": "tests.helpers.rewards:misbehave"}
        with mock.patch.object(pool, "MOST_WAITING", 3):
            verifier = Verifier(grader=grader, workers=1)
            thread = threading.Thread(target=submit)
            thread.start()
            while len(verifier._pool._queue) < 3:
                os.sched_yield()
            verifier.close()
            thread.join()
        self.assertEqual(found, ["the verifier is closed"])

    def test_a_job_that_cannot_be_sent_costs_only_itself(self):
        grader = {"kind": "function", "function": "tests.helpers.rewards:misbehave"}
        with Verifier(grader=grader, workers=1) as verifier:
            bad = verifier.submit(Problem("p", "", "", metadata={"set": {1}}), "ok")
            good = verifier.submit(Problem("p", "", ""), "ok")
            with self.assertRaisesRegex(UserError, "cannot be sent"):
                bad.result()
            self.assertEqual(good.result().reward, 0.5)


if __name__ == "__main__":
    absltest.main()

"""Two processes over loopback: arrays, barriers, preemption; and one process alone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.runtime import distributed
from restem.runtime.coordination import EXIT_LATE_HOST
from restem.runtime.preemption import EXIT_PREEMPTED, PREEMPTION, Preemption

SCRIPT = pathlib.Path(__file__).with_name("distributed_process.py")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _environment(processes: int, index: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "RESTEM_COORDINATOR": f"localhost:{port}",
        "RESTEM_NUM_PROCESSES": str(processes),
        "RESTEM_PROCESS_ID": str(index),
    }


class ManyProcessesTest(absltest.TestCase):
    def run_case(self, case: str, processes: int = 2):
        """Exit codes, results (None where a process left none) and output of each process."""
        with tempfile.TemporaryDirectory() as folder:
            port = _free_port()
            started = [
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), case, folder],
                    env=_environment(processes, i, port),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for i in range(processes)
            ]
            try:
                outputs = [p.communicate(timeout=240)[0] for p in started]
            finally:
                for p in started:
                    p.kill()
            results = []
            for i in range(processes):
                path = pathlib.Path(folder) / f"{i}.json"
                results.append(json.loads(path.read_text()) if path.exists() else None)
            return [p.returncode for p in started], results, "\n".join(outputs)

    def test_arrays_over_two_hosts_equal_one(self):
        codes, (first, second), output = self.run_case("arrays")
        self.assertEqual(codes, [0, 0], output[-3000:])
        self.assertTrue(first["several"])
        np.testing.assert_array_equal(first["global"], second["global"])
        np.testing.assert_allclose(first["global"], first["one"], atol=1e-5)
        np.testing.assert_allclose(first["local"] + second["local"], first["one"], atol=1e-5)
        self.assertEqual(first["all_rows"], np.arange(24).reshape(4, 6).tolist())
        self.assertEqual(second["all_rows"], first["all_rows"])
        self.assertEqual((first["share"], second["share"]), ([0, 2, 4], [1, 3]))
        self.assertEqual((first["first"], second["first"]), (True, False))
        with self.subTest("the first host computes for all"):
            self.assertEqual((first["calls"], second["calls"]), (1, 0))
            for result in (first, second):
                self.assertEqual(result["value"], 7)
                self.assertEqual(result["error"], "no such file")
                self.assertEqual(result["gathered"], [[0, 1]] * 3)

    def test_a_late_host_is_named(self):
        _, (first, _), output = self.run_case("late")
        self.assertIsNotNone(first, output[-3000:])
        self.assertRegex(
            first["error"],
            rf"barrier 'samples of iteration 1': host 1 \({socket.gethostname()}\) did not come"
            " within 2 s",
        )
        self.assertEqual(first["exit_code"], EXIT_LATE_HOST)

    def test_a_host_that_works_is_waited_for(self):
        codes, (first, second), output = self.run_case("patient")
        self.assertEqual(codes, [0, 0], output[-3000:])
        self.assertEqual((first["told"], second["told"]), (7, 7))

    def test_a_killed_host_ends_the_others_with_a_clear_error(self):
        codes, (first, second), output = self.run_case("killed")
        self.assertEqual(codes[1], -signal.SIGKILL)
        self.assertIsNone(second)
        self.assertIsNotNone(first, output[-3000:])
        self.assertRegex(first["error"], "barrier 'second': host 1 .* start all hosts again")

    def test_sigterm_to_one_host_stops_all_at_the_same_step(self):
        codes, (first, second), output = self.run_case("preempted")
        self.assertEqual(codes, [EXIT_PREEMPTED] * 2, output[-3000:])
        self.assertEqual(first["step"], second["step"])
        self.assertGreaterEqual(first["step"], 10)
        self.assertTrue(first["still"] and first["noticed"] and second["noticed"])


class JoinTest(absltest.TestCase):
    def test_a_host_that_finds_no_other_ends_with_the_code_that_restarts_it(self):
        workdir = pathlib.Path(self.create_tempdir().full_path) / "run"
        done = subprocess.run(
            [
                sys.executable, "-m", "restem", "select", "--gin_file=restem_demo.gin",
                f"--workdir={workdir}", "--gin.initialize.initialization_timeout_s=1",
            ],
            env=_environment(2, 1, _free_port()), cwd=SCRIPT.parents[2], capture_output=True,
            text=True, timeout=240,
        )  # fmt: skip
        self.assertFalse(workdir.exists())
        if done.returncode == -signal.SIGABRT:  # 134 in a shell: XLA itself ends the process
            return
        self.assertEqual(done.returncode, EXIT_LATE_HOST, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        self.assertRegex(last, "^restem: cannot join the other hosts at localhost:.* start all of")


class OneProcessTest(parameterized.TestCase):
    def test_nothing_to_join_and_nothing_to_wait_for(self):
        for name in ("RESTEM_COORDINATOR", "RESTEM_NUM_PROCESSES", "RESTEM_PROCESS_ID"):
            self.assertNotIn(name, os.environ)
        self.assertFalse(distributed.initialize())
        distributed.barrier("alone", timeout_s=0.001)
        self.assertEqual(distributed.share([1, 2, 3]), [1, 2, 3])
        self.assertTrue(distributed.is_primary())

    def test_some_of_three_settings_are_refused(self):
        with self.assertRaisesRegex(UserError, "num_processes, process_id missing"):
            distributed.initialize(coordinator="localhost:1")

    def test_sigterm_is_seen_and_the_old_handler_comes_back(self):
        before = signal.getsignal(signal.SIGTERM)
        preemption = Preemption()
        with self.assertRaises(SystemExit) as caught, preemption:
            self.assertFalse(preemption.reached() or preemption.noticed())
            distributed.run_on_primary("nothing", lambda: None)
            preemption.leave_if(False)
            signal.raise_signal(signal.SIGTERM)
            self.assertTrue(preemption.reached() and preemption.noticed())
            preemption.leave_if(preemption.reached())
        self.assertEqual(caught.exception.code, EXIT_PREEMPTED)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    def test_ctrl_c_waits_for_a_loop_that_saves(self):
        # A shell starts jobs in the background with SIGINT ignored.
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        before = signal.default_int_handler
        signal.signal(signal.SIGINT, before)
        preemption = Preemption()
        with self.assertRaises(KeyboardInterrupt), preemption:
            signal.raise_signal(signal.SIGINT)
        saved = []
        with self.assertRaises(KeyboardInterrupt), preemption, preemption.deferring():
            for step in range(3):
                if step == 1:
                    signal.raise_signal(signal.SIGINT)
                saved.append(step)
                preemption.leave_if(preemption.reached())
        self.assertEqual(saved, [0, 1])
        with self.assertRaises(KeyboardInterrupt), preemption, preemption.deferring():
            signal.raise_signal(signal.SIGINT)
            saved.append("first")
            signal.raise_signal(signal.SIGINT)
            saved.append("second")
        self.assertEqual(saved, [0, 1, "first"])
        with preemption:
            self.assertFalse(preemption.reached() or preemption.noticed())
        self.assertIs(signal.getsignal(signal.SIGINT), before)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with preemption:
            signal.raise_signal(signal.SIGINT)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)

    def test_a_preempted_process_leaves_between_steps(self):
        with PREEMPTION:
            signal.raise_signal(signal.SIGTERM)
            self.assertEqual(distributed.run_on_primary("a step", lambda: 7, may_leave=False), 7)
            with self.assertRaises(SystemExit):
                distributed.run_on_primary("a step", lambda: 7)
        self.assertEqual(distributed.run_on_primary("a step", lambda: 7), 7)


if __name__ == "__main__":
    absltest.main()

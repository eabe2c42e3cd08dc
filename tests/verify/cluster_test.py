"""Programs on a cluster of this machine: the verdicts of a local pool, whatever dies."""

import collections
import importlib.util
import json
import os
import signal
import unittest

from absl.testing import absltest

from restem.errors import UserError
from restem.records import Problem
from restem.verify import cluster, run_programs

TESTS = json.dumps({"inputs": ["3\n", "5\n"], "outputs": ["6\n", "10\n"]})
PROBLEM = Problem("double", "train", "", tests=TESTS)
GRADER = {"kind": "program", "extraction": "completion", "time_limit_s": 2.0}
PROGRAMS = (
    "print(2 * int(input()))",
    "print(3 * int(input()))",
    "raise ValueError('no')",
    "print(open('/etc/passwd').read())",
    "while True: pass",
)
SLOW = "import time\ntime.sleep(0.4)\nprint(2 * int(input()))"


def stored(verdict):
    """What is the same in every run of a program."""
    return verdict.reward, verdict.method, verdict.correct, verdict.passed, verdict.total


@unittest.skipUnless(importlib.util.find_spec("ray"), "Ray is not installed (restem[ray])")
class ClusterTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
        cls.addClassCleanup(ray.shutdown)
        per_actor, cluster.CPUS_PER_ACTOR = cluster.CPUS_PER_ACTOR, 1
        cls.addClassCleanup(setattr, cluster, "CPUS_PER_ACTOR", per_actor)
        cls.verifier = cluster.ClusterVerifier(
            cluster.Cluster("auto"), grader=GRADER, allow_weak_sandbox=True
        )
        cls.addClassCleanup(cls.verifier.close)

    def test_verdicts_are_those_of_this_machine(self):
        found = self.verifier.grade([PROBLEM] * len(PROGRAMS), PROGRAMS)
        local = run_programs(
            PROGRAMS, [TESTS] * len(PROGRAMS), time_limit_s=2.0, allow_weak_sandbox=True
        )
        self.assertEqual([stored(v) for v in found], [stored(v) for v in local])
        self.assertEqual(found[0].sandbox, local[0].sandbox)
        self.assertEqual(
            {n for n, s in self.verifier.layers.items() if s.in_force},
            set(local[0].sandbox.split(",")) - {"none"},
        )

    def test_a_killed_worker_loses_no_sample_and_counts_none_twice(self):
        import ray

        finished = collections.Counter()
        futures = []
        for i in range(12):
            right = i % 3 > 0
            future = self.verifier.submit(PROBLEM, SLOW if right else SLOW + "\nprint(1)")
            future.add_done_callback(lambda _, i=i: finished.update([i]))
            futures.append(future)
        futures[0].result()
        pids = ray.get([actor.process.remote() for actor in self.verifier._actors])
        self.assertLen(set(pids), 2)
        os.kill(pids[1], signal.SIGKILL)
        rewards = [future.result().reward for future in futures]
        self.assertEqual(rewards, [float(i % 3 > 0) for i in range(12)])
        self.assertEqual(finished, collections.Counter(range(12)))
        again = ray.get([actor.process.remote() for actor in self.verifier._actors])
        self.assertEqual(again[0], pids[0])
        self.assertNotEqual(again[1], pids[1])

    def test_what_is_wrong_with_a_problem_is_told(self):
        with self.assertRaisesRegex(UserError, "problem 'none' has no tests"):
            self.verifier.submit(Problem("none", "train", ""), "print(1)")
        with self.assertRaisesRegex(UserError, "problem 'bad'"):
            self.verifier.submit(Problem("bad", "train", "", tests="{}"), "print(1)")


if __name__ == "__main__":
    absltest.main()

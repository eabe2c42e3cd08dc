"""The script that workers run: restarts by exit code, signals, hosts of a Vertex AI job."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest, parameterized

from launch import worker
from restem.runtime.coordination import EXIT_LATE_HOST
from restem.runtime.preemption import EXIT_PREEMPTED

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for `python -m restem`: writes its arguments, and ends as the test says.
RESTEM = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["HERE"])
with (here / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
codes = os.environ["CODES"].split(",")
code = codes[len((here / "calls").read_text().splitlines()) - 1]
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (here / "ready").touch()
    time.sleep(60)
if code == "abort":
    os.abort()
sys.exit(int(code))
"""


class WorkerTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        package = self.folder / "restem"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(RESTEM)

    def start(self, codes: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "worker.py"), "run", "--gin.A=b c"],
            cwd=self.folder, stdout=subprocess.PIPE, text=True,
            env={
                **os.environ, "PYTHONPATH": str(self.folder), "HERE": str(self.folder),
                "CODES": codes, "RESTEM_PAUSE_S": "0", **environment,
            },
        )  # fmt: skip

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @parameterized.parameters(
        ("0", 0, 1),
        ("2,0", 2, 1),
        ("1,0", 1, 1),
        (f"{EXIT_PREEMPTED},{EXIT_LATE_HOST},abort,0", 0, 4),
        (f"{EXIT_LATE_HOST},2", 2, 2),
    )
    def test_restem_starts_again_while_it_may_continue(self, codes, expected, starts):
        process = self.start(codes)
        self.assertEqual(process.wait(), expected, process.stdout.read())
        self.assertEqual(self.calls(), [["run", "--gin.A=b c"]] * starts)

    def test_the_exit_code_in_a_file(self):
        process = self.start("2", RESTEM_EXIT_FILE=str(self.folder / "exit"))
        self.assertEqual(process.wait(), 0)
        self.assertEqual((self.folder / "exit").read_text(), "2\n")

    def test_where_pods_start_again_restem_does_not(self):
        process = self.start("75,0", RESTEM_RESTARTS="0")
        self.assertEqual(process.wait(), 75)
        self.assertLen(self.calls(), 1)

    def test_a_signal_reaches_restem_and_nothing_starts_again(self):
        process = self.start("wait,0")
        while not (self.folder / "ready").exists():
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(), EXIT_PREEMPTED)
        self.assertLen(self.calls(), 1)

    def test_a_signal_in_the_pause_ends_the_worker(self):
        process = self.start("75,0", RESTEM_PAUSE_S="60")
        for line in process.stdout:
            if "starts again" in line:
                break
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(), EXIT_PREEMPTED)
        self.assertLen(self.calls(), 1)

    def test_the_codes_are_those_of_restem(self):
        codes = (EXIT_PREEMPTED, EXIT_LATE_HOST, 128 + signal.SIGABRT)
        self.assertEqual(worker.RESTARTABLE, codes)


# As in https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables
CLUSTER_SPEC = {
    "cluster": {
        "workerpool0": ["cmle-training-workerpool0-6cba-0:2222"],
        "workerpool1": [
            "cmle-training-workerpool1-6cba-0:2222",
            "cmle-training-workerpool1-6cba-1:2222",
        ],
    },
    "environment": "cloud",
    "task": {"type": "workerpool1", "index": 1},
}


class ClusterSpecTest(parameterized.TestCase):
    def test_hosts_of_two_pools(self):
        found = worker.hosts_from_cluster_spec({"CLUSTER_SPEC": json.dumps(CLUSTER_SPEC)})
        self.assertEqual(
            found,
            {
                "RESTEM_COORDINATOR": "cmle-training-workerpool0-6cba-0:2222",
                "RESTEM_NUM_PROCESSES": "3",
                "RESTEM_PROCESS_ID": "2",
            },
        )

    def test_one_replica_is_left_to_jax(self):
        spec = {"cluster": {"workerpool0": ["a:2222"]}, "task": {"type": "workerpool0", "index": 0}}
        self.assertEqual(worker.hosts_from_cluster_spec({"CLUSTER_SPEC": json.dumps(spec)}), {})
        self.assertEqual(worker.hosts_from_cluster_spec({}), {})

    def test_what_is_given_stays(self):
        given = {"CLUSTER_SPEC": json.dumps(CLUSTER_SPEC), "RESTEM_COORDINATOR": "mine:1"}
        self.assertEqual(worker.hosts_from_cluster_spec(given), {})


if __name__ == "__main__":
    absltest.main()

"""The worker that every host of a job runs, which restarts restem while it may continue.

    python launch/worker.py run --gin_file=restem_math.gin --workdir=gs://bucket/runs/math

After the exit codes 75 (preempted), 76 (another host was late or died) and 134 (the first host
died), the worker starts the same command again after a pause. It exits with any other code. It
passes a SIGTERM or SIGINT on to restem, which saves its work and exits; then the worker exits too.
It needs only the standard library and runs with the Python in which restem is installed.

Environment:
    RESTEM_RESTARTS    how often restem is started again in place; default 1000, on GKE 0, because
                       the Job starts pods again
    RESTEM_PAUSE_S     seconds before restem is started again; default 10
    RESTEM_EXIT_FILE   where the exit code is written at the end; the worker then ends with 0,
                       because XManager stops all other jobs where a process fails
    CLUSTER_SPEC       hosts of a Vertex AI job, from which RESTEM_COORDINATOR, RESTEM_NUM_PROCESSES
                       and RESTEM_PROCESS_ID follow
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

RESTARTABLE = (75, 76, 134)
"""Exit codes after which the same command continues: preempted, another host late or dead, the
first host dead (see `restem.runtime.distributed`)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that make a worker exit."""


def hosts_from_cluster_spec(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns restem's variables for a Vertex AI job of several replicas; none for a single one.

    A TPU slice is one replica for any number of hosts; JAX finds them by the TPU's variables.
    https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables
    """
    if not environment.get("CLUSTER_SPEC") or "RESTEM_COORDINATOR" in environment:
        return {}
    spec = json.loads(environment["CLUSTER_SPEC"])
    hosts = [
        (pool, index, address)
        for pool, addresses in sorted(spec["cluster"].items())
        for index, address in enumerate(addresses)
    ]
    if len(hosts) < 2:
        return {}
    me = (spec["task"]["type"], spec["task"]["index"])
    return {
        "RESTEM_COORDINATOR": hosts[0][2],
        "RESTEM_NUM_PROCESSES": str(len(hosts)),
        "RESTEM_PROCESS_ID": str([host[:2] for host in hosts].index(me)),
    }


class Worker:
    """Runs restem until it is done or must not be restarted."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
        self._command = [sys.executable, "-m", "restem", *arguments]
        self._environment = {**environment, **hosts_from_cluster_spec(environment)}
        self._restarts = int(environment.get("RESTEM_RESTARTS", "1000"))
        self._pause_s = float(environment.get("RESTEM_PAUSE_S", "10"))
        self._leaving = threading.Event()
        self._process: subprocess.Popen | None = None

    def leave(self, number: int, frame: object) -> None:
        """Handles a signal: passes it on to restem and prevents restarts."""
        del frame
        self._leaving.set()
        if self._process is not None:
            self._process.send_signal(number)

    def run(self) -> int:
        """Runs restem; returns the exit code of its last process."""
        code = 0
        for started in range(1 + self._restarts):
            if started:
                print(f"worker: restem starts again in {self._pause_s:g} s", flush=True)
                self._leaving.wait(self._pause_s)
            # A signal arrives either before the test, or when there is a process to pass it on to.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            if not self._leaving.is_set():
                self._process = subprocess.Popen(
                    self._command, env=self._environment, preexec_fn=_unblock_signals
                )
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if self._process is None:
                break
            code = self._process.wait()
            self._process = None
            code = 128 - code if code < 0 else code  # as in a shell: SIGABRT is 134
            print(f"worker: restem ended with exit code {code}", flush=True)
            if code not in RESTARTABLE:
                break
        return code


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def main(arguments: Sequence[str]) -> int:
    worker = Worker(arguments, os.environ)
    for number in SIGNALS:
        signal.signal(number, worker.leave)
    code = worker.run()
    if file := os.environ.get("RESTEM_EXIT_FILE"):
        pathlib.Path(file).write_text(f"{code}\n")
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

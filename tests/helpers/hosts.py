"""Hosts of a job on this machine: processes of `restem`, forked from one that has imported it.

    python -m tests.helpers.hosts < REQUESTS > REPLIES

A request is a line of JSON: {"argv": [...], "environment": {...}, "log": PATH} starts a process and
is answered by its process id; {"wait": PID} is answered by its exit code, negative for a signal.
Hosts are forked because importing takes two seconds of CPU time. In all else they are processes
like those that a shell starts.
"""

from __future__ import annotations

import atexit
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.helpers import xla

ROOT = pathlib.Path(__file__).parents[2]


class Machine:
    """Starts jobs of several hosts and ends them."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.hosts"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # These programs run for milliseconds and compile for seconds.
            env={
                **os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "XLA_FLAGS": xla.flags(), "PYTHONPATH": str(ROOT),
            },
        )  # fmt: skip

    def ask(self, **request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, hosts: int, argv: Sequence[str], log: pathlib.Path, *, devices: int = 1) -> Job:
        """A job of `hosts` processes of `restem ARGV`; host i writes LOG.i."""
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        pids = []
        for i in range(hosts):
            environment = {}
            if hosts > 1:
                environment |= {
                    "RESTEM_COORDINATOR": f"localhost:{port}",
                    "RESTEM_NUM_PROCESSES": str(hosts),
                    "RESTEM_PROCESS_ID": str(i),
                }
            pids.append(self.ask(argv=list(argv), environment=environment, log=f"{log}.{i}"))
        return Job(self, pids, log)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


class Job:
    """The processes of one job."""

    def __init__(self, machine: Machine, pids: Sequence[int], log: pathlib.Path):
        self._machine = machine
        self._log = log
        self.pids = list(pids)

    def interrupt(self, host: int, number: signal.Signals, when: Callable[[], bool]) -> None:
        """Sends a signal to one host as soon as `when` holds."""
        while not when():
            if not self.is_running(host):
                raise AssertionError(f"host {host} ended before its signal:\n{self.output()}")
            time.sleep(0.02)
        os.kill(self.pids[host], number)

    def is_running(self, host: int) -> bool:
        """Whether a host has not ended; one that has stays a zombie until it is waited for."""
        stat = pathlib.Path(f"/proc/{self.pids[host]}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"

    def codes(self) -> list[int]:
        """Exit codes of all hosts, once they have ended."""
        return [self._machine.ask(wait=pid) for pid in self.pids]

    def output(self) -> str:
        logs = [pathlib.Path(f"{self._log}.{i}") for i in range(len(self.pids))]
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in logs if path.exists())


def _start(request) -> int:
    pid = os.fork()
    if pid:
        return pid
    from restem.cli import main

    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.environ.update(request["environment"])
        # One core per host, so that it verifies with one worker instead of one per core.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
        sys.argv = ["restem", *request["argv"]]
        main.console()
    except SystemExit as e:
        code = e.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    # Imported once for all hosts.
    from restem.cli import verbs  # noqa: F401
    from restem.report import report
    from restem.run.trackers import tensorboard  # noqa: F401

    # Drawing figures would take longer than everything else, and has its own tests.
    report.report = lambda **_: "not drawn"
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = _start(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()

"""Verification on other machines: actors of a Ray cluster, each with the local sandbox.

Ray (https://docs.ray.io) places the actors, restarts those that die and sends their unfinished
samples again; each sample has one reference, which is resolved once, so that no sample is lost or
counted twice. An actor runs an ordinary `Verifier`, so that verdicts do not depend on where a
program runs. The machines of the cluster need the same version of restem and no accelerator.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import restem
from restem.errors import UserError
from restem.records import Problem, Verdict, verdict_fields
from restem.verify.pool.pool import WorkersLostError
from restem.verify.programs.program_pool import check_tests
from restem.verify.sandbox import layers

CPUS_PER_ACTOR = 4
"""CPUs of an actor, each with one program at a time."""
WAITING_PER_CPU = 8
"""Samples per CPU that may be under way; further ones wait in `submit`."""
_TRIES = 5
"""Number of times that a sample is sent again after its actor died."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the part of it that one host of a run uses."""

    address: str
    """Address of the cluster: "auto", "HOST:6379" or "ray://HOST:10001"."""
    hosts: int = 1
    """Number of hosts of the run, which share the cluster's CPUs."""


class ClusterVerifier:
    """Grades samples on a cluster; its methods are those of `Verifier`."""

    def __init__(
        self, cluster: Cluster, *, grader: Mapping[str, Any], allow_weak_sandbox: bool = False
    ):
        """Starts the actors and waits until each has tested its sandbox.

        Args:
          cluster: the cluster and this host's share of it.
          grader: `TaskCard.grader`.
          allow_weak_sandbox: whether programs run where a machine isolates them too little.

        Raises:
          UserError: Ray is not installed, the cluster cannot be reached, has another version of
            restem, or isolates programs too little.
        """
        self._ray = _connect(cluster.address)
        machines = [int(n["Resources"].get("CPU", 0)) for n in self._ray.nodes() if n["Alive"]]
        per_actor = min(CPUS_PER_ACTOR, max(machines, default=0))
        actors = sum(cpus // max(1, per_actor) for cpus in machines) // cluster.hosts
        if not actors:
            raise UserError(
                f"Run.program_cluster={cluster.address}: the cluster has too few CPUs for"
                f" {cluster.hosts} hosts of the run; start Ray on more machines"
            )
        remote = self._ray.remote(
            num_cpus=per_actor,
            max_restarts=-1,
            max_task_retries=_TRIES,
            max_concurrency=2 * WAITING_PER_CPU * per_actor,
            scheduling_strategy="SPREAD",
        )(_Actor)
        self._actors = [
            remote.remote(dict(grader), per_actor, allow_weak_sandbox) for _ in range(actors)
        ]
        self._lock = threading.Condition()
        self._under_way: collections.Counter[int] = collections.Counter()
        self._most = WAITING_PER_CPU * per_actor
        self._closed = False
        self.layers: Mapping[str, layers.LayerStatus] = {}
        try:
            self._meet(allow_weak_sandbox)
        except BaseException:
            self.close()
            raise

    def _meet(self, allow_weak_sandbox: bool) -> None:
        """Logs the sandbox of every actor, and keeps the layers that all of them have."""
        told = self._call(lambda: self._ray.get([a.describe.remote() for a in self._actors]))
        common: dict[str, layers.LayerStatus] = {}
        for host, version, fault, statuses in told:
            if version != restem.__version__:
                raise UserError(
                    f"{host} has restem {version}, and this machine {restem.__version__}; install"
                    " the same version on all machines of the cluster"
                )
            if fault:
                raise UserError(f"{host}: {fault}")
            found = layers.read(statuses)
            for line in layers.describe(found):
                logging.info("sandbox on %s: %s", host, line)
            layers.check(found, allow_weak_sandbox=allow_weak_sandbox)
            for name, status in found.items():
                if name not in common or not status.in_force:
                    common[name] = status
        self.layers = common

    @property
    def counts(self) -> dict[str, int]:
        """Returns the events of the actors' workers so far; see `Verifier.counts`."""
        references = [actor.counts.remote() for actor in self._actors]
        told = self._call(lambda: self._ray.get(references, timeout=60))
        return dict(sum(map(collections.Counter, told), collections.Counter()))

    def _call(self, function):
        """Calls Ray; errors of an actor's start become those of a local verifier."""
        try:
            return function()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        except self._ray.exceptions.RayActorError as error:
            cause = getattr(error, "cause", None) or error
            raise WorkersLostError(f"no verification worker can be started: {cause}") from None

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        """Returns the verdict on one sample, as a future; see `Verifier.submit`."""
        if problem.tests is None:
            raise UserError(f"problem {problem.problem_id!r} has no tests to run")
        check_tests(problem.tests, where=f"problem {problem.problem_id!r}")
        verdict: Future[Verdict] = Future()
        with self._lock:
            while True:
                index = min(range(len(self._actors)), key=self._under_way.__getitem__)
                if self._under_way[index] < self._most or self._closed:
                    break
                self._lock.wait()
            if self._closed:
                verdict.cancel()
                return verdict
            self._under_way[index] += 1
        reference = self._actors[index].grade.remote(
            problem.problem_id, problem.split, problem.tests, text
        )

        def done(future: Future[dict[str, Any]]) -> None:
            with self._lock:
                self._under_way[index] -= 1
                self._lock.notify()
            if not verdict.set_running_or_notify_cancel():
                return
            try:
                verdict.set_result(Verdict(**self._call(future.result)))
            except BaseException as error:
                verdict.set_exception(error)

        reference.future().add_done_callback(done)
        return verdict

    def grade(self, problems, texts) -> list[Verdict]:
        """Returns the verdicts on `texts[k]` as a solution to `problems[k]`, in order."""
        futures = [self.submit(p, text) for p, text in zip(problems, texts, strict=True)]
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends the actors; samples without a verdict by now are cancelled."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for actor in self._actors:
            self._ray.kill(actor)

    def __enter__(self) -> ClusterVerifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Actor:
    """A worker of the cluster: a local `Verifier`."""

    def __init__(self, grader: dict[str, Any], cpus: int, allow_weak_sandbox: bool):
        from restem.verify.verifier import Verifier

        self._fault = ""
        try:
            self._verifier = Verifier(
                grader=grader, workers=cpus, allow_weak_sandbox=allow_weak_sandbox
            )
        except UserError as error:  # an error here would end the actor, and its message with it
            self._fault = str(error)
            return
        for line in layers.describe(self._verifier.layers):
            print(f"sandbox: {line}", flush=True)

    async def describe(self) -> tuple[str, str, str, dict[str, Any]]:
        """Returns the host's name, the version of restem, what is wrong, and the layers."""
        status = {} if self._fault else self._verifier.layers
        found = {name: dataclasses.asdict(layer) for name, layer in status.items()}
        return socket.gethostname(), restem.__version__, self._fault, found

    async def process(self) -> int:
        """Returns the process id of the actor."""
        return os.getpid()

    async def counts(self) -> dict[str, int]:
        """Returns `Verifier.counts`."""
        return self._verifier.counts

    async def grade(self, problem_id: str, split: str, tests: str, text: str) -> dict[str, Any]:
        """Returns the fields of the verdict on one sample."""
        problem = Problem(problem_id, split, "", tests=tests)
        return verdict_fields(await asyncio.wrap_future(self._verifier.submit(problem, text)))


def _connect(address: str) -> Any:
    """Returns the module `ray`, connected to a cluster.

    Raises:
      UserError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("Run.program_cluster needs Ray: pip install 'restem[ray]'") from None
    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Run.program_cluster={address}: {' '.join(str(error).split())[:300]}; start Ray"
                " there with `ray start --head`, and with `ray start --address=HOST:6379` on the"
                " other machines"
            ) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's would end a run without saving
    return ray

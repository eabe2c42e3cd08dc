"""Many hosts: start-up, barriers that name the host that is late, and preemption.

Exit codes of `restem`, for whatever starts it again:

    0    done
    2    bad input: a person must mend something
    75   preempted: the step's work is saved, and the same command goes on (`EXIT_PREEMPTED`)
    76   another host was late or died; restart all hosts with the same command (`EXIT_LATE_HOST`)

75 is EX_TEMPFAIL of sysexits.h, "try again". JAX itself ends a process with SIGABRT (exit code
134 in a shell) where its coordination service finds that a host no longer answers.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import gin
import jax
from absl import logging
from jax.experimental import multihost_utils

from restem.errors import UserError

EXIT_PREEMPTED = 75
"""Exit code after SIGTERM or a preemption notice, once the work is saved."""

EXIT_LATE_HOST = 76
"""Exit code after a barrier that a host did not reach in time."""

T = TypeVar("T")


class PreemptedError(SystemExit):
    """Leaves the process with `EXIT_PREEMPTED`; raise it only when the work is saved."""

    def __init__(self):
        super().__init__(EXIT_PREEMPTED)


class LateHostError(RuntimeError):
    """A barrier was not reached by all hosts in time; the message names those that are missing."""

    exit_code = EXIT_LATE_HOST


@gin.configurable
def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    initialization_timeout_s: int = 300,
    heartbeat_timeout_s: int = 100,
    shutdown_timeout_s: int = 60,
) -> bool:
    """Joins the hosts of a job, if there are several; call it before any other use of JAX.

    TPU pods, SLURM, Open MPI and Kubernetes are recognised by JAX. Elsewhere all three of the first
    arguments are given, or RESTEM_COORDINATOR, RESTEM_NUM_PROCESSES and RESTEM_PROCESS_ID set.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: of the job.
      process_id: of this process, from 0.
      initialization_timeout_s: seconds to wait for all hosts.
      heartbeat_timeout_s: seconds after which a silent host counts as dead.
      shutdown_timeout_s: seconds that a host which is done waits for the others.

    Returns:
      Whether there are several processes.

    Raises:
      UserError: only some of the three are given, or a host did not come.
    """
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    environment: Callable[[str], Any] = os.environ.get
    coordinator = coordinator or environment("RESTEM_COORDINATOR")
    if num_processes is None and environment("RESTEM_NUM_PROCESSES"):
        num_processes = int(environment("RESTEM_NUM_PROCESSES"))
    if process_id is None and environment("RESTEM_PROCESS_ID"):
        process_id = int(environment("RESTEM_PROCESS_ID"))
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise UserError(
            f"distributed start-up: {', '.join(missing)} missing; give coordinator, num_processes"
            " and process_id (RESTEM_COORDINATOR, ...), or none of them"
        )
    if num_processes == 1:
        return False
    if missing and not _is_cluster():
        return False
    # CPU hosts talk over gloo; elsewhere this option is not read.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id,
            initialization_timeout=initialization_timeout_s,
            heartbeat_timeout_seconds=heartbeat_timeout_s,
            shutdown_timeout_seconds=shutdown_timeout_s,
        )  # fmt: skip
    except (RuntimeError, ValueError) as e:
        text = " ".join(str(e).split())[:300]
        raise UserError(
            f"cannot join the other hosts at {coordinator or 'the detected coordinator'}: {text};"
            " start all of them with the same coordinator and number of processes"
        ) from e
    _client().key_value_set(f"restem/host/{jax.process_index()}", socket.gethostname())
    logging.info(
        "host %d of %d (%s), %d of %d devices",
        jax.process_index(), jax.process_count(), socket.gethostname(),
        jax.local_device_count(), jax.device_count(),
    )  # fmt: skip
    return jax.process_count() > 1


def _is_cluster() -> bool:
    """Whether JAX recognises a job of several hosts around this process."""
    from jax._src.clusters import ClusterEnv  # initialize() uses it, and offers no way to ask

    return any(
        env.is_env_present() and not env.opt_in_only_method for env in ClusterEnv._cluster_types
    )


def _client():
    """The coordination service; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


_uses: Counter[str] = Counter()


@gin.configurable
def barrier(name: str, *, timeout_s: float = 600.0) -> None:
    """Waits until every host is here; nothing to do where there is one.

    All hosts come to the same barriers in the same order; a name may be used again.

    Args:
      name: what the hosts have finished, for the error message.
      timeout_s: seconds to wait for the slowest host.

    Raises:
      LateHostError: names the hosts that did not come.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    client = _client()
    _uses[name] += 1
    place = f"restem/barrier/{name}/{_uses[name]}"
    me = str(jax.process_index())
    client.key_value_set(f"{place}/{me}", "here")
    try:
        client.wait_at_barrier(place, int(timeout_s * 1000))
    except Exception as e:  # jaxlib raises types of its own
        try:
            arrived = {key.rsplit("/", 1)[1] for key, _ in client.key_value_dir_get(place)}
            names = {
                key.rsplit("/", 1)[1]: host for key, host in client.key_value_dir_get("restem/host")
            }
        except Exception:
            arrived, names = {me}, {}
        late = [i for i in map(str, range(jax.process_count())) if i not in arrived]
        who = ", ".join(f"host {i} ({names.get(i, 'unknown name')})" for i in late)
        raise LateHostError(
            f"barrier {name!r}: {who or 'a host'} did not come within {timeout_s:g} s; look at its"
            f" log, then start all hosts again with the same command"
        ) from e


def is_first() -> bool:
    """Whether this host writes what only one host writes."""
    return jax.process_index() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """The items that this host works on: every `process_count`-th, so that sizes differ by one."""
    return items[jax.process_index() :: jax.process_count()]


class Preemption:
    """Whether this job is about to be taken off its machines.

    One process: SIGTERM sets a flag. Many: a notice to any host (SIGTERM, or the machine's own)
    reaches all through JAX's coordination service, which picks a step that no host has passed, so
    that all hosts stop at the same one.

        with Preemption() as preemption:
            for batch in batches:
                state = step(state, batch)
                if preemption.reached():
                    save(state)
                    raise PreemptedError
    """

    def __init__(self):
        self._flag = threading.Event()
        self._steps = 0
        self._previous = None
        self._many = jax.distributed.is_initialized() and jax.process_count() > 1

    def __enter__(self) -> Preemption:
        # With many processes JAX has its own handler; and only a main thread may install one.
        if not self._many and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _on_signal(self, number: int, frame: object) -> None:
        self._flag.set()

    def reached(self) -> bool:
        """Whether to save and leave now; every host asks once a step.

        It stays True once it was.
        """
        if self._many and not self._flag.is_set():
            _steps_of_job.advance()
            if multihost_utils.reached_preemption_sync_point(_steps_of_job.value):
                self._flag.set()
        return self._flag.is_set()

    def stop_if_reached(self) -> None:
        """Raises `PreemptedError` where `reached`: for steps whose work is on disk already."""
        if self.reached():
            logging.warning("preempted: the work so far is saved; the same command goes on")
            raise PreemptedError

    def watch(self, items: Iterator[T]) -> Iterator[T]:
        """Passes items on until preempted, then raises `PreemptedError` between two of them."""
        for item in items:
            yield item
            self.stop_if_reached()


class _Steps:
    """Steps that this process has asked about: the coordination service wants them to rise over
    the whole life of a job, across several uses of `Preemption`."""

    def __init__(self):
        self.value = 0

    def advance(self) -> None:
        self.value += 1


_steps_of_job = _Steps()

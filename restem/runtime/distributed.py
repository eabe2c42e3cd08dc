"""Many hosts: start-up, waiting for one another, and preemption.

Every host runs the same program on the same folder. What only one host may do, the primary host
(process 0) does and tells the others (`run_on_primary`); what can be divided is divided (`share`);
a step that was divided ends with a `barrier`. The others notice a host that dies by its missing
heartbeats, whatever they are waiting for.

Exit codes of `restem`, for whatever starts it again:

    0    done
    2    bad input: the user must fix something
    75   preempted: the step's work is saved, and the same command continues (`EXIT_PREEMPTED`)
    76   another host was late or died; restart all hosts with the same command (`EXIT_LATE_HOST`)

75 is EX_TEMPFAIL of sysexits.h, "try again". If the primary host, which coordinates, dies, JAX
itself ends the others with SIGABRT, exit code 134 in a shell; treat it like 76.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import gin
import jax
from absl import logging

from restem.errors import UserError
from restem.runtime import coordination
from restem.runtime.checks import above, at_least
from restem.runtime.coordination import EXIT_LATE_HOST, LateHostError, put, several
from restem.runtime.preemption import DONE, EXIT_PREEMPTED, LEFT, PREEMPTED, PREEMPTION

T = TypeVar("T")


@dataclasses.dataclass
class _Cluster:
    """What this process knows of the hosts that run the same program."""

    barrier_timeout_s: float = 3600.0
    shutdown_timeout_s: float = 60.0
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    """Host names by process."""
    uses: Counter[str] = dataclasses.field(default_factory=Counter)
    """Uses of each meeting place: all hosts come to the same ones in the same order."""


_cluster = _Cluster()


@gin.configurable
def initialize(
    *,
    coordinator: str | None = None,
    num_processes: Annotated[int | None, at_least(1)] = None,
    process_id: Annotated[int | None, at_least(0)] = None,
    initialization_timeout_s: Annotated[int, at_least(1)] = 300,
    heartbeat_timeout_s: Annotated[int, at_least(1)] = 100,
    barrier_timeout_s: Annotated[float, above(0)] = 3600.0,
    shutdown_timeout_s: Annotated[int, at_least(1)] = 60,
) -> bool:
    """Joins the other hosts, if there are any; call it before any other use of JAX.

    JAX recognises TPU pods, SLURM, Open MPI and Kubernetes. Elsewhere, give all of the first three
    arguments, or set RESTEM_COORDINATOR, RESTEM_NUM_PROCESSES and RESTEM_PROCESS_ID.

    Args:
      coordinator: Address of process 0, "host:port".
      num_processes: Number of processes of the job.
      process_id: Number of this process, from 0.
      initialization_timeout_s: Seconds to wait for all hosts at the start.
      heartbeat_timeout_s: Seconds of silence after which a host counts as dead.
      barrier_timeout_s: Seconds to wait for hosts that are alive, at the end of a shared step or
        for the work of the primary host.
      shutdown_timeout_s: Seconds to wait for the other hosts at the end.

    Returns:
      Whether there are several processes.

    Raises:
      UserError: only some of the three are given, or a host did not join in time.
    """
    if jax.distributed.is_initialized():
        return several()
    coordinator = coordinator or os.environ.get("RESTEM_COORDINATOR")
    if num_processes is None:
        num_processes = _from_environment("RESTEM_NUM_PROCESSES")
    if process_id is None:
        process_id = _from_environment("RESTEM_PROCESS_ID")
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
            # JAX aborts the process without a word to us, so our own heartbeats come first. (Its
            # own come twice in this time, so a host may have been silent for half of it already.)
            heartbeat_timeout_seconds=3 * heartbeat_timeout_s,
            shutdown_timeout_seconds=shutdown_timeout_s,
        )  # fmt: skip
    except (RuntimeError, ValueError) as e:
        text = " ".join(str(e).split())[:300]
        raise UserError(
            f"cannot join the other hosts at {coordinator or 'the detected coordinator'}: {text};"
            " start all of them with the same coordinator and number of processes"
        ) from e
    if not several():
        return False
    _cluster.barrier_timeout_s, _cluster.shutdown_timeout_s = barrier_timeout_s, shutdown_timeout_s
    names = gather("start", socket.gethostname())
    _cluster.names = dict(enumerate(names))
    _Heartbeat(heartbeat_timeout_s).start()
    logging.info(
        "host %d of %d (%s), %d of %d devices",
        jax.process_index(), jax.process_count(), socket.gethostname(),
        jax.local_device_count(), jax.device_count(),
    )  # fmt: skip
    return True


def _from_environment(name: str) -> int | None:
    """Returns a number from the environment; None if it is not set."""
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text} in the environment: must be a whole number") from None


def _is_cluster() -> bool:
    """Whether JAX recognises that this process is one of several."""
    from jax._src.clusters import ClusterEnv  # what initialize() uses; it has no public name

    return any(
        env.is_env_present() and not env.opt_in_only_method for env in ClusterEnv._cluster_types
    )


def is_primary() -> bool:
    """Whether this is the primary host, which writes what only one host writes."""
    # A single process should not claim its devices just to answer this.
    return not several() or jax.process_index() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Returns this host's share of the items: every `process_count`-th of them."""
    return items[jax.process_index() :: jax.process_count()] if several() else items


def gather(what: str, value: Any = None, *, timeout_s: float | None = None) -> list[Any]:
    """Returns the value of every host, by process, once all hosts have called it.

    All hosts make the same calls in the same order; a name may be used again.

    Args:
      what: what the hosts have done, for the error message.
      value: anything JSON can hold; at most a few megabytes over all hosts.
      timeout_s: seconds to wait for the slowest host; None: `initialize.barrier_timeout_s`.

    Raises:
      LateHostError: hosts did not come in time; the message names them.
      PreemptedError: a missing host was preempted and has left.
    """
    if not several():
        return [value]
    place = _place(what)
    put(f"{place}/{jax.process_index()}", json.dumps(value))
    found = _wait(what, place, range(jax.process_count()), timeout_s)
    if (
        is_primary() and _cluster.uses[what] > 1
    ):  # every host has read the values of the previous use
        coordination.client().key_value_delete(f"restem/place/{what}/{_cluster.uses[what] - 1}")
    return [json.loads(found[i]) for i in range(jax.process_count())]


def barrier(what: str, *, timeout_s: float | None = None) -> None:
    """Waits until every host has called it; returns at once on a single host. See `gather`."""
    gather(what, timeout_s=timeout_s)


def run_on_primary(
    what: str,
    function: Callable[[], T],
    *,
    may_leave: bool = True,
    timeout_s: float | None = None,
) -> T:
    """Calls `function` on the primary host alone; returns its result on every host.

    Steps begin and end with it, so this is also where a preempted run exits between steps: the
    primary host decides for all.

    Args:
      what: names it in error messages.
      function: returns anything JSON can hold.
      may_leave: whether a preempted run exits here; not inside a step that has more to save.
      timeout_s: seconds that the others wait; None: `initialize.barrier_timeout_s`.

    Raises:
      UserError: `function` raised it.
      LateHostError: the primary host did not come, or `function` failed in another way.
      PreemptedError: this run is to exit.
    """
    if not several():
        value = function()
        PREEMPTION.leave_if(may_leave and PREEMPTION.noticed())
        return value
    place = _place(what)
    if is_primary():
        told: dict[str, Any]
        try:
            told = {"value": function()}
        except Exception as e:
            told = {"error": f"{type(e).__name__}: {e}"}
            if isinstance(e, UserError):
                told = {"user_error": str(e)}
            put(f"{place}/0", json.dumps(told))
            raise
        told["leave"] = may_leave and PREEMPTION.noticed()
        put(f"{place}/0", json.dumps(told))
    else:
        told = json.loads(_wait(what, place, [0], timeout_s)[0])
    if "user_error" in told:
        raise UserError(told["user_error"])
    if "error" in told:
        raise LateHostError(f"{what}: {_name(0)} failed: {told['error']}")
    PREEMPTION.leave_if(told["leave"])
    return told["value"]


def _place(what: str) -> str:
    _cluster.uses[what] += 1
    return f"restem/place/{what}/{_cluster.uses[what]}"


def _name(host: int) -> str:
    return f"host {host} ({_cluster.names.get(host, 'unknown name')})"


def _wait(what: str, place: str, awaited: Sequence[int], timeout_s: float | None) -> dict[int, str]:
    """Returns what the awaited hosts put at a meeting place."""
    limit = _cluster.barrier_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + limit
    pause = 0.002
    while True:
        # Read who has left first: then what a host put down before it left is seen.
        gone = coordination.read(LEFT)
        found = coordination.read(place)
        late = [host for host in awaited if host not in found]
        if not late:
            return found
        for host in late:
            PREEMPTION.leave_if(gone.get(host) == PREEMPTED)
            if host in gone:
                raise LateHostError(
                    f"{what}: {_name(host)} is no longer here ({gone[host]}); look at its log"
                )
        if time.monotonic() > deadline:
            raise LateHostError(
                f"barrier {what!r}: {', '.join(map(_name, late))} did not come within {limit:g} s;"
                " look at its log, then start all hosts again with the same command"
            )
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)


class _Heartbeat(threading.Thread):
    """Tells the others that this host is alive, and ends this process if another host is not.

    A host that waits for a dead one in a collective would wait forever and cannot be woken, so the
    process exits at once. Only the unfinished unit of work is lost.
    """

    def __init__(self, timeout_s: float):
        super().__init__(name="heartbeat", daemon=True)
        self._timeout_s = timeout_s

    def run(self) -> None:
        me, beat = jax.process_index(), 0
        last: dict[int, str] = {}
        heard = dict.fromkeys(range(jax.process_count()), time.monotonic())
        while coordination.client() is not None:
            beat += 1
            now = time.monotonic()
            try:
                put(f"restem/beat/{me}", str(beat))
                beats, gone = coordination.read("restem/beat"), coordination.read(LEFT)
            except (LateHostError, jax.errors.JaxRuntimeError):
                beats, gone = last, {}  # the primary host is silent, or about to exit
            for host in heard:
                left_well = gone.get(host) in (DONE, PREEMPTED)
                if left_well or beats.get(host) != last.get(host):
                    heard[host] = now
                elif now - heard[host] > self._timeout_s and host != me:
                    print(
                        f"restem: {_name(host)} has not been heard of for {self._timeout_s:g} s;"
                        " look at its log, then start all hosts again with the same command",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
                    _linger(self._timeout_s / 3)
                    os._exit(EXIT_LATE_HOST)
            last = {**last, **beats}
            time.sleep(min(5.0, self._timeout_s / 10))


def _linger(seconds: float) -> None:
    """Gives the others time to exit: JAX aborts them once the primary host is gone."""
    if is_primary():
        time.sleep(seconds)


def as_late_host(error: Exception) -> LateHostError | None:
    """Returns the error as one caused by another host; None if it was not."""
    if isinstance(error, LateHostError):
        return error
    text = " ".join(str(error).split())
    # JAX has no error type for it: a broken collective is a ValueError on CPUs.
    signs = ("gloo", "nccl", "unavailable", "deadline_exceeded", "barrier timed out")
    ours = isinstance(error, UserError) or not several()
    if not ours and any(sign in text.lower() for sign in signs):
        return LateHostError(f"another host was lost ({text[:300]}); start all hosts again")
    return None


def end(code: int) -> int:
    """Tells the other hosts how this process ended, and waits for them; its last call.

    Returns `code`, unless other hosts are lost: JAX would wait for them, so the process exits.
    """
    if not several():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if code == EXIT_LATE_HOST:
        _linger(5.0)
        os._exit(code)
    reasons = {0: DONE, EXIT_PREEMPTED: PREEMPTED}
    # A preempted host has nothing else to do, and the others may still be saving.
    limit = _cluster.barrier_timeout_s if code == EXIT_PREEMPTED else _cluster.shutdown_timeout_s
    deadline = time.monotonic() + limit
    try:
        put(f"{LEFT}/{jax.process_index()}", reasons.get(code, f"exit code {code}"))
        while len(coordination.read(LEFT)) < jax.process_count():
            if time.monotonic() > deadline:
                os._exit(code)
            time.sleep(0.05)
    except (LateHostError, jax.errors.JaxRuntimeError):
        os._exit(code)
    return code

"""Many hosts: start-up, synchronisation, failures and exit codes.

Every host runs the same program on the same folder. Work for a single host is done by the primary
host (process 0), which sends the result to the others (`run_on_primary`). Work that can be divided
is divided (`share`), and the step then ends with a `barrier`. A host that waits is patient with one
that works: the time limit starts anew whenever the awaited host makes progress (`progressed`). If a
host dies, the others notice its missing heartbeats, whatever they are waiting for.

Exit codes of `restem`, for the system that restarts it:

    0    done
    2    bad input: the user must fix something
    74   a fault of the machine, such as a full disk; once it is removed, the same command continues
    75   preempted: the step's work is saved, and the same command continues (`EXIT_PREEMPTED`)
    76   another host was late or died; restart all hosts with the same command (`EXIT_LATE_HOST`)

74 and 75 are EX_IOERR and EX_TEMPFAIL of sysexits.h. If the primary host, which coordinates, dies,
JAX itself ends the others with SIGABRT, exit code 134 in a shell; treat it like 76.
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

from restem.errors import MachineError, UserError
from restem.runtime import coordination, machine_errors
from restem.runtime.checks import above, at_least
from restem.runtime.coordination import EXIT_LATE_HOST, LateHostError, put, several
from restem.runtime.preemption import DONE, EXIT_PREEMPTED, LEFT, PREEMPTED, PREEMPTION

T = TypeVar("T")


@dataclasses.dataclass
class _Cluster:
    """This process's state about the hosts that run the same program."""

    barrier_timeout_s: float = 3600.0
    shutdown_timeout_s: float = 60.0
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    """Host names by process."""
    uses: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of uses of each meeting place; all hosts use the same places in the same order."""
    progress: int = 0
    """Finished units of shared work; sent to the other hosts with the heartbeats."""
    busy: bool = False
    """Whether this host does work that others wait for, and that has no smaller units."""


_cluster = _Cluster()

BEATS = "restem/beat"
"""Place of the heartbeats; each is a count of beats and one of finished units of work."""


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

    JAX recognises TPU pods, SLURM, Open MPI and Kubernetes. Elsewhere, pass all of the first three
    arguments, or set RESTEM_COORDINATOR, RESTEM_NUM_PROCESSES and RESTEM_PROCESS_ID.

    Args:
      coordinator: Address of process 0, "host:port".
      num_processes: Number of processes of the job.
      process_id: Number of this process, from 0.
      initialization_timeout_s: Seconds to wait for all hosts at the start.
      heartbeat_timeout_s: Seconds of silence after which a host counts as dead.
      barrier_timeout_s: Seconds without progress after which a live host that others wait for
        counts as late.
      shutdown_timeout_s: Seconds to wait for the other hosts at the end.

    Returns:
      True if there are several processes.

    Raises:
      UserError: only some of the first three arguments are set.
      LateHostError: a host did not join in time.
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
    # CPU hosts communicate over gloo; other platforms ignore this option.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id,
            initialization_timeout=initialization_timeout_s,
            # JAX aborts the process without notifying us, so our own heartbeats must detect a dead
            # host first. (JAX sends two heartbeats per timeout, so a host may already have been
            # silent for half of it.)
            heartbeat_timeout_seconds=3 * heartbeat_timeout_s,
            shutdown_timeout_seconds=shutdown_timeout_s,
        )  # fmt: skip
    except (RuntimeError, ValueError) as e:
        text = " ".join(str(e).split())[:300]
        raise LateHostError(
            f"cannot join the other hosts at {coordinator or 'the detected coordinator'}: {text};"
            " start all of them again, with the same coordinator and number of processes"
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
    """Returns whether JAX recognises this process as one of several."""
    from jax._src.clusters import ClusterEnv  # used by initialize(); has no public name

    return any(
        env.is_env_present() and not env.opt_in_only_method for env in ClusterEnv._cluster_types
    )


def is_primary() -> bool:
    """Returns whether this is the primary host, which writes the files of the run."""
    # A single process should not initialise its devices just to answer this question.
    return not several() or jax.process_index() == 0


def progressed() -> None:
    """Notes that this host has finished a unit of work, so that waiting hosts stay patient."""
    _cluster.progress += 1


def share(items: Sequence[T]) -> Sequence[T]:
    """Returns this host's share of the items: every `process_count`-th of them."""
    return items[jax.process_index() :: jax.process_count()] if several() else items


def gather(what: str, value: Any = None, *, timeout_s: float | None = None) -> list[Any]:
    """Returns the value of every host, by process, once all hosts have called it.

    All hosts make the same calls in the same order; a name may be reused.

    Args:
      what: description of the hosts' work, for the error message.
      value: any JSON value; at most a few megabytes over all hosts.
      timeout_s: seconds to wait for the slowest host since its last progress; None:
        `initialize.barrier_timeout_s`.

    Raises:
      LateHostError: hosts were late; the message names them.
      PreemptedError: a missing host was preempted and has left.
    """
    if not several():
        return [value]
    place = _place(what)
    put(f"{place}/{jax.process_index()}", json.dumps(value))
    found = _wait(what, place, range(jax.process_count()), timeout_s)
    if is_primary() and _cluster.uses[what] > 1:  # every host has read the previous use's values
        coordination.client().key_value_delete(f"restem/place/{what}/{_cluster.uses[what] - 1}")
    return [json.loads(found[i]) for i in range(jax.process_count())]


def barrier(what: str, *, timeout_s: float | None = None) -> None:
    """Waits until every host has called `barrier`; returns at once on a single host."""
    gather(what, timeout_s=timeout_s)


def run_on_primary(
    what: str,
    function: Callable[[], T],
    *,
    may_leave: bool = True,
    timeout_s: float | None = None,
) -> T:
    """Calls `function` on the primary host only; returns its result on every host.

    Steps begin and end with this call, so a preempted run exits here, between steps: the primary
    host decides for all hosts.

    Args:
      what: name of the work in error messages.
      function: returns any JSON value.
      may_leave: whether a preempted run may exit here; False inside a step that has more to save.
      timeout_s: seconds that the other hosts wait for the primary host to come here; None:
        `initialize.barrier_timeout_s`. While `function` runs, they wait as long as that host lives.

    Raises:
      UserError: `function` raised it.
      MachineError: `function` met a fault of the primary host.
      LateHostError: the primary host was late, or `function` failed in another way.
      PreemptedError: this run was preempted and must exit.
    """
    if not several():
        value = function()
        PREEMPTION.leave_if(may_leave and PREEMPTION.noticed())
        return value
    place = _place(what)
    if is_primary():
        told: dict[str, Any]
        _cluster.busy = True
        try:
            told = {"value": function()}
        except Exception as e:
            fault = machine_errors.explain(e)
            told = {"error": f"{type(e).__name__}: {e}"}
            if isinstance(fault, UserError):
                told = {"user_error": str(fault)}
            elif fault is not None:
                told = {"machine_error": str(fault)}
            put(f"{place}/0", json.dumps(told))
            raise
        finally:
            _cluster.busy = False
        told["leave"] = may_leave and PREEMPTION.noticed()
        put(f"{place}/0", json.dumps(told))
    else:
        told = json.loads(_wait(what, place, [0], timeout_s)[0])
    if "user_error" in told:
        raise UserError(told["user_error"])
    if "machine_error" in told:
        raise MachineError(told["machine_error"])
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
    """Returns the values that the awaited hosts put at a meeting place."""
    limit = _cluster.barrier_timeout_s if timeout_s is None else timeout_s
    looked = time.monotonic()
    deadline = looked + limit
    progress: dict[int, str] | None = None
    pause = 0.002
    while True:
        # Read the list of departed hosts first, so that values they put before leaving are seen.
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
        now = time.monotonic()
        if now - looked > limit / 10:
            looked, before, progress = now, progress, _progress(late)
            if before is not None and progress != before:
                deadline = now + limit
        if now > deadline:
            raise LateHostError(
                f"barrier {what!r}: {', '.join(map(_name, late))} did not come within {limit:g} s;"
                " look at its log, then start all hosts again with the same command"
            )
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)


def _progress(hosts: Sequence[int]) -> dict[int, str]:
    """Returns how far some hosts have come, as far as their heartbeats say."""
    beats = coordination.read(BEATS)
    return {host: beats.get(host, "").partition(" ")[2] for host in hosts}


class _Heartbeat(threading.Thread):
    """Sends heartbeats to the other hosts, and ends this process if another host is dead.

    A host that waits for a dead host in a collective operation would wait forever and cannot be
    interrupted, so the process exits at once. Only the unfinished unit of work is lost.
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
            if _cluster.busy:
                progressed()
            now = time.monotonic()
            try:
                put(f"{BEATS}/{me}", f"{beat} {_cluster.progress}")
                beats, gone = coordination.read(BEATS), coordination.read(LEFT)
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
    """Gives the other hosts time to exit: JAX aborts them once the primary host is gone."""
    if is_primary():
        time.sleep(seconds)


def as_late_host(error: Exception) -> LateHostError | None:
    """Returns the error as a `LateHostError` if another host caused it; otherwise None."""
    if isinstance(error, LateHostError):
        return error
    text = " ".join(str(error).split())
    # JAX has no error type for this: on CPUs, a broken collective raises ValueError.
    signs = ("gloo", "nccl", "unavailable", "deadline_exceeded", "barrier timed out")
    ours = isinstance(error, (UserError, MachineError)) or not several()
    if not ours and any(sign in text.lower() for sign in signs):
        return LateHostError(f"another host was lost ({text[:300]}); start all hosts again")
    return None


def end(code: int) -> int:
    """Tells the other hosts how this process ended, and waits for them; call it last.

    Returns `code`, unless other hosts are lost: JAX would wait for them, so the process then exits.
    """
    if not several():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if code == EXIT_LATE_HOST:
        _linger(5.0)
        os._exit(code)
    reasons = {0: DONE, EXIT_PREEMPTED: PREEMPTED}
    # A preempted host has nothing else to do, and other hosts may still be saving.
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

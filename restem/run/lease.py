"""The lease on a run's folder, so that one job at a time writes to it.

    DIR/lease.json      the job that holds the lease, and its heartbeat

The primary host of a job takes the lease for all of its hosts, renews it every few seconds, and
removes it at the end. A job that was killed leaves its lease behind. On the same machine, the
process id tells at once that the holder is dead; on another one, or in another container, the
heartbeat is watched for `SILENCE_S` seconds. Clocks of different hosts are never compared.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging
from etils import epath

from restem.errors import MachineError, UserError
from restem.run.layout import Workdir
from restem.runtime import distributed, machine_errors, storage

BEAT_S = 10.0
"""Seconds between two heartbeats."""

SILENCE_S = 90.0
"""Seconds without a heartbeat after which a holder on another machine counts as dead."""

SETTLE_S = 1.0
"""Seconds after which a job that took a lease in a bucket checks that no other job took it too."""

GONE_AFTER = 3
"""Number of heartbeats in a row that must miss the folder before it counts as deleted."""

EXIT_LOST = 2
"""Exit code of a job whose lease another job has taken over."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The job that holds a lease, as stored in `lease.json`."""

    token: str
    """Random id of this lease."""
    host: str
    """Name of the primary host."""
    pid: int
    """Process id on that host."""
    machine: str
    """Boot and process namespace within which `pid` has a meaning."""
    started: int | None
    """Start of the process in clock ticks after the boot, because process ids are reused; None
    where the system does not tell."""
    since: str
    """Time at which the lease was taken, for human readers."""
    beat: int = 0
    """Number of heartbeats so far."""

    @classmethod
    def this_process(cls) -> Holder:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _started(pid), now)

    @property
    def is_alive(self) -> bool | None:
        """Whether the process runs; None if that cannot be seen from this machine."""
        if self.machine != _machine():
            return None
        if self.started is not None:
            return _started(self.pid) == self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return None  # the process id may have been reused


def _machine() -> str:
    """Returns a name of this boot of this machine and of its process namespace."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> int | None:
    """Returns the start of a process in clock ticks after the boot; None if it does not run."""
    try:
        # The second field is the program's name in parentheses and may contain anything.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Lease:
    """A lease that this process holds."""

    def __init__(self, files: Workdir):
        """Takes the lease on a run's folder.

        Raises:
          UserError: another job holds the lease, or the folder cannot be written.
        """
        folder, self.path = files.path, files.lease
        self.holder = Holder.this_process()
        self._ended = threading.Event()
        self._writing = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder):
                found = _read(self.path)
                if found is not None and self._is_held_by(found):
                    raise _refusal(folder, found)
                self._write()
            if "://" in str(folder):
                # Buckets have no locks: of several jobs that start at once, the last one has it.
                time.sleep(SETTLE_S)
                found = _read(self.path)
                if found is not None and found.token != self.holder.token:
                    raise _refusal(folder, found)
        except UserError:
            raise
        except Exception as error:  # clients of buckets have errors of many types
            fault = machine_errors.explain(error, str(folder))
            if isinstance(fault, MachineError):
                raise fault from error
            text = getattr(error, "strerror", None) or " ".join(f"{error!r}".split())[:200]
            raise UserError(
                f"--workdir={folder}: this folder cannot be written ({text}); use another one"
            ) from error
        self._owner = os.getpid()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def release(self) -> None:
        """Removes the lease, if this process still holds it."""
        self._ended.set()
        if os.getpid() != self._owner:  # a fork of the process that took it
            return
        with self._writing, contextlib.suppress(Exception):  # as in `_renew`
            found = _read(self.path)
            if found is not None and found.token == self.holder.token:
                self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        record = json.dumps(dataclasses.asdict(self.holder), indent=1)
        storage.write_bytes(self.path, record.encode())

    def _is_held_by(self, found: Holder) -> bool:
        """Returns whether the job that took the lease still runs; watches it if need be."""
        alive = found.is_alive
        if alive is not None:
            return alive
        logging.warning(
            "%s: process %d on %s held this folder; waiting up to %g s for its heartbeat",
            self.path, found.pid, found.host, SILENCE_S,
        )  # fmt: skip
        deadline = time.monotonic() + SILENCE_S
        while time.monotonic() < deadline:
            time.sleep(min(1.0, SILENCE_S / 10))
            now = _read(self.path)
            if now is None:
                return False
            if now != found:
                return True
        return False

    def _renew(self) -> None:
        missing = 0
        while not self._ended.wait(BEAT_S):
            try:
                with self._writing:
                    if self._ended.is_set():
                        return
                    # A folder that was deleted is not made again; but a disk that fails for a
                    # moment looks the same.
                    missing = 0 if self.path.parent.exists() else missing + 1
                    if missing >= GONE_AFTER:
                        return
                    if missing:
                        continue
                    found = _read(self.path)
                    if found is not None and found.token != self.holder.token:
                        self._lose(found)
                    self.holder = dataclasses.replace(self.holder, beat=self.holder.beat + 1)
                    self._write()
            except Exception as error:  # clients of buckets have errors of many types
                logging.warning("%s: no heartbeat this time: %s", self.path, error)

    def _lose(self, found: Holder) -> None:
        """Ends this process, which was silent for so long that another job took its place."""
        print(
            f"restem: {_refusal(self.path.parent, found)}; it took over because this process was"
            f" silent for {SILENCE_S:g} s",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(EXIT_LOST)


def _refusal(folder: epath.Path, found: Holder) -> UserError:
    return UserError(
        f"{folder}: process {found.pid} on {found.host} has been working in this folder since"
        f" {found.since}; wait until it ends, or use another --workdir"
    )


def _read(path: epath.Path) -> Holder | None:
    """Returns the holder of a lease; None if there is no lease, or no readable one."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def _one_at_a_time(folder: epath.Path) -> Iterator[None]:
    """Lets the processes of this machine look at a lease and take it one after another."""
    if "://" in str(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


_held: dict[str, Lease | None] = {}
"""Leases of this job by folder; None on hosts other than the primary one."""


def hold(files: Workdir) -> None:
    """Takes the lease on a run's folder for this job, unless the job has it; all hosts call it.

    The lease ends with `release_all` or with the process.

    Raises:
      UserError: another job holds the lease, or the folder cannot be written.
    """
    folder = str(files.path)
    if folder in _held:
        return
    taken: list[Lease] = []
    distributed.run_on_primary("the lease", lambda: taken.append(Lease(files)))
    _held[folder] = taken[0] if taken else None


def release_all() -> None:
    """Ends all leases of this process."""
    while _held:
        lease = _held.popitem()[1]
        if lease is not None:
            lease.release()


atexit.register(release_all)

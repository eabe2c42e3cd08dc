"""The supervisor's side of jails: a worker's zygote, control group and folder."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence

from restem.verify.pool import bootstrap
from restem.verify.sandbox import scratch, zygote
from restem.verify.sandbox.jail import FORK_REFUSED
from restem.verify.sandbox.limits import Limits
from restem.verify.sandbox.linux import cgroups, users

_OURS = 8
"""Number of processes in a control group that are not the program's: zygote, inits, test code."""
_OURS_MB = 128
"""Memory of those processes in MiB."""
_ANSWER_S = 30.0
"""Seconds without an answer after which a zygote, and its supervisor with it, is given up."""
_FOLDER = "restem-jail-"


def _remove_stale_folders() -> None:
    """Removes the folders of killed supervisors, which no process locks any more."""
    with os.scandir(tempfile.gettempdir()) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_FOLDER)]
    for path in found:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                # A folder that another supervisor has just created is not locked yet.
                if os.fstat(fd).st_uid == os.geteuid() and time.time() - os.fstat(fd).st_ctime > 60:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


class Worker:
    """A zygote, the control group of its programs, and its folder."""

    def __init__(
        self,
        *,
        slot: int,
        limits: Limits,
        without: Sequence[str] = (),
        packages: Sequence[str] = (),
        guest: str = "",
    ):
        """Starts a zygote and waits until it has entered its layers.

        Args:
          slot: number of the worker, which decides its users and its control group.
          limits: of each program.
          without: layers to leave out, as if the machine refused them.
          packages: folders of installed packages that programs can import.
          guest: module whose `BODIES` are added to the orders that a jail accepts.

          Raises:
          EOFError: if the zygote ended.
        """
        self.limits = limits
        self.slot = slot
        _remove_stale_folders()
        self.folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
        os.chmod(self.folder, 0o711)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.cgroup: cgroups.Cgroup | None = None
        if "cgroup" not in without:
            self.cgroup = cgroups.Cgroup(
                name=str(slot),
                memory_bytes=(limits.memory_mb + limits.scratch_mb + _OURS_MB) << 20,
                processes=limits.processes + _OURS,
            )
        config = zygote.Config(
            slot=slot,
            folder=self.folder,
            without=tuple(without),
            memory_mb=limits.memory_mb,
            processes=limits.processes,
            file_mb=limits.file_mb,
            scratch_mb=limits.scratch_mb,
            package_folders=tuple(packages),
            guest=guest,
        )
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            bootstrap.command(
                "sandbox.zygote", json.dumps(dataclasses.asdict(config)), str(theirs.fileno())
            ),
            env=bootstrap.CLEAN_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self._control.settimeout(_ANSWER_S)
        if self.cgroup:
            self.cgroup.add(self._process.pid)
        self._exits: dict[int, dict] = {}
        self._next_jail = 0
        # The zygote waits for this, so that all its children start in the group: moving a process
        # later would make every program wait for the whole kernel.
        self._control.send(b"go")
        self.layers: dict[str, str] = self._receive()["layers"]

    @property
    def pid(self) -> int:
        """Process that is the ancestor of all of this worker's programs."""
        return self._process.pid

    def _receive(self) -> dict:
        data = self._control.recv(1 << 16)
        if not data:
            raise EOFError(f"the zygote ended with status {self._process.wait()}")
        return json.loads(data)

    def fork(self, *, untrusted: bool) -> Jail:
        """Returns a fresh jail; `untrusted` is False for one that runs test code."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._next_jail += 1
        order = {"do": "fork", "jail": self._next_jail, "untrusted": untrusted}
        with theirs:
            socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno()])
        return Jail(self, self._next_jail, ours)

    def kill(self, jail: int) -> dict:
        """Kills a jail with all its processes; returns once they are gone.

        Raises:
          ChildProcessError: if the machine refused the jail a process, so that this worker's
            verdict on the program would be worth nothing.
        """
        if jail not in self._exits:
            self._control.send(json.dumps({"do": "kill", "jail": jail}).encode())
        while jail not in self._exits:
            notice = self._receive()
            self._exits[notice["exit"]] = notice
        notice = self._exits.pop(jail)
        if "error" in notice or os.waitstatus_to_exitcode(notice["status"]) == FORK_REFUSED:
            raise ChildProcessError(f"no process for a program ({notice.get('error', 'no fork')})")
        return notice

    def give(self, fd: int) -> None:
        """Gives a pipe to the user that programs run as, so that /dev/stdout opens."""
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.fchown(fd, users.outer(self.slot), -1)

    def scratch_is_full(self) -> bool:
        """Returns whether programs wrote too much to a scratch folder that the kernel leaves free.

        With a root of its own, each jail has a file system of limited size for its folder.
        """
        if self.layers.get("read_only_root") == "":
            return False
        folder = zygote.shared_scratch(self.folder)
        return scratch.is_full(folder, self.limits.scratch_mb << 20)

    def out_of_memory_kills(self) -> int:
        return self.cgroup.out_of_memory_kills() if self.cgroup else 0

    def close(self) -> None:
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self.cgroup:
            self.cgroup.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


class Jail:
    """The supervisor's end of one jail."""

    def __init__(self, worker: Worker, number: int, control: socket.socket):
        self.worker = worker
        self.number = number
        self.control = control

    def order(self, order: dict, fds: list[int]) -> None:
        with contextlib.suppress(OSError):  # the replies of a dead jail end
            socket.send_fds(self.control, [json.dumps(order).encode()], fds)

    def reply(self) -> dict | None:
        """Returns the next report of the jail; None if the jail is dead."""
        try:
            data = self.control.recv(1 << 16)
            report = json.loads(data) if data else None
        except (OSError, ValueError):
            return None
        return report if isinstance(report, dict) else None

    def close(self) -> dict:
        notice = self.worker.kill(self.number)
        self.control.close()
        return notice

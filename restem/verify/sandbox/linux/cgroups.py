"""Control groups: one bound on memory and processes for everything that a jail starts.

Version 1 (memory and pids hierarchies) and version 2 are supported. A limit counts only once it
has been read back, because a folder left over from another run can refuse it silently.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

_PREFIX = "restem-"


def hierarchies() -> Iterator[tuple[str, str]]:
    """Yields (controller, folder) of this process: "memory" and "pids" (version 1) or "v2"."""
    mounts: dict[str, str] = {}
    with open("/proc/self/mounts") as lines:
        for line in lines:
            _, where, kind, options = line.split()[:4]
            if kind == "cgroup2":
                mounts.setdefault("v2", where)
            elif kind == "cgroup":
                for option in options.split(","):
                    mounts.setdefault(option, where)
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in ["v2"] if number == "0" else controllers.split(","):
                if controller in ("memory", "pids", "v2") and controller in mounts:
                    inside = mounts[controller] + path
                    # In a cgroup namespace the path may not exist below the mount.
                    yield controller, inside if os.path.isdir(inside) else mounts[controller]


def _write(folder: str, name: str, value: str) -> None:
    with open(os.path.join(folder, name), "w") as file:
        file.write(value)


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name)) as file:
        return file.read()


class Cgroup:
    """The control groups of one worker's programs, emptied between programs and reused."""

    def __init__(self, *, name: str, memory_bytes: int, processes: int):
        self.memory = False
        self.processes = False
        self.problems: list[str] = []
        self._folders: dict[str, str] = {}
        try:
            found = list(hierarchies())
        except OSError as error:
            found = []
            self.problems.append(str(error))
        if not found:
            self.problems.append("no cgroup hierarchy is mounted")
        for controller, parent in found:
            folder = os.path.join(parent, f"{_PREFIX}{os.getpid()}-{name}")
            try:
                _remove_stale(parent)
                os.mkdir(folder)
                self._folders[controller] = folder
                self._limit(controller, folder, memory_bytes, processes)
            except OSError as error:
                self.problems.append(f"{controller}: {error}")
        kept = {}
        for controller, folder in self._folders.items():
            if controller in ("memory", "pids") or self.memory or self.processes:
                kept[controller] = folder
            else:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        self._folders = kept

    def _limit(self, controller: str, folder: str, memory_bytes: int, processes: int) -> None:
        if controller == "memory":
            _write(folder, "memory.limit_in_bytes", str(memory_bytes))
            with contextlib.suppress(OSError):
                _write(folder, "memory.memsw.limit_in_bytes", str(memory_bytes))
            self.memory = int(_read(folder, "memory.limit_in_bytes")) <= memory_bytes
        elif controller == "pids":
            _write(folder, "pids.max", str(processes))
            self.processes = _read(folder, "pids.max").strip() == str(processes)
        else:
            available = _read(folder, "cgroup.controllers").split()
            if "memory" in available and not self.memory:
                _write(folder, "memory.max", str(memory_bytes))
                with contextlib.suppress(OSError):
                    _write(folder, "memory.swap.max", "0")
                self.memory = int(_read(folder, "memory.max")) <= memory_bytes
            if "pids" in available and not self.processes:
                _write(folder, "pids.max", str(processes))
                self.processes = _read(folder, "pids.max").strip() == str(processes)

    def add(self, pid: int) -> None:
        """Moves a process into the group, in which its children start too."""
        for controller, folder in list(self._folders.items()):
            try:
                _write(folder, "cgroup.procs", str(pid))
            except OSError as error:
                self.problems.append(f"{controller}: {error}")
                self.memory = self.memory and controller == "pids"
                self.processes = self.processes and controller == "memory"

    def out_of_memory_kills(self) -> int:
        """Returns how often the kernel killed a process of this group for lack of memory."""
        for controller, name in (("memory", "memory.oom_control"), ("v2", "memory.events")):
            if controller in self._folders and self.memory:
                with contextlib.suppress(OSError):
                    for line in _read(self._folders[controller], name).splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def close(self) -> None:
        for folder in self._folders.values():
            for _ in range(50):
                try:
                    os.rmdir(folder)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the kernel counts a dying process for a moment longer
        self._folders = {}


def _remove_stale(parent: str) -> None:
    """Removes the empty groups of supervisors that were killed before they could do so."""
    for entry in os.listdir(parent):
        if entry.startswith(_PREFIX):
            owner = entry[len(_PREFIX) :].split("-")[0]
            if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(parent, entry))

"""The processes below a given one, as /proc lists them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import Container, Sequence


def parents() -> dict[int, int]:
    """Returns the parent of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    found[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    return found


def kill_children(processes: int, *, but: Container[int] = ()) -> None:
    """Kills and reaps the children of this process, a subreaper, and what they leave to it.

    Args:
      processes: descriptor of /proc, of which a root of its own shows nothing.
      but: children to keep.
    """
    opener = functools.partial(os.open, dir_fd=processes)
    while True:
        found = []
        for entry in os.listdir(processes):
            if entry.isdigit() and int(entry) not in but:
                with contextlib.suppress(OSError), open(f"{entry}/stat", opener=opener) as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                        found.append(int(entry))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def below_children(root: int) -> list[int]:
    """Returns all processes below the children of `root`, a zygote's stage 0: its programs."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = list(children.get(root, []))
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def wait_for_others_s(root: int, cpu_before_s: float) -> float:
    """Returns for how many seconds the programs were kept from running by other programs.

    This is the time for which a process was ready without a core, minus the CPU time that the rest
    of its tree used, because a program that waits for its own children delays only itself. All
    processes of a program therefore share one budget of CPU time. The longest such time counts.

    Args:
      root: stage 0 of a zygote.
      cpu_before_s: CPU time of children that ended before the program began.
    """
    uses = [use for pid in below_children(root) if (use := _use(pid)) is not None]
    return foreign_wait_s(uses, cpu_before_s)


@dataclasses.dataclass(frozen=True)
class Use:
    """One process's use of the machine's cores, in seconds."""

    cpu_s: float
    """CPU time of the process itself."""
    children_s: float
    """CPU time of its children that have ended."""
    waited_s: float
    """Time for which it was ready and had no core."""


def foreign_wait_s(uses: Sequence[Use], cpu_before_s: float) -> float:
    """Returns `wait_for_others_s` of the processes of one tree."""
    total = sum(use.cpu_s + use.children_s for use in uses) - cpu_before_s
    return max([0.0, *(use.waited_s - (total - use.cpu_s) for use in uses)])


def _use(pid: int) -> Use | None:
    tick = os.sysconf("SC_CLK_TCK")
    try:
        with open(f"/proc/{pid}/stat") as file:
            times = [int(field) / tick for field in file.read().rpartition(")")[2].split()[11:15]]
        with open(f"/proc/{pid}/schedstat") as file:
            waited = int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None  # it ended meanwhile
    return Use(times[0] + times[1], times[2] + times[3], waited)


def memory_bytes(root: int) -> int:
    """Returns the resident bytes of all programs below `root` that no file backs.

    Memory that several processes share counts for each of them.
    """
    return sum(map(resident_bytes, below_children(root)))


def resident_bytes(pid: int) -> int:
    """Returns the resident bytes of one process that no file backs; 0 if it ended."""
    sizes = {}
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                name, _, size = line.partition(":")
                if name in ("VmRSS", "RssAnon", "RssShmem"):
                    sizes[name] = int(size.split()[0]) << 10
    except (OSError, ValueError):
        return 0
    if "RssShmem" in sizes:
        return sizes["RssAnon"] + sizes["RssShmem"]
    return sizes.get("VmRSS", 0)  # a kernel that does not tell the kinds of memory apart

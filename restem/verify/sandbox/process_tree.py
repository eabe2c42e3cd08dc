"""What /proc tells about the processes below one."""

from __future__ import annotations

import os


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


def below_children(root: int) -> list[int]:
    """Returns all processes below the children of `root`, the stage 0 of a zygote: its programs."""
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

    The time that a process was ready without a core, less the CPU time that the rest of its tree
    used: a program that waits for its own children is kept from running by nobody but itself. So
    all its processes together have one budget of CPU time. The longest such time counts.

    Args:
      root: stage 0 of a zygote.
      cpu_before_s: CPU time of children that ended before the program began.
    """
    tick = os.sysconf("SC_CLK_TCK")
    total, alone = -cpu_before_s, []
    for pid in below_children(root):
        try:
            with open(f"/proc/{pid}/stat") as file:
                user, system, *of_children = file.read().rpartition(")")[2].split()[11:15]
            with open(f"/proc/{pid}/schedstat") as file:
                waited = int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
        own = (int(user) + int(system)) / tick
        total += own + sum(map(int, of_children)) / tick
        alone.append(waited + own)
    return max(0.0, max(alone, default=0.0) - total)


def private_bytes(root: int) -> int:
    """Returns the programs' resident bytes that neither files nor shared memory back."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid in below_children(root):
        try:
            with open(f"/proc/{pid}/statm") as file:
                _, resident, shared, *_ = map(int, file.read().split())
            total += (resident - shared) * page
        except (OSError, ValueError):
            continue
    return total

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


def longest_wait_s(root: int) -> float:
    """Returns the longest time in seconds that one of the processes was ready without a core."""
    longest = 0
    for pid in below_children(root):
        try:
            with open(f"/proc/{pid}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
        except (OSError, ValueError, IndexError):
            continue
    return longest / 1e9


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

"""Memory of this machine and process."""

from __future__ import annotations

import ctypes
import os
import pathlib

_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files of the limit of a container, in versions 2 and 1 of Linux's control groups."""


def total(root: str = "/sys/fs/cgroup") -> int:
    """Returns the bytes of memory of this machine, or the limit of the container in it.

    Args:
      root: folder of the control groups; a container sees its own there.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _LIMITS:
        try:
            found.append(int((pathlib.Path(root) / name).read_text()))
        except (OSError, ValueError):  # ValueError: "max", which is no limit
            continue
    return min(found)


def give_back() -> None:
    """Gives memory that was freed back to the system.

    glibc keeps freed pieces for later, and the next step may need their memory in one piece. Where
    the C library has no such call, nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

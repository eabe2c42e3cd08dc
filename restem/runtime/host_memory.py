"""Memory of this machine and process."""

from __future__ import annotations

import ctypes
import glob
import os
import pathlib

_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files of the limit of a container, in versions 2 and 1 of Linux's control groups."""

_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
"""Devices of GPUs and TPUs."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt(3)."""
_ENOUGH = 15 * 2**30
"""Bytes of memory from which on freed memory is kept: a machine said to have 16 GB."""


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


def keep_freed() -> None:
    """Keeps memory that is freed for later use, where the CPU is the device and has enough of it.

    XLA allocates the temporaries of a CPU program anew in each call. By default, glibc returns
    large pieces to the system when they are freed, and the system clears them, page by page, when
    they are used again: up to 30% of a training step's time (benchmarks/training.md). One heap
    for all threads, because those of the other threads are given back even without the first two
    settings. The price is memory: pieces in between stay unused, so small machines go without.

    Call this before libraries start threads, which get heaps of their own. An accelerator's host
    has many threads and no such programs, so nothing happens there.
    """
    platforms = os.environ.get("JAX_PLATFORMS")
    on_cpu = platforms == "cpu" or not (platforms or any(map(glob.glob, _ACCELERATORS)))
    if not on_cpu or total() < _ENOUGH:
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1)):
            set_option(option, value)


def give_back() -> None:
    """Gives memory that was freed back to the system.

    glibc keeps freed pieces for later (`keep_freed`), and the next step may need their memory in
    one piece. Where the C library has no such call, nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

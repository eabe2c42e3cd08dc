"""The memory of the processes that hold tests and expected values."""

from __future__ import annotations

import contextlib
import sys


def hide_memory() -> None:
    """Keeps other processes of this user from reading this one's memory and descriptors.

    The kernel then refuses them `ptrace`, /proc/PID/mem and /proc/PID/fd, unless they hold
    CAP_SYS_PTRACE, as root does. Debuggers and profilers of the same user are refused too, and no
    core is dumped. Programs that this process starts by exec are not affected.
    """
    if sys.platform == "linux":
        from restem.verify.sandbox.linux import syscalls

        with contextlib.suppress(OSError):
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)

"""Bounds of one program's run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one program, in seconds, MiB and counts."""

    time_limit_s: float = 4.0
    """Seconds for each test, not counting time in which other programs keep the cores busy."""
    program_limit_s: float = 60.0
    """Seconds for all tests of a program together."""
    memory_mb: int = 1024
    """Address space of each process, and memory of the whole process tree, in MiB."""
    processes: int = 32
    """Number of processes and threads."""
    output_mb: int = 8
    """Size of the standard output, or the standard error, of one test in MiB."""
    file_mb: int = 16
    """Size of one file in MiB."""
    scratch_mb: int = 64
    """Size in MiB of the program's private writable folder, which is empty when it starts."""

"""Bounds of one program's run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one program, in seconds, MiB and counts."""

    time_limit_s: float = 4.0
    """Seconds for each test, less those in which other programs keep the cores busy."""
    program_limit_s: float = 60.0
    """Seconds for all tests of a program together."""
    memory_mb: int = 1024
    """Address space of each process, and memory of the whole tree."""
    processes: int = 32
    """Processes and threads."""
    output_mb: int = 8
    """Standard output, or standard error, of one test."""
    file_mb: int = 16
    """Size of one file."""
    scratch_mb: int = 64
    """The private folder that a program may write to, which vanishes after it."""

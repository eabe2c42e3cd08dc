"""Memory of this process."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives memory that was freed back to the system.

    glibc keeps pieces of freed memory for later: after sampling and between steps of training some
    gigabytes, which the next step may need in one piece. Other C libraries need no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Memory of this process."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives memory that was freed back to the system.

    glibc keeps freed pieces for later, and the next step may need their memory in one piece. Where
    the C library has no such call, nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

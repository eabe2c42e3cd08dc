"""Limits of the kernel on this process, within those that the machine sets."""

from __future__ import annotations

import resource


def bound(kind: int, soft: int, hard: int = resource.RLIM_INFINITY) -> None:
    """Sets a limit of this process, lowered to the hard limit that it was started with.

    Only root may raise a hard limit, and `ulimit`, batch systems and containers set some.
    """
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft = min(soft, most) if soft != resource.RLIM_INFINITY else most
        hard = min(hard, most) if hard != resource.RLIM_INFINITY else most
    resource.setrlimit(kind, (soft, hard))

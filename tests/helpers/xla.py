"""Flags of XLA for tests."""

import importlib.metadata


def flags(*more: str) -> str:
    """Returns XLA_FLAGS with which programs compile in a third of the time, and `more`.

    XLA aborts the process on a flag that it does not know, and later versions do not know this one.
    """
    version = importlib.metadata.version("jaxlib")
    quick = ("--xla_cpu_use_fusion_emitters=false",) if version.startswith("0.10.") else ()
    return " ".join((*quick, *more))

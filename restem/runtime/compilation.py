"""The cache of compiled programs, which outlives a process, and what is compiled in spite of it."""

from __future__ import annotations

import os
from collections import Counter

import jax
from absl import logging

_REQUESTS = "/jax/compilation_cache/compile_requests_use_cache"
_HITS = "/jax/compilation_cache/cache_hits"

_events: Counter[str] = Counter()


def use_cache(folder: str) -> None:
    """Keeps all compiled programs in `folder`, which may be in a bucket; the first host writes.

    Where the environment's JAX_COMPILATION_CACHE_DIR names another, several runs may share it.
    """
    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder
    )
    # Small programs too: a restarted run is to compile nothing again.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # XLA's own caches put the folder, and whether a host writes it, into the key of a program: the
    # other hosts, and a folder that was moved, would find nothing.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if not _events:
        _events[_REQUESTS] = _events[_HITS] = 0
        jax.monitoring.register_event_listener(_count)


def _count(event: str, **_: object) -> None:
    if event in _events:
        _events[event] += 1


def log_counts() -> None:
    """Says how many programs this process compiled, and how many it found in the cache."""
    if requests := _events[_REQUESTS]:
        hits = _events[_HITS]
        logging.info("%d programs compiled, %d taken from the cache", requests - hits, hits)

"""The persistent cache of compiled programs, and its counts of hits and misses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
from collections import Counter

import jax
import jaxlib
from absl import logging

from restem.runtime.cache import cache_folder
from restem.runtime.coordination import several

_REQUESTS = "/jax/compilation_cache/compile_requests_use_cache"
_HITS = "/jax/compilation_cache/cache_hits"

_events: Counter[str] = Counter()


def folder_for(own: str) -> str:
    """Returns the folder for compiled programs: one per machine, shared by all runs.

    A run with another seed, task or workdir then compiles nothing. Programs for other versions or
    processors are kept apart: a program that uses instructions the processor lacks would crash.

    Args:
      own: folder of the run, used by jobs of several hosts and by runs in a bucket: their hosts may
        share no other folder, and they may restart on other machines.
    """
    if several() or "://" in own:
        return own
    with contextlib.suppress(OSError):
        flags = re.search(r"^(flags|Features).*", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        processor = hashlib.sha256(flags[0].encode() if flags else b"").hexdigest()[:12]
        versions = f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}"
        return str(cache_folder() / "compiled" / f"{versions}-{processor}")
    return own


def use_cache(folder: str) -> None:
    """Stores all compiled programs in `folder`, possibly in a bucket; only the primary host writes.

    JAX_COMPILATION_CACHE_DIR in the environment names another folder, which runs may share.
    """
    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder
    )
    # Store small programs too, so that a restarted run recompiles nothing.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # XLA's own caches put the folder, and whether this host writes to it, into the key of a
    # program, so other hosts would find nothing, and neither would a run whose folder was moved.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if not _events:
        _events[_REQUESTS] = _events[_HITS] = 0
        jax.monitoring.register_event_listener(_count)


def _count(event: str, **_: object) -> None:
    if event in _events:
        _events[event] += 1


def log_counts() -> None:
    """Logs how many programs this process compiled, and how many it found in the cache."""
    if requests := _events[_REQUESTS]:
        hits = _events[_HITS]
        logging.info("%d programs compiled, %d taken from the cache", requests - hits, hits)

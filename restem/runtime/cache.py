"""The folder for files that are created once per machine, such as prepared data sets."""

from __future__ import annotations

import os
import pathlib
import tempfile


def cache_folder(named: str | None = None) -> pathlib.Path:
    """Returns `named`, $RESTEM_CACHE_DIR, the user's cache folder or a temporary one, in this
    order.

    The folder is created if needed, and is writable.

    Raises:
      OSError: a folder was named, by the argument or the environment, and cannot be written.
    """
    named = named or os.environ.get("RESTEM_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = pathlib.Path(named or os.path.join(home, "restem")).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError:
        if named:
            raise
    cache = pathlib.Path(tempfile.gettempdir(), f"restem-cache-{os.getuid()}")
    cache.mkdir(mode=0o700, exist_ok=True)
    return cache

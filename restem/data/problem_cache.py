"""Materialised problems on disk: a run whose task was read before on this machine reads no source.

    CACHE/problems/KEY.parquet

CACHE is `runtime.cache.cache_folder`. KEY is a hash of all that the problems of a built-in task
depend on: the request, the bindings of gin, the code that reads tasks, and the names, sizes and
times of the files in the data folder. Other tasks may read anything and are not cached.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gin

import restem
from restem.data import folder, registry
from restem.errors import UserError
from restem.runtime.cache import cache_folder

_MOST_FILES = 10_000
"""Files of a data folder beyond which listing them may take longer than reading the task."""


def path_of(request: Mapping[str, Any]) -> pathlib.Path | None:
    """Returns the file for the problems of a request, which may not exist; None: not cached.

    Args:
      request: arguments of `sources.materialize`.
    """
    try:
        source = registry.get(request["task"]).source
        source = getattr(source, "func", source)  # of a functools.partial, as BBH's are
        module = sys.modules[getattr(source, "__module__", "")]
        cache = cache_folder()
    except (UserError, KeyError, OSError):
        return None
    if not module.__name__.startswith("restem.tasks.") or not module.__file__:
        return None
    data_dir = folder.data_dir(request.get("data_dir"))
    if data_dir is not None and not os.path.isdir(data_dir):
        return None  # in a bucket, or missing, which is an error of the source
    digest = hashlib.sha256(json.dumps([dict(request), data_dir], sort_keys=True).encode())
    digest.update(gin.config_str().encode())
    for package in ("restem", "seqio", "tensorflow"):
        digest.update(_version(package).encode())
    for code in (pathlib.Path(__file__).parent, pathlib.Path(module.__file__).parent):
        for file in sorted(code.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.read_bytes())
    try:
        for number, line in enumerate(_listing(data_dir)):
            if number == _MOST_FILES:
                return None
            digest.update(line.encode())
    except OSError:  # a link to nothing, or a file that has just been removed
        return None
    return cache / "problems" / f"{digest.hexdigest()[:32]}.parquet"


def _version(package: str) -> str:
    if package == "restem":
        return restem.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _listing(data_dir: str | None) -> Iterator[str]:
    """Yields a line for each file of a folder, also behind links, in a fixed order."""
    seen = set()
    for root, folders, names in os.walk(data_dir or "", followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            found = os.stat(os.path.join(root, name))
            yield f"{root}/{name} {found.st_size} {found.st_mtime_ns}\n"

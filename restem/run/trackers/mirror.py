"""Growing files in a folder that may be in a bucket, where files cannot be appended to."""

from __future__ import annotations

import pathlib
import tempfile
import time

from etils import epath

from restem.runtime import storage

INTERVAL_S = 30.0
"""Seconds between copies to a bucket."""


class Mirror:
    """A local folder whose files are copied to a bucket; for a local run, the run's own folder."""

    def __init__(self, folder: epath.Path):
        self._target = folder if "://" in str(folder) else None
        self._temporary: tempfile.TemporaryDirectory | None = None
        if self._target is None:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = pathlib.Path(folder)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="restem_tracker")
            self.path = pathlib.Path(self._temporary.name)
        self._copied = time.monotonic()

    def fetch(self, name: str) -> pathlib.Path:
        """Returns the local path of a file, downloaded from the bucket if it exists there."""
        path = self.path / name
        if self._target is not None and (self._target / name).exists():
            path.write_bytes((self._target / name).read_bytes())
        path.touch()
        return path

    def update(self) -> None:
        """Copies the files to the bucket, if the last copy is old."""
        if self._target is not None and time.monotonic() - self._copied > INTERVAL_S:
            self._copy()

    def close(self) -> None:
        """Copies the files to the bucket."""
        if self._temporary is not None:
            self._copy()
            self._temporary.cleanup()

    def _copy(self) -> None:
        assert self._target is not None  # a local folder has no copy
        for path in self.path.rglob("*"):
            if path.is_file():
                name = path.relative_to(self.path).as_posix()
                storage.write_bytes(self._target / name, path.read_bytes())
        self._copied = time.monotonic()

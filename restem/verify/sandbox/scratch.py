"""The scratch folder of programs: removal of what they left there, and a bound on its size."""

from __future__ import annotations

import contextlib
import os

MOST_ENTRIES = 4096
"""Maximum number of files and folders in a scratch folder."""


def empty(folder: str) -> None:
    """Removes everything in a folder, which becomes the working directory.

    A program may have nested folders deeper than a path can be long, and taken away its own right
    to enter them. None of its processes may be alive.
    """
    os.chmod(folder, 0o700)
    os.chdir(folder)
    below: list[str] = []
    while True:
        inner = _remove_files()
        if inner is not None:
            os.chmod(inner, 0o700)
            os.chdir(inner)
            below.append(inner)
        elif below:
            os.chdir("..")
            os.rmdir(below.pop())
        else:
            return


def _remove_files() -> str | None:
    """Removes files of the working directory up to the first folder; returns that folder's name."""
    with os.scandir(".") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name)
    return None


def is_full(folder: str, most_bytes: int) -> bool:
    """Returns whether a folder holds too much, or something that cannot be looked at.

    Programs may change the folder meanwhile.
    """
    used = entries = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    with contextlib.suppress(FileNotFoundError):
                        used += 512 * entry.stat(follow_symlinks=False).st_blocks
                    entries += 1
                    if used > most_bytes or entries > MOST_ENTRIES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False

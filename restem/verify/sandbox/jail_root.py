"""The file system of a jail: Python's files, read-only, and nothing else."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Sequence

from restem.verify.sandbox.linux import syscalls

SCRATCH = "/scratch/tmp"
"""Where each jail mounts its private folder; /tmp links to it."""
_NEVER = frozenset({"/", "/tmp", "/home", "/usr", "/root", "/var", "/etc"})


def readable(package_folders: Sequence[str]) -> list[str]:
    """Returns the folders of Python's library, installed packages and loaded shared libraries."""
    paths = sysconfig.get_paths()
    wanted = [paths["stdlib"], paths["platstdlib"], "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    wanted += [*package_folders, "/lib64"]
    with open("/proc/self/maps") as lines:
        for line in lines:
            name = line.rstrip("\n").partition("/")[2]
            if ".so" in name:
                wanted.append(os.path.dirname("/" + name))
    kept: list[str] = []
    for path in sorted({os.path.realpath(path) for path in wanted if os.path.exists(path)}):
        covered = any(path == above or path.startswith(above + "/") for above in kept)
        if not covered and path not in _NEVER and path != os.path.expanduser("~"):
            kept.append(path)
    return kept


def build(new: str, shown: Sequence[str], *, with_proc: bool) -> None:
    """Turns the empty folder `new` into the root of this mount namespace.

    Paths in `shown` remain visible, read-only. The root also has /dev with five devices, /proc if
    `with_proc`, and an empty folder for scratch folders.
    """
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("root", new, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=1m,mode=755")
    for path in shown:
        target = new + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
        syscalls.bind_read_only(path, target)
    for link in ("/lib", "/lib64", "/usr/lib64"):
        if os.path.islink(link) and not os.path.lexists(new + link):
            os.symlink(os.readlink(link), new + link)
    for folder in ("/dev", "/proc", "/scratch", SCRATCH, "/old"):
        os.mkdir(new + folder)
    if not os.path.lexists(new + "/tmp"):  # it exists if restem itself is below /tmp
        os.symlink(SCRATCH[1:], new + "/tmp")
    for device in ("null", "zero", "full", "random", "urandom"):
        open(f"{new}/dev/{device}", "x").close()
        syscalls.mount(f"/dev/{device}", f"{new}/dev/{device}", None, syscalls.MS_BIND)
    for name, target in (
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("fd", "/proc/self/fd"),
        ("shm", SCRATCH),
    ):
        os.symlink(target, f"{new}/dev/{name}")
    if with_proc:
        # Also needed so that a jail may mount its own, for which the kernel requires a visible one.
        hardened = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        with contextlib.suppress(OSError):
            syscalls.mount("proc", f"{new}/proc", "proc", hardened)
    os.chdir(new)
    syscalls.pivot_root(new, f"{new}/old")
    os.chdir("/")
    syscalls.unmount("/old")
    os.rmdir("/old")
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
    syscalls.mount("none", "/", None, flags | syscalls.MS_NOSUID | syscalls.MS_NODEV)

"""Separate users for programs, and the user namespace that holds them."""

from __future__ import annotations

import os

from restem.verify.sandbox.linux import syscalls

INNER = 1000
"""User id of programs in the user namespace of root's zygote; the next id is that of test code."""


def outer(slot: int) -> int:
    """Returns the unprivileged user of a worker's programs as seen from outside, under root."""
    return 61184 + 2 * (slot % 2000)


def enter(outer_user: int) -> None:
    """Moves this process into a user namespace of its own.

    Root maps itself and two otherwise unused users; any other user can map only itself.

    Raises:
      OSError: if the kernel refuses.
    """
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        return
    # A map of several users can only be written from outside: by a child that stays there. It is
    # tried on a second child first, because there is no way back for this process.
    _try(outer_user)
    reader, writer = os.pipe()
    target = os.getpid()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(1 if _map(target, outer_user) else 0)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(writer, b"g")
    _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    if status:
        raise OSError("the user map could not be written")


def _try(outer_user: int) -> None:
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(ready[1], b"u")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    unshared = os.read(ready[0], 1)
    problem = _map(child, outer_user) if unshared else "unshare is not permitted"
    os.write(go[1], b"g")
    os.waitpid(child, 0)
    for fd in (ready[0], *go):
        os.close(fd)
    if problem:
        raise OSError(problem)


def _map(pid: int, outer_user: int) -> str:
    """Maps root to root, and two unprivileged users; returns an error message, or ""."""
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"0 0 1\n{INNER} {outer_user} 2\n")
    except OSError as error:
        return str(error)
    return ""

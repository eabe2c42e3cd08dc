"""Landlock, by which an unprivileged process gives up files, TCP, and signals outside its domain.

Source: the kernel's `Documentation/userspace-api/landlock.rst`. ABI 1 restricts files, 4 TCP,
6 signals and abstract sockets; rights that the running kernel does not know are left out.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from restem.verify.sandbox.linux import syscalls

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15


def abi() -> int:
    """Returns the kernel's Landlock version; 0 if it has none."""
    try:
        return syscalls.syscall(_CREATE, 0, 0, 1)
    except OSError:
        return 0


def _file_rights(version: int) -> int:
    return (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1


def ruleset(*, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> int:
    """Returns a descriptor of rules that allow reading `readable`, everything but execution of
    `writable`, reading and writing of `devices`, and nothing else."""
    version = abi()
    rights = _file_rights(version)
    words = [rights]
    if version >= 4:
        words.append(3)  # bind and connect of TCP
    if version >= 6:
        words.append(3)  # abstract sockets and signals
    attributes = ctypes.create_string_buffer(struct.pack(f"{len(words)}Q", *words))
    rules = syscalls.syscall(_CREATE, attributes, 8 * len(words), 0)
    for paths, allowed in (
        (readable, _READ_FILE | _READ_DIR),
        (writable, rights & ~(_EXECUTE | _IOCTL_DEV)),
        (devices, _READ_FILE | _WRITE_FILE),
    ):
        for path in paths:
            _add(rules, path, allowed)
    return rules


def restrict(rules: int) -> None:
    """Enforces the rules on this process and its descendants; needs no_new_privs."""
    syscalls.syscall(_RESTRICT, rules, 0)


def _add(ruleset: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, fd))
        syscalls.syscall(_ADD_RULE, ruleset, 1, rule, 0)
    finally:
        os.close(fd)

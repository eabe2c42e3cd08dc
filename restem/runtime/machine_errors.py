"""Errors of the operating system as one line with the path, the fault and the remedy.

Libraries wrap such errors in their own (Orbax raises a thousand lines for a full disk), so the
whole chain of causes is searched, and messages of TensorStore and XLA are recognised by their
text.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping

from restem.errors import MachineError, UserError

_FULL = "free some space; the same command then continues"
_DEVICE = "check the disk or the mount; the same command then continues"
_PATH = "name a path that can be used"
_WRITABLE = "name a folder that can be written, or change its permissions"

MACHINE: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is larger than the file system or `ulimit -f` allows", _FULL),
    errno.EIO: ("the disk cannot be read or written", _DEVICE),
    errno.ENXIO: ("the disk is gone", _DEVICE),
    errno.ENODEV: ("the disk is gone", _DEVICE),
    errno.ESTALE: ("the network file system has lost the file", _DEVICE),
    errno.EREMOTEIO: ("the network file system cannot be read or written", _DEVICE),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n) and run it again"),
    errno.ENFILE: ("too many open files", "raise the system's limit and run it again"),
    errno.ENOMEM: ("out of memory", "free memory, or use a smaller model; then run it again"),
}
"""Faults of the machine, by errno, with their remedies."""

USER: Mapping[int, tuple[str, str]] = {
    errno.EROFS: ("the file system is read-only", _WRITABLE),
    errno.EACCES: ("permission denied", _WRITABLE),
    errno.EPERM: ("not permitted", _WRITABLE),
    errno.ENOENT: ("no such file or folder", _PATH),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", _PATH),
    errno.EISDIR: ("this is a folder, not a file", _PATH),
    errno.EEXIST: ("this exists already", _PATH),
    errno.ENOTEMPTY: ("this folder is not empty", _PATH),
    errno.ELOOP: ("too many symbolic links", _PATH),
    errno.ENAMETOOLONG: ("the name is too long", _PATH),
    errno.EINVAL: ("the file system does not allow this", _PATH),
}
"""Faults of paths that the user has named, by errno, with their remedies."""

_NUMBER = re.compile(r"\[(?:OS error|Errno) (\d+)")
_STATUS = re.compile(r"(No space left on device|Disk quota exceeded|Read-only file system)", re.I)
_BY_TEXT = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
}
_QUOTED_PATH = re.compile(r"""["'](/[^"']+)["']""")
_DENIED = (errno.EACCES, errno.EPERM)
_UNREACHED = re.compile(
    "(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED"
    "|CANCELLED): "
)
"""Statuses of storage and devices that say nothing about the bytes of a file."""
_DEVICE_MEMORY = re.compile(r"RESOURCE_EXHAUSTED.*?([Oo]ut of memory[^\n]*)", re.S)


def explain(error: BaseException, folder: str | None = None) -> MachineError | UserError | None:
    """Returns an error with a message in one line; None if the system did not cause the error.

    Args:
      error: any error; its causes are searched too.
      folder: where the command works, for errors that name no file.
    """
    for part in _chain(error):
        if isinstance(part, (MachineError, UserError)):
            return part
        if fault := _fault(part, folder):
            return fault
    # An error that was raised while another one was handled is that other error's only if the
    # machine is at fault: a full disk breaks whatever comes next.
    for part in _chain(error, contexts=True):
        if isinstance(fault := _fault(part, folder), MachineError):
            return fault
    return _device_memory(error)


def reading_fault(error: BaseException, path: str) -> MachineError | UserError | None:
    """Returns why a file could not be read, as opposed to understood; None if its bytes are wrong.

    What is made of the difference may be the removal of the file, so the whole chain is searched:
    readers report whatever they meet as an error of the file.

    Args:
      error: what a reader of the file raised.
      path: the file or folder, for errors that name none.
    """
    for part in _chain(error, contexts=True):
        fault = part if isinstance(part, MachineError) else _fault(part, path)
        if isinstance(fault, MachineError):
            return fault
        if (_os_error(part) or (None,))[0] in _DENIED:
            return fault or UserError(f"{path}: {part}; {_WRITABLE}")
    for part in _chain(error, contexts=True):
        if memory := _device_memory(part):
            return memory
        if isinstance(part, (TimeoutError, ConnectionError)) or _UNREACHED.search(str(part)):
            text = " ".join(str(part).split())[:200] or type(part).__name__
            return MachineError(f"{path}: cannot be read now ({text}); run the command again later")
    return None


def _chain(error: BaseException | None, *, contexts: bool = False) -> Iterator[BaseException]:
    """Yields an error, the errors of a group, and all of their causes, with or without contexts."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        part = waiting.pop(0)
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, BaseExceptionGroup):
            waiting.extend(part.exceptions)
        waiting += [part.__cause__, part.__context__ if contexts else None]


def _fault(error: BaseException, folder: str | None) -> MachineError | UserError | None:
    """Returns one error of a chain as a fault with its remedy; None if it is of another kind."""
    found = _os_error(error)
    if found is None:
        return None
    number, path = found
    faults, kind = (MACHINE, MachineError) if number in MACHINE else (USER, UserError)
    if number not in faults or not (path or number in {*MACHINE, errno.EROFS, errno.EACCES}):
        return None
    fault, remedy = faults[number]
    return kind(f"{path or folder or 'restem'}: {fault}; {remedy}")


def _device_memory(error: BaseException) -> MachineError | None:
    """Returns XLA's error of a device without memory as one with remedies; None for others."""
    memory = _DEVICE_MEMORY.search(str(error))
    return memory and MachineError(
        f"the device is {memory[1].rstrip('.')[:120].lower()}; use fewer slots"
        " (Run.e_step_slots, Run.m_step_slots), smaller micro-batches"
        " (improve.micro_batch_tokens, or improve.rows_per_batch where it is set),"
        ' improve.remat = "full", or a larger mesh; with any of these changed, the same command'
        " continues"
    )


def _os_error(error: BaseException) -> tuple[int, str | None] | None:
    """Returns errno and path of an error of the operating system."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM, None
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        names = (error.filename, error.filename2)
        name = next((os.fsdecode(n) for n in names if isinstance(n, (str, bytes))), None)
        return error.errno, name
    if isinstance(error, (TypeError, NameError, AttributeError)):  # a fault of the code
        return None
    number = None
    if stored := _NUMBER.search(text):
        number = int(stored[1])
    elif status := _STATUS.search(text):
        number = _BY_TEXT[status[1].lower()]
    if number is None:
        return None
    path = _QUOTED_PATH.search(text)
    # Orbax writes to folders of this name, which the user need not know.
    return number, path and path[1].partition(".orbax-checkpoint-tmp")[0]

"""A seccomp filter, assembled by hand: which system calls a jailed program may not make.

The list names what an honest program never needs: the memory of other processes, namespaces and
mounts, sockets, executing another binary, kernel keys, and the kernel's largest attack surfaces
(bpf, io_uring, userfaultfd, perf). Everything else is allowed, so that libraries keep working.
A filtered call fails with EPERM; a call through a foreign architecture's table kills the process.

The filter is installed once, in the zygote, and inherited: loading one costs more than forking. So
it allows the three calls with which the zygote makes a jail (mount, unshare of anything but a user
namespace, setns to a PID namespace); a program has none of the capabilities that they require.
Where layers are missing, each program adds a second filter, which takes their place.

A pair of stream sockets, which `multiprocessing` and `asyncio` use, reaches only its other end. A
pair of datagram sockets could send to any other socket, so it is refused.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

from restem.verify.sandbox.linux import syscalls

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NAMESPACE_FLAGS = 0x7E020000

# name: (x86_64, aarch64); None where the architecture lacks the call.
_DENIED = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "execve": (59, 221), "execveat": (322, 281), "uselib": (134, None),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "personality": (135, 92),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "fanotify_init": (300, 262), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "vhangup": (153, 58),
    "modify_ldt": (154, None), "iopl": (172, None), "ioperm": (173, None), "ustat": (136, None),
    "sysfs": (139, None), "nfsservctl": (180, 42), "lookup_dcookie": (212, 18),
}  # fmt: skip

# Also denied where no PID namespace holds the processes together: signals to others, their
# priorities, and leaving the process group that is killed at the end.
_DENIED_WITHOUT_PID_NAMESPACE = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setsid": (112, 157),
    "setpgid": (109, 154), "setpriority": (141, 140), "ioprio_set": (251, 30),
}  # fmt: skip
# There, these may name only process 0, the caller: their first argument is a process.
_OWN_WITHOUT_PID_NAMESPACE = {
    "prlimit64": (302, 261), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
}  # fmt: skip
# Denied where a program is the owner of files outside its folder: Landlock does not restrict what
# an owner may do to a file without opening it.
_DENIED_TO_OWNERS = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_CLONE = (56, 220)
_UNSHARE = (272, 97)
_SETNS = (308, 268)
_SOCKETPAIR = (53, 199)
_CLONE3 = 435

_FIRST_ARGUMENT, _SECOND_ARGUMENT = 16, 24
_ZYGOTE_FLAGS = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_SOCKET_TYPE = 0xF


def _error(number: int) -> int:
    return 0x00050000 | number


def supported() -> bool:
    return platform.machine() in _ARCHITECTURES


_Line = tuple[int, int, int, int]


def _guarded(number: int, *checks: _Line) -> list[_Line]:
    """Returns the lines for one system call, whose arguments `checks` look at.

    After the checks comes a line that denies the call, then one that allows it.
    """
    lines = [*checks, (_RETURN, 0, 0, _error(errno.EPERM)), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(lines), number), *lines]


def program(*, pid_namespace: bool, owns_others: bool = False) -> bytes:
    """Returns the filter as BPF instructions of 8 bytes each (`struct sock_filter`).

    Args:
      pid_namespace: whether a PID namespace keeps programs from other processes.
      owns_others: whether programs run as the owner of files that are not theirs.
    """
    column = list(_ARCHITECTURES).index(platform.machine())
    names = dict(
        _DENIED,
        **({} if pid_namespace else _DENIED_WITHOUT_PID_NAMESPACE),
        **(_DENIED_TO_OWNERS if owns_others else {}),
    )
    numbers = [row[column] for row in names.values() if row[column] is not None]
    own = [] if pid_namespace else [row[column] for row in _OWN_WITHOUT_PID_NAMESPACE.values()]
    first, second = ((_LOAD, 0, 0, argument) for argument in (_FIRST_ARGUMENT, _SECOND_ARGUMENT))
    head = [
        (_LOAD, 0, 0, 4),  # architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[platform.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # system call number
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
        (_EQUAL, 0, 1, _CLONE3),
        # glibc then falls back to clone, whose flags are in a register and can be checked.
        (_RETURN, 0, 0, _error(errno.ENOSYS)),
        *_guarded(_CLONE[column], first, (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS)),
        *_guarded(_UNSHARE[column], first, (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS & ~_ZYGOTE_FLAGS)),
        *_guarded(_SETNS[column], second, (_EQUAL, 1, 0, syscalls.CLONE_NEWPID)),
        *_guarded(
            _SOCKETPAIR[column],
            first,
            (_EQUAL, 0, 4, socket.AF_UNIX),
            second,
            (_AND, 0, 0, _SOCKET_TYPE),
            (_EQUAL, 2, 0, socket.SOCK_STREAM),
            (_EQUAL, 1, 0, socket.SOCK_SEQPACKET),
        ),
        *(line for number in own for line in _guarded(number, first, (_EQUAL, 1, 0, 0))),
    ]
    checks = [
        (_EQUAL, len(numbers) - position, 0, number) for position, number in enumerate(numbers)
    ]
    tail = [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _error(errno.EPERM))]
    return b"".join(struct.pack("HBBI", *line) for line in [*head, *checks, *tail])


def install(code: bytes) -> None:
    """Enforces the filter on this process and its descendants; needs no_new_privs."""
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    record = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    syscalls.prctl(syscalls.PR_SET_SECCOMP, 2, ctypes.addressof(record))

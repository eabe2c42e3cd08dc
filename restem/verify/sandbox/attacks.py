"""A program that attacks its own jail. It is run like any other program, never imported.

Standard input: JSON with the supervisor's pid, namespaces, one of its files, and the limits.
Standard output: JSON with an empty string for each attack that failed, else what it achieved.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import sys

FACTS = json.load(sys.stdin)
LIBC = ctypes.CDLL(None, use_errno=True)
RESULTS: dict[str, str] = {}


def attack(name):
    def run(function):
        try:
            RESULTS[name] = function() or ""
        except (OSError, MemoryError, KeyError):
            RESULTS[name] = ""

    return run


def refused(call, *arguments):
    """Returns whether the kernel answers EPERM or EACCES."""
    ctypes.set_errno(0)
    return call(*arguments) == -1 and ctypes.get_errno() in (errno.EPERM, errno.EACCES)


def first_that_works(*attempts):
    """Returns the name of the first call that the kernel does not refuse; empty if it does all."""
    for name, call in attempts:
        try:
            call()
            return name
        except OSError:
            continue
    return ""


def same_namespace(kind):
    def run():
        if os.readlink(f"/proc/self/ns/{kind}") == FACTS["namespaces"][kind]:
            return "shares the supervisor's"
        return ""

    return run


for kind in ("user", "mnt", "ipc", "uts"):
    attack(f"{kind}_namespace")(same_namespace(kind))


@attack("network")
def interfaces():
    with open("/proc/self/net/dev") as lines:
        names = {line.split(":")[0].strip() for line in lines if ":" in line}
    if names - {"lo"} or os.readlink("/proc/self/ns/net") == FACTS["namespaces"]["net"]:
        return f"sees the interfaces {', '.join(sorted(names)) or 'of the supervisor'}"
    return ""


@attack("outside_file")
def outside_file():
    with open(FACTS["file"]) as file:
        return f"read {file.read()!r}"


@attack("outside_list")
def outside_list():
    found = set(os.listdir(os.path.dirname(FACTS["file"])))
    return f"listed {len(found)} entries" if found else ""


@attack("outside_write")
def outside_write():
    for folder in ("/", "/dev", os.path.dirname(os.__file__), os.path.dirname(FACTS["file"])):
        try:
            os.close(os.open(f"{folder}/restem-probe", os.O_CREAT | os.O_WRONLY))
            os.unlink(f"{folder}/restem-probe")
            return f"wrote to {folder}"
        except OSError:
            continue
    # An owner may change a file without opening it. Each call would leave the file as it is.
    file, now = FACTS["file"], os.stat(FACTS["file"])
    return first_that_works(
        ("set the mode of a file", lambda: os.chmod(file, now.st_mode & 0o777)),
        ("set the times of a file", lambda: os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns))),
        ("set the length of a file", lambda: os.truncate(file, now.st_size)),
    )


@attack("device_write")
def device_write():
    os.close(os.open("/dev/zero", os.O_WRONLY))
    return "opened a device that is not for writing"


@attack("root")
def root():
    for call in (os.setuid, os.setgid):
        try:
            call(0)
            return "became root"
        except OSError:
            continue
    return ""


@attack("capabilities")
def capabilities():
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    LIBC.capget(header, sets)
    return "holds capabilities" if any(sets) else ""


@attack("no_new_privs")
def no_new_privs():
    return "" if LIBC.prctl(39, 0, 0, 0, 0) == 1 else "may gain privileges"


@attack("system_calls")
def system_calls():
    if not refused(LIBC.ptrace, 16, 1 << 22, 0, 0):
        return "may trace"
    if not refused(LIBC.socket, 2, 1, 0):
        return "may open sockets"
    if not refused(LIBC.socketpair, 1, 2, 0, (ctypes.c_int * 2)()):
        return "may send datagrams"
    if not refused(LIBC.unshare, 0x10000000):
        return "may make namespaces"
    return ""


@attack("signal")
def signal_supervisor():
    """Reaches the supervisor by each call that names a process; none would change it."""
    pid = FACTS["supervisor"]
    nice, cores = os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)
    return first_that_works(
        ("may send signals to the supervisor", lambda: os.kill(pid, 0)),
        ("may limit the supervisor", lambda: resource.prlimit(pid, resource.RLIMIT_CORE)),
        ("may slow the supervisor", lambda: os.setpriority(os.PRIO_PROCESS, pid, nice)),
        ("may bind the supervisor to a core", lambda: os.sched_setaffinity(pid, cores)),
    )


@attack("parent_death")
def parent_death():
    number = ctypes.c_int()
    LIBC.prctl(2, ctypes.byref(number), 0, 0, 0)
    return "" if number.value == 9 else "outlives its parent"


@attack("address_space")
def address_space():
    mmap.mmap(-1, 2 * FACTS["memory_mb"] << 20).close()
    return "mapped twice the limit"


@attack("file_size")
def file_size():
    fd = os.open("probe", os.O_CREAT | os.O_WRONLY)
    os.unlink("probe")
    try:
        os.ftruncate(fd, (FACTS["file_mb"] + 1) << 20)
    finally:
        os.close(fd)
    return "made a file over the limit"


@attack("core_file")
def core_file():
    return "may dump core" if resource.getrlimit(resource.RLIMIT_CORE)[0] else ""


@attack("control_group")
def control_group():
    with open("/proc/self/cgroup") as file:
        return "" if "/restem-" in file.read() else "is in no group of its own"


@attack("descriptors")
def descriptors():
    found = []
    for fd in range(3, 256):
        try:
            os.fstat(fd)
            found.append(fd)
        except OSError:
            continue
    return f"inherited the descriptors {found}" if found else ""


@attack("environment")
def environment():
    extra = set(os.environ) - set(FACTS["environment"]) - {"HOME", "TMPDIR", "LC_CTYPE"}
    return f"sees {', '.join(sorted(extra))}" if extra else ""


@attack("processes")
def processes():
    reader, writer = os.pipe()
    for _ in range(FACTS["processes"] + 12):
        try:
            child = os.fork()
        except OSError:
            os.close(writer)
            return ""
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(writer)
    return "started more processes than allowed"


@attack("survivor")
def survivor():
    """Leaves a process behind that tries to leave its group; the supervisor looks for it."""
    if os.fork() == 0:
        os.closerange(0, 3)  # no process waits for the end of its output
        with contextlib.suppress(OSError):
            os.setsid()
        if os.fork() == 0:
            import time

            time.sleep(60)
        os._exit(0)
    return ""


json.dump(RESULTS, sys.stdout)

"""A warm interpreter that forks jails.

The supervisor starts it by exec, once per worker. It first enters every layer that the machine
allows (user, PID, mount, network, IPC and UTS namespaces, a read-only root that shows only Python),
notes which ones succeeded, and then forks a jail on request in about two milliseconds. It never
sees a test or an expected value.

It consists of two processes. Stage 0 enters the namespaces and waits. Stage 1 is the first process
of a PID namespace that contains all jails, so that every process of every program dies with it.
Without that namespace, stage 0 kills what is left of programs when stage 1 has ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping

from restem.verify.pool import rlimits
from restem.verify.sandbox import jail, jail_root, process_tree, scratch
from restem.verify.sandbox.linux import landlock, seccomp, syscalls, users

PRELOADED = (
    "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "io", "itertools", "json", "math", "operator", "random",
    "re", "string", "sys", "time", "typing",
)  # fmt: skip
"""Modules that programs import most often, loaded once for all programs."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a zygote, given as JSON on its command line."""

    slot: int
    """Number of the worker, which decides its users."""
    folder: str
    """Empty folder: mount point of the root, or scratch folder without mounts."""
    without: tuple[str, ...] = ()
    """Layers to leave out, as if the machine refused them (tests of the fallbacks)."""
    memory_mb: int = 1024
    """Address space of each process in MiB."""
    processes: int = 32
    """Processes and threads of a jail."""
    file_mb: int = 16
    """Size of one file in MiB."""
    scratch_mb: int = 64
    """Size of the private scratch folder in MiB."""
    package_folders: tuple[str, ...] = ()
    """Folders of installed packages that programs can import besides the standard library."""
    guest: str = ""
    """Module whose `BODIES` are added to the orders that a jail accepts; empty for none."""


class Zygote:
    """The warm interpreter: enters the layers, then forks, kills and reaps jails."""

    def __init__(self, config: Config, control: socket.socket, bodies: Mapping[str, jail.Body]):
        self.config = config
        self.bodies = bodies
        self.control = control
        self.layers: dict[str, str] = {}
        self.root = os.geteuid() == 0
        self.own_pid_fd = self.processes = -1
        self.live: dict[int, int] = {}
        self.uid = users.outer(config.slot) if self.root else os.geteuid()

    # ---- stage 0 ----

    def attempt(self, layer: str, action: Callable[[], None]) -> bool:
        """Runs `action` unless its layer is left out; notes failures; returns whether it worked."""
        if layer in self.config.without:
            self.layers[layer] = "left out on request"
            return False
        try:
            action()
        except (OSError, KeyError, RuntimeError) as error:
            self.layers[layer] = str(error) or type(error).__name__
            return False
        self.layers[layer] = ""
        return True

    def has(self, layer: str) -> bool:
        return self.layers.get(layer) == ""

    def start(self) -> None:
        """Enters the namespaces and runs stage 1 below them; does not return."""
        if self.attempt("user_namespace", lambda: users.enter(self.uid)) and self.root:
            self.uid = users.INNER
        for layer, flag in (
            ("mount_namespace", syscalls.CLONE_NEWNS),
            ("network_namespace", syscalls.CLONE_NEWNET),
            ("ipc_namespace", syscalls.CLONE_NEWIPC),
            ("uts_namespace", syscalls.CLONE_NEWUTS),
            ("pid_namespace", syscalls.CLONE_NEWPID),
        ):
            self.attempt(layer, functools.partial(syscalls.unshare, flag))
        parent = os.getpid()
        if not self.has("pid_namespace"):
            self.processes = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        child = os.fork()
        if child == 0:
            # In a new PID namespace the parent has no number.
            syscalls.die_with_parent(None if self.has("pid_namespace") else parent)
            self.serve()
        self.control.close()
        if not self.has("pid_namespace"):
            # Programs may outlive stage 1, which ends when the supervisor is gone. So this process
            # outlives both, and kills what they left.
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        _, status = os.waitpid(child, 0)
        if not self.has("pid_namespace"):
            process_tree.kill_children(self.processes)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)

    # ---- stage 1 ----

    def serve(self) -> None:
        """Forks, kills and reaps jails as the supervisor orders; does not return."""
        if self.has("mount_namespace"):
            self.attempt(
                "read_only_root",
                lambda: jail_root.build(
                    self.config.folder,
                    jail_root.readable(self.config.package_folders),
                    with_proc=self.has("pid_namespace"),
                ),
            )
        if self.has("pid_namespace"):
            self.own_pid_fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        else:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self.attempt("own_user", self._check_own_user)
        if not self.has("read_only_root"):
            os.mkdir(self._shared_scratch(), 0o700)
            if self.has("own_user"):
                os.chown(self._shared_scratch(), self.uid, self.uid)
        self.attempt("seccomp", self._check_seccomp)
        self.attempt("landlock", self._check_landlock)
        syscalls.bound_capabilities()
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if self.has("seccomp"):
            self.fallback_filter = self._fallback_filter()
            seccomp.install(seccomp.program(pid_namespace=True))
        gc.collect()
        gc.freeze()
        wake = socket.socketpair()
        for end in wake:
            end.setblocking(False)
        signal.set_wakeup_fd(wake[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.control.send(json.dumps({"layers": self.layers}).encode())
        import select

        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake[0], select.POLLIN)
        while True:
            events = dict(poll.poll())
            if wake[0].fileno() in events:
                with contextlib.suppress(BlockingIOError):
                    while wake[0].recv(4096):
                        pass
                self._reap()
            if self.control.fileno() in events:
                order, fds = jail.receive(self.control)
                if order is None:
                    os._exit(0)
                if order["do"] == "fork":
                    self._fork(order, fds[0], wake)
                else:
                    for pid, number in self.live.items():
                        if number == order["jail"]:
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.live:
                number = self.live.pop(pid)
                if not self.has("pid_namespace"):
                    process_tree.kill_children(self.processes, but=self.live)
                if not self.live and not self.has("read_only_root"):
                    scratch.empty(self._shared_scratch())
                notice = {"exit": number, "status": status, "peak_kb": usage.ru_maxrss}
                self.control.send(json.dumps(notice).encode())

    def _fork(self, order: dict, fd: int, wake: tuple) -> None:
        number = order["jail"]
        parent, pid, problem = os.getpid(), -1, ""
        try:
            if self.has("pid_namespace"):
                syscalls.unshare(syscalls.CLONE_NEWPID)
            pid = os.fork()
        except OSError as error:
            problem = str(error)
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in wake:
                    end.close()
                self._become_jail(order, fd, parent)
            finally:
                os._exit(71)
        os.close(fd)
        if self.has("pid_namespace"):
            # Also after a fork that failed, because the next namespace could not be made otherwise.
            syscalls.setns(self.own_pid_fd, syscalls.CLONE_NEWPID)
        if problem:
            self.control.send(json.dumps({"exit": number, "error": problem}).encode())
        else:
            self.live[pid] = number

    # ---- in the jail ----

    def _become_jail(self, order: dict, fd: int, parent: int) -> None:
        control = socket.socket(fileno=fd)
        try:
            syscalls.die_with_parent(None if self.has("pid_namespace") else parent)
            self.control.close()
            for own in (self.own_pid_fd, self.processes):
                if own >= 0:
                    os.close(own)
            os.setsid()
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000" if order["untrusted"] else "900")
            uid = self.uid + (0 if order["untrusted"] or not self.root else 1)
            folder = self._make_scratch(uid)
            self._limit_resources(order)
            if self.has("own_user"):
                with contextlib.suppress(PermissionError):
                    os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.chdir(folder if order["untrusted"] else "/")
            os.umask(0o077)
            syscalls.drop_capabilities()
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            # A change of user cancels the request, so it is made again.
            syscalls.die_with_parent(None if self.has("pid_namespace") else parent)
            if not self.has("pid_namespace"):
                syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
            if self.has("landlock"):
                landlock.restrict(self.rules)
                os.close(self.rules)
        except BaseException as error:
            control.send(json.dumps({"fatal": f"{type(error).__name__}: {error}"}).encode())
            os._exit(71)
        os.environ.update(HOME=folder, TMPDIR=folder)
        in_namespace = self.has("pid_namespace")
        jail.serve(
            control,
            bodies=self.bodies,
            scratch_folder=folder,
            kill_others=jail.kill_namespace if in_namespace else jail.kill_group,
            before_program=self._before_program,
        )

    def _before_program(self) -> None:
        if not self.has("pid_namespace"):
            os.setpgid(0, 0)
        if self.has("seccomp") and self.fallback_filter:
            seccomp.install(self.fallback_filter)

    def _fallback_filter(self) -> bytes:
        """Returns the second filter of programs; empty if no layer that it replaces is missing."""
        pid_namespace = self.has("pid_namespace")
        owns_others = not self.has("own_user") and not self.has("read_only_root")
        if pid_namespace and not owns_others:
            return b""
        return seccomp.program(pid_namespace=pid_namespace, owns_others=owns_others)

    def _limit_resources(self, order: dict) -> None:
        megabytes = self.config.memory_mb + (0 if order["untrusted"] else 512)
        file_bytes = self.config.file_mb << 20
        for name, soft, hard in (
            ("CORE", 0, 0),
            ("AS", megabytes << 20, megabytes << 20),
            ("FSIZE", file_bytes, file_bytes),
            ("NOFILE", 128, 128),
            ("NPROC", self.config.processes, self.config.processes),
            ("STACK", 64 << 20, 128 << 20),
            ("MEMLOCK", 0, 0),
            ("MSGQUEUE", 0, 0),
            ("SIGPENDING", 256, 256),
        ):
            rlimits.bound(getattr(resource, f"RLIMIT_{name}"), soft, hard)

    def _make_scratch(self, uid: int) -> str:
        if not self.has("read_only_root"):
            return self._shared_scratch()
        flags = syscalls.CLONE_NEWNS | (syscalls.CLONE_NEWIPC if self.has("ipc_namespace") else 0)
        syscalls.unshare(flags)
        hardened = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        if self.has("pid_namespace"):
            try:
                syscalls.mount("proc", "/proc", "proc", hardened, "subset=pid")
            except OSError:
                # If the container hides parts of /proc, there is none: the zygote's is covered.
                syscalls.mount("none", "/proc", "tmpfs", hardened | syscalls.MS_RDONLY, "size=4k")
        if not self.root and self.has("user_namespace"):
            uid = 0  # the one user that its map has: the caller's, seen from inside
        size = f"size={self.config.scratch_mb}m,nr_inodes={scratch.MOST_ENTRIES}"
        options = f"{size},mode=700,uid={uid},gid={uid}"
        syscalls.mount("scratch", jail_root.SCRATCH, "tmpfs", hardened, options)
        return "/tmp" if os.path.islink("/tmp") else jail_root.SCRATCH

    def _shared_scratch(self) -> str:
        return shared_scratch(self.config.folder)

    # ---- what the machine offers ----

    def _check_own_user(self) -> None:
        if not self.root:
            raise OSError("only root can give programs a user of their own")
        _in_child(lambda: os.setresuid(self.uid, self.uid, self.uid), "no other user may be taken")
        library = os.path.dirname(os.__file__)
        _in_child(
            lambda: _list_as(self.uid, library),
            f"Python's library ({library}) is in a folder that only root can read",
        )

    def _check_seccomp(self) -> None:
        if not seccomp.supported():
            raise OSError("no table of system calls for this processor")
        _in_child(self._install_filter, "the kernel refuses filters")

    def _install_filter(self) -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.program(pid_namespace=True))

    def _check_landlock(self) -> None:
        if landlock.abi() < 1:
            raise OSError("the kernel has no Landlock")
        own_root = self.has("read_only_root")
        shown = ["/"]
        if not own_root:
            shown = jail_root.readable(self.config.package_folders)
            shown += ["/dev/zero", "/dev/urandom"]
        self.rules = landlock.ruleset(
            readable=shown,
            # A rule on the mount point itself would not reach the folder mounted there later.
            writable=["/scratch" if own_root else self._shared_scratch()],
            devices=["/dev/null", "/dev/full"],
        )


def shared_scratch(folder: str) -> str:
    """Returns the scratch folder of all jails where they have no root of their own."""
    return os.path.join(folder, "scratch")


def _list_as(uid: int, folder: str) -> None:
    os.setresuid(uid, uid, uid)
    os.listdir(folder)


def _in_child(action: Callable[[], object], problem: str) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise OSError(problem)


def start(arguments: list[str]) -> None:
    """Runs a zygote; arguments are the configuration as JSON and the control socket's number."""
    fields = json.loads(arguments[0])
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    config = Config(**{**fields, **lists})
    syscalls.die_with_parent(os.getppid())
    os.setsid()
    control = socket.socket(fileno=int(arguments[1]))
    control.recv(2)
    # When memory runs out, the kernel must kill programs, never the training process.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")
    os.umask(0o022)
    sys.path += config.package_folders
    import site

    # `exit` and `quit`, which scripts use; -S kept .pth files from running.
    site.setquit()
    for name in PRELOADED:
        importlib.import_module(name)
    bodies = dict(jail.BODIES)
    if config.guest:
        bodies |= importlib.import_module(config.guest).BODIES
    sys.argv[:] = ["main.py"]
    sys.set_int_max_str_digits(0)
    for key in [key for key in os.environ if key.startswith("PYTHON")]:
        del os.environ[key]
    Zygote(config, control, bodies).start()

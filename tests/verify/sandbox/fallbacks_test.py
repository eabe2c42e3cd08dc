"""Programs that attack what is left of the sandbox on a machine that refuses some of its layers."""

# ruff: noqa: E501  (programs in tables)

import os
import shutil
import socket
import subprocess
import tempfile

from absl.testing import absltest, parameterized

from restem.verify.programs.program_pool import ProgramPool
from restem.verify.sandbox import layers
from restem.verify.sandbox.limits import Limits

_LIMITS = Limits(time_limit_s=4.0, program_limit_s=10.0, memory_mb=192, processes=16, file_mb=4,
                 scratch_mb=8)  # fmt: skip
_NAMESPACES = ("user_namespace", "mount_namespace", "pid_namespace", "network_namespace",
                "ipc_namespace", "uts_namespace")  # fmt: skip
_ECHO = {"inputs": ["7"], "outputs": ["7"]}


class PoolTest(parameterized.TestCase):
    def pool(self, *without):
        pool = ProgramPool(workers=1, limits=_LIMITS, without=without)
        self.addCleanup(pool.close)
        return pool


class SameUserTest(PoolTest):
    """Without namespaces, and without a user of their own, programs meet the caller's processes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = ProgramPool(workers=1, limits=_LIMITS, without=(*_NAMESPACES, "own_user"))
        cls.addClassCleanup(cls.pool.close)
        cls.folder = tempfile.mkdtemp(prefix="restem-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        os.chmod(cls.folder, 0o755)
        cls.file = os.path.join(cls.folder, "file")
        with open(cls.file, "w") as file:
            file.write("precious")
        cls.socket = os.path.join(cls.folder, "log")
        cls.server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        cls.addClassCleanup(cls.server.close)
        cls.server.bind(cls.socket)
        cls.server.setblocking(False)

    def setUp(self):
        super().setUp()
        self.victim = subprocess.Popen(["sleep", "60"])
        self.addCleanup(self.victim.wait)
        self.addCleanup(self.victim.kill)

    def state(self):
        pid = self.victim.pid
        with open(f"/proc/{pid}/limits") as file:
            limits = file.read()
        stat = os.stat(self.file)
        return (self.victim.poll(), limits, os.getpriority(os.PRIO_PROCESS, pid),
                os.sched_getaffinity(pid), os.sched_getscheduler(pid), stat.st_mode, stat.st_uid,
                stat.st_mtime_ns, os.stat(self.folder).st_mode, os.listxattr(self.file))  # fmt: skip

    @parameterized.named_parameters(
        ("kill", "os.kill(PID, 9)"),
        ("limit_its_time", "resource.prlimit(PID, resource.RLIMIT_CPU, (0, 0))"),
        ("limit_its_files", "resource.prlimit(PID, resource.RLIMIT_NOFILE, (5, 5))"),
        ("lower_its_priority", "os.setpriority(os.PRIO_PROCESS, PID, 19)"),
        ("lower_its_priority_by_user", "os.setpriority(os.PRIO_USER, os.getuid(), 19)"),
        ("lower_its_priority_of_io", "call(IOPRIO_SET, 1, PID, 3 << 13)"),
        ("bind_it_to_a_core", "os.sched_setaffinity(PID, {0})"),
        ("schedule_it_last", "os.sched_setscheduler(PID, os.SCHED_IDLE, os.sched_param(0))"),
        ("signal_by_a_file", "signal_by_a_file()"),
        ("send_a_datagram", "pair(socket.SOCK_DGRAM)[0].sendto(b'x', SOCKET)"),
        ("send_a_raw_datagram", "pair(socket.SOCK_RAW)[0].sendto(b'x', SOCKET)"),
        ("connect_a_stream", "pair(socket.SOCK_STREAM)[0].connect(SOCKET)"),
        ("set_a_mode", "os.chmod(FILE, 0o777)"),
        ("set_the_mode_of_a_folder", "os.chmod(os.path.dirname(FILE), 0)"),
        ("set_an_owner", "os.chown(FILE, 65534, 65534)"),
        ("set_times", "os.utime(FILE, (5, 5))"),
        ("set_an_attribute", "os.setxattr(FILE, 'user.x', b'x')"),
        ("set_the_mode_of_python", "os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o644)"),
        ("truncate", "os.truncate(FILE, 0)"),
    )  # fmt: skip
    def test_cannot(self, action):
        program = f"""
import ctypes, fcntl, os, platform, resource, socket
FILE, SOCKET, PID = {self.file!r}, {self.socket!r}, {self.victim.pid}
IOPRIO_SET = {{"x86_64": 251, "aarch64": 30}}[platform.machine()]
def call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "call")
def pair(kind): return socket.socketpair(socket.AF_UNIX, kind)
def signal_by_a_file():
    near, far = pair(socket.SOCK_STREAM)
    fcntl.fcntl(near, fcntl.F_SETOWN, PID)
    fcntl.fcntl(near, 10, 9)  # F_SETSIG, SIGKILL
    fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC)
    far.send(b"x")
    raise OSError  # whether it arrived shows in the victim
try:
    print("achieved", {action})
except OSError:
    print("held")
"""
        before = self.state()
        verdict = self.pool.submit(program, {"inputs": [""], "outputs": ["held"]}).result()
        self.assertEqual(verdict.reward, 1.0, verdict.detail)
        self.assertEqual(self.state(), before)
        with self.assertRaises(BlockingIOError):
            self.server.recv(1)

    @parameterized.named_parameters(
        ("limits_of_its_own", "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"),
        ("stack", "import threading\nthreading.stack_size(1 << 26)\n"
         "t = threading.Thread(target=int)\nt.start()\nt.join()"),
        ("affinity_of_its_own", "import os\nos.sched_setaffinity(0, os.sched_getaffinity(0))"),
        ("asyncio", "import asyncio\nasync def f(): pass\nasyncio.run(f())"),
        ("numpy", "import numpy as np\nnp.ones((50, 50)) @ np.ones((50, 50))"),
        ("temporary_folder",
         "import os, tempfile\nwith tempfile.TemporaryDirectory() as d: os.mkdir(d + '/x')"),
    )  # fmt: skip
    def test_can(self, program):
        verdict = self.pool.submit(f"{program}\nprint(7)", _ECHO).result()
        self.assertEqual(verdict.reward, 1.0, verdict.detail)


class ScratchTest(PoolTest):
    """The folder that a program may write to, with and without a file system of its own."""

    _LAYERS = (
        ("all_layers",), ("without_mount_namespace", "mount_namespace"),
        ("without_read_only_root", "read_only_root"), ("without_namespaces", *_NAMESPACES),
        ("without_pid_namespace", "pid_namespace"),
    )  # fmt: skip

    @parameterized.named_parameters((name, without) for name, *without in _LAYERS)
    def test_nothing_is_left_for_the_next_start(self, without):
        leave = """
import os
open("file", "w").write("secret")
os.symlink("/", "link")
os.mkfifo("pipe")
os.makedirs("a/b/c")
open("a/b/file", "w").close()
for name in ("a/b/c", "a/b", "a"):
    try: os.chmod(name, 0)
    except PermissionError: pass
os.mkdir("closed", 0)
"""
        deep = """
import os
for _ in range(1500):  # deeper than a path can be long
    os.mkdir("below")
    os.chdir("below")
"""
        look = "import os\nprint(*os.listdir())\n"
        twice = {"inputs": ["", ""], "outputs": ["", ""]}
        with self.pool(*without) as pool:
            for program in (look + leave, look, deep, look):
                verdict = pool.submit(program, twice).result()
                if program != deep:  # which only a file system of its own bears
                    self.assertEqual(verdict.reward, 1.0, verdict.detail)
            state = "import os\ndef f(x):\n  open(str(x), 'w').close()\n  return len(os.listdir())"
            calls = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [1, 2]}
            self.assertEqual(pool.submit(state, calls).result().reward, 1.0)
            self.assertEqual(pool.submit(look, twice).result().reward, 1.0)
            self.assertEqual(pool.pool.counts["deaths"], 0)

    @parameterized.named_parameters((name, without) for name, *without in _LAYERS)
    def test_its_size_is_bounded(self, without):
        fill = "for n in range(%d): open(f'f{n}', 'wb').write(b'x' * (3 << 20))\nprint(7)"
        many = "for n in range(5000): open(f'f{n}', 'w').close()\nprint(7)"
        hide = "import os\nos.mkdir('d')\nos.chdir('d')\n" + fill
        calls = {"fn_name": "f", "inputs": [[1]] * 4, "outputs": [1] * 4}
        slow = "import os\ndef f(x):\n  open(os.urandom(4).hex(), 'wb').write(b'x' * (3 << 20))\n  return x"
        with self.pool(*without) as pool:
            self.assertEqual(pool.submit(fill % 2, _ECHO).result().reward, 1.0)
            twice = {"inputs": ["7", "7"], "outputs": ["7", "7"]}
            self.assertEqual(pool.submit(fill % 2, twice).result().reward, 1.0)
            for program, tests in (
                (fill % 3, _ECHO),
                (hide % 3, _ECHO),
                (many, _ECHO),
                (slow, calls),
            ):
                verdict = pool.submit(program, tests).result()
                self.assertEqual((verdict.reward, verdict.method), (0.0, "error"), verdict.detail)
                self.assertRegex(verdict.detail, "scratch folder|No space left")


class MemoryTest(PoolTest):
    @parameterized.named_parameters(
        ("private", "bytearray(SIZE)"), ("shared", "mmap.mmap(-1, SIZE)"),
    )  # fmt: skip
    def test_memory_of_all_processes_is_bounded_without_a_group(self, memory):
        program = f"""
import mmap, os, time
SIZE = 90 << 20
for _ in range(4):
    if os.fork() == 0:
        memory = {memory}
        for n in range(0, SIZE, 4096): memory[n] = 1
        time.sleep(2)
        os._exit(0)
for _ in range(4): os.wait()
print(7)
"""
        with self.pool("cgroup") as pool:
            verdict = pool.submit(program, _ECHO).result()
            self.assertEqual((verdict.reward, verdict.method), (0.0, "memory"), verdict.detail)
            small = pool.submit(program.replace("90 <<", "9 <<"), _ECHO).result()
            self.assertEqual(small.reward, 1.0, small.detail)


class ProbeTest(absltest.TestCase):
    def test_attacks_at_the_start_find_what_a_missing_filter_leaves_open(self):
        found = layers.layers(without=(*_NAMESPACES, "own_user", "seccomp"))
        self.assertIn("set the mode of a file", found["landlock"].reason)
        self.assertIn("may limit the supervisor", found["landlock_signals"].reason)
        self.assertContainsSubset({"files", "network", "processes"}, layers.missing(found))


if __name__ == "__main__":
    absltest.main()

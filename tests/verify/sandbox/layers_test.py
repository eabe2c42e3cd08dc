"""The layers of the sandbox, its fallbacks, and that nothing is left behind."""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from unittest import mock

from absl.testing import absltest, parameterized

import restem
from restem.errors import UserError
from restem.verify.pool import bootstrap
from restem.verify.programs.program_pool import ProgramPool
from restem.verify.sandbox import jails, layers, probes, process_tree
from restem.verify.sandbox.limits import Limits
from restem.verify.sandbox.linux import cgroups

_LIMITS = Limits(time_limit_s=2.0, program_limit_s=5.0, memory_mb=192, processes=16)
_NAMESPACES = ("user_namespace", "mount_namespace", "pid_namespace", "network_namespace",
                "ipc_namespace", "uts_namespace")  # fmt: skip
_NOTHING = (*_NAMESPACES, "seccomp", "landlock", "own_user", "cgroup")
_ECHO = {"inputs": ["7"], "outputs": ["7"]}


def own_processes():
    """Children of this process, and what runs below them."""
    parents = process_tree.parents()
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        below = [child for child, parent in parents.items() if parent == pid]
        found += below
        waiting += below
    return found


def left_behind():
    """Control groups and folders of processes that are no more; others may be another test's."""
    parents = [parent for _, parent in cgroups.hierarchies()]
    groups = [entry for parent in parents for entry in glob.glob(f"{parent}/restem-*")]
    folders = glob.glob(os.path.join(tempfile.gettempdir(), "restem-jail-*"))
    return {
        *(entry for entry in groups if not _alive(os.path.basename(entry).split("-")[1])),
        *(entry for entry in folders if not _alive(os.path.basename(entry).split("-")[2])),
    }


def _alive(pid):
    return os.path.exists(f"/proc/{pid}")


def mounts():
    with open("/proc/self/mounts") as lines:
        return len(lines.readlines())


class LayersTest(parameterized.TestCase):
    def test_every_layer_says_how_it_was_probed(self):
        found = layers.layers()
        self.assertContainsSubset({*_NAMESPACES, "seccomp", "landlock", "own_user"}, found)
        for name, status in found.items():
            self.assertTrue(status.probe, name)
            self.assertEqual(status.in_force, not status.reason, name)
        self.assertLen(layers.describe(found), len(found) + 1)
        self.assertEqual(layers.missing(found), [], layers.describe(found))

    def test_a_refused_layer_is_off_and_the_rest_holds(self):
        found = layers.layers(without=_NAMESPACES)
        for name in _NAMESPACES:
            self.assertFalse(found[name].in_force)
        for name in ("seccomp", "landlock", "kill_at_end", "capabilities", "no_new_privs"):
            self.assertTrue(found[name].in_force, (name, found[name].reason))

    def test_a_machine_that_makes_no_jail_is_too_weak(self):
        noted = {note: "" for note, _, _ in probes._LAYERS.values() if note}
        folder = os.path.join(self.create_tempdir().full_path, "jail")
        worker = types.SimpleNamespace(folder=folder, limits=_LIMITS, layers=noted, cgroup=None)
        with mock.patch.object(probes, "Execution", side_effect=ChildProcessError("no jail")):
            found = layers.read(probes.probe(worker))
        self.assertEmpty(layers.in_force(found))
        with self.assertRaisesRegex(UserError, r"does not protect .*the probe failed \(no jail\)"):
            layers.check(found, allow_weak_sandbox=False)

    def test_too_weak_is_refused(self):
        with self.assertRaisesRegex(UserError, "allow_weak_sandbox") as caught:
            ProgramPool(workers=1, limits=_LIMITS, without=_NOTHING)
        self.assertNotIn("\n", str(caught.exception))
        found = layers.layers(without=_NOTHING)
        self.assertContainsSubset({"files", "network", "processes"}, layers.missing(found))
        self.assertIn("WEAK", layers.describe(found)[-1])

    @parameterized.named_parameters(
        ("all_layers", ()),
        ("without_user_namespace", ("user_namespace",)),
        ("without_cgroup", ("cgroup",)),
        ("without_landlock", ("landlock",)),
        ("without_seccomp", ("seccomp",)),
        ("without_namespaces", _NAMESPACES),
        ("with_rlimits_only", _NOTHING),
    )
    def test_each_fallback_runs_programs_and_ends_them(self, without):
        daemon = (
            "import os, time\nif os.fork() == 0:\n  os.closerange(0, 9)\n"
            "  try: os.setsid()\n  except OSError: pass\n"
            "  if os.fork() == 0: time.sleep(500)\n  time.sleep(500)\nprint(7)"
        )
        with ProgramPool(
            workers=1, limits=_LIMITS, without=without, allow_weak_sandbox=True
        ) as pool:
            calls = {"fn_name": "f", "inputs": [[7]], "outputs": [7]}
            asserts = {"entry_point": "f", "test": "def check(f):\n    assert f(7) == 7\n"}
            for text, tests, method, reward in (
                ("print(input())", _ECHO, "tests", 1.0),
                ("open('x', 'w').write(input())\nprint(open('x').read())", _ECHO, "tests", 1.0),
                ("import os\nprint(len(os.listdir()) + 7)", _ECHO, "tests", 1.0),
                ("def f(x): return x", calls, "tests", 1.0),
                ("def f(x): return x", asserts, "tests", 1.0),
                ("def f(x): return x + 1", asserts, "tests", 0.0),
                (daemon, _ECHO, "tests", 1.0),
                ("while True: pass", _ECHO, "timeout", 0.0),
                ("x = bytearray(1 << 30)", _ECHO, "memory", 0.0),
            ):
                verdict = pool.submit(text, tests).result()
                self.assertEqual((verdict.method, verdict.reward), (method, reward), verdict)
            zygote = [p for p in own_processes() if _is(p, "zygote")]
            self.assertLessEqual(len(zygote), 2, "a program outlived its verdict")


def _is(pid, module):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return f"restem.verify import {module}" in file.read()
    except OSError:
        return False


class ForkTest(parameterized.TestCase):
    """The machine refuses processes for a while; no program is called wrong for it."""

    @parameterized.named_parameters(
        # Two processes are the zygote's, and the third one is the first of a jail.
        ("of_the_jail", 2), ("in_the_jail", 3),
    )  # fmt: skip
    def test_a_refused_process_costs_no_verdict(self, most):
        parent = dict(cgroups.hierarchies()).get("pids")
        if parent is None:
            self.skipTest("no hierarchy of version 1 for the number of processes")
        with ProgramPool(workers=1, limits=_LIMITS) as pool:
            first = pool.pool.pids[0]
            (limit,) = glob.glob(f"{parent}/restem-{first}-*/pids.max")
            with open(limit, "w") as file:
                file.write(str(most))
            for _ in range(3):
                verdict = pool.submit("print(input())", _ECHO).result()
                self.assertEqual(verdict.reward, 1.0, verdict.detail)
            self.assertNotIn(first, pool.pool.pids)
            counts = [pool.pool.counts[name] for name in ("deaths", "retried", "lost")]
            self.assertEqual(counts, [1, 1, 0])

    def test_a_worker_makes_jails_after_a_refusal(self):
        worker = jails.Worker(slot=16 * os.getpid() + 14, limits=_LIMITS)
        self.addCleanup(worker.close)
        if "pids" not in dict(cgroups.hierarchies()) or not worker.cgroup.processes:
            self.skipTest("no hierarchy of version 1 for the number of processes")
        limit = os.path.join(worker.cgroup._folders["pids"], "pids.max")
        for most, refused in (("2", True), ("24", False)):
            with open(limit, "w") as file:
                file.write(most)
            jail = worker.fork(untrusted=True)
            if refused:
                with self.assertRaises(ChildProcessError):
                    jail.close()
            else:
                jail.order({"do": "script", "cpu_s": 1, "empties_scratch": True}, [])
                self.assertIsNotNone(jail.reply())
                jail.close()


class LeftBehindTest(parameterized.TestCase):
    def test_nothing_is(self):
        layers.layers()
        before = (len(own_processes()), mounts())
        stale = left_behind()  # of others that were killed; a new pool clears them away
        hostile = [
            "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
            "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(99)\nprint(7)",
            "while True: pass",
            "open('big', 'wb').write(b'x' * 10**6)\nprint(7)",
            "import os\nos.kill(1, 9)",
            "import ctypes\nctypes.string_at(0)",
        ]
        with ProgramPool(workers=2, limits=_LIMITS) as pool:
            self.assertGreater(len(own_processes()), before[0])
            futures = [pool.submit(text, _ECHO) for text in hostile * 2]
            for future in futures:
                future.result()
            self.assertLen(own_processes(), before[0] + 2 * 3)
        self.assertEqual((len(own_processes()), mounts()), before)
        self.assertEmpty(left_behind() - stale)

    @parameterized.product(
        without=((), ("pid_namespace",), _NAMESPACES), supervisor_too=(False, True)
    )
    def test_nothing_is_when_the_caller_is_killed(self, without, supervisor_too):
        stale = left_behind()
        program = (
            "import os, time\nfor _ in range(2):\n"
            "  if os.fork() == 0:\n    os.fork()\n    time.sleep(99)\nwhile True: pass"
        )
        code = (
            "import sys, os\n"
            f"sys.path.insert(0, {os.path.dirname(os.path.dirname(restem.__file__))!r})\n"
            "from restem.verify.programs.program_pool import ProgramPool\n"
            f"pool = ProgramPool(workers=1, without={without!r})\n"
            f"pool.submit({program!r}, {_ECHO!r})\n"
            "import time\nprint(pool.pool.pids[0], flush=True)\ntime.sleep(99)\n"
        )
        caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        supervisor = int(caller.stdout.readline())
        below: list[int] = []
        for _ in range(100):
            if len(below) < 7:  # stage 1, a jail, and the program's five
                time.sleep(0.1)
                below = process_tree.below_children(supervisor)
        self.assertLen(below, 7)
        if supervisor_too:
            os.kill(supervisor, signal.SIGKILL)
        caller.kill()
        caller.wait()
        caller.stdout.close()
        waited = 0
        while waited < 200 and any(os.path.exists(f"/proc/{p}") for p in (supervisor, *below)):
            time.sleep(0.1)
            waited += 1
        for pid in (supervisor, *below):
            self.assertFalse(os.path.exists(f"/proc/{pid}"))
        if not supervisor_too:  # else the next pool removes its folders
            self.assertEmpty(left_behind() - stale)


class UnprivilegedTest(absltest.TestCase):
    def run_as_nobody(self, code):
        """Returns the JSON that `code` prints in an interpreter of another user."""
        if os.geteuid() != 0:
            self.skipTest("this process is unprivileged itself: every test here is the case")
        interpreter = next(filter(_readable_by_nobody, (sys.executable, "/usr/bin/python3")), None)
        if interpreter is None:
            self.skipTest("no interpreter of version 3.11 that an unprivileged user may run")
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        source = os.path.dirname(restem.__file__)
        package = os.path.join(folder, "restem")
        shutil.copytree(os.path.join(source, "verify"), os.path.join(package, "verify"))
        for name in ("__init__.py", "errors.py", "records.py"):
            shutil.copy(os.path.join(source, name), package)
        start = (
            f"import json, os, sys\nsys.path.insert(0, {folder!r})\n"
            "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nos.chdir('/')\n"
        )
        done = subprocess.run(
            [interpreter, "-c", start + code],
            capture_output=True,
            text=True,
            env=bootstrap.CLEAN_ENVIRONMENT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_a_user_who_is_not_root(self):
        weak, verdicts = self.run_as_nobody(
            "from restem.verify import run_programs\nfrom restem.verify.sandbox import layers\n"
            "weak = layers.missing(layers.layers())\n"
            f"tests = [{_ECHO!r}] * 3\n"
            "texts = ['print(input())', 'while True: pass',"
            " 'print(open(\"/etc/passwd\").read())']\n"
            "verdicts = run_programs(texts, tests, time_limit_s=1,"
            " allow_weak_sandbox=True)\n"
            "print(json.dumps([weak, [(v.reward, v.method) for v in verdicts]]))\n"
        )
        self.assertEqual(verdicts[:2], [[1.0, "tests"], [0.0, "timeout"]])
        if not weak:
            self.assertEqual(verdicts[2], [0.0, "error"])

    def test_expected_values_are_not_read_from_memory_without_any_layer(self):
        program = (
            "import os\n"
            "for pid in input().split():\n"
            "  for name in 'environ', 'maps', 'mem', 'fd/0':\n"
            "    try: os.close(os.open(f'/proc/{pid}/{name}', os.O_RDONLY))\n"
            "    except PermissionError: print('held')\n"
            "    else: print('read')\n"
        )
        found = self.run_as_nobody(
            "import subprocess\n"
            "from restem.verify.programs.program_pool import ProgramPool\n"
            "victim = subprocess.Popen(['sleep', '60'], stdin=subprocess.DEVNULL)\n"
            f"pool = ProgramPool(workers=1, without={_NOTHING!r}, allow_weak_sandbox=True)\n"
            "pids = (victim.pid, os.getpid(), *pool.pool.pids)\n"
            "tests = {'inputs': [' '.join(map(str, pids))],"
            " 'outputs': ['read read read read' + ' held' * 8]}\n"
            f"verdict = pool.submit({program!r}, tests).result()\n"
            "victim.kill()\npool.close()\n"
            "print(json.dumps([verdict.reward, verdict.detail, verdict.sandbox]))\n"
        )
        self.assertEqual(found[:2], [1.0, ""], found)
        self.assertNotIn("own_user", found[2])


def _readable_by_nobody(interpreter):
    check = "import os, sys\nos.setuid(65534)\nassert sys.version_info >= (3, 11)\nimport decimal"
    try:
        return subprocess.run([interpreter, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    absltest.main()

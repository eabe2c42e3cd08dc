"""Programs that attack the verifier, each a named case: none is ever called right."""

# ruff: noqa: E501  (programs in tables)

import json
import os
import secrets
import tempfile

from absl.testing import absltest, parameterized

from restem.verify.programs.program_pool import ProgramPool
from restem.verify.sandbox.limits import Limits

_LIMITS = Limits(time_limit_s=1.0, program_limit_s=5.0, memory_mb=192, processes=16, output_mb=2,
                 file_mb=4, scratch_mb=8)  # fmt: skip


class PoolTest(parameterized.TestCase):
    """One worker for the whole class: an attack must not harm the programs after it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = ProgramPool(workers=1, limits=_LIMITS)
        cls.addClassCleanup(cls.pool.close)

    def grade(self, program, tests):
        return self.pool.submit(program, tests).result()

    def assert_pool_works(self):
        verdict = self.grade("print(int(input()) + 1)", {"inputs": ["4"], "outputs": ["5"]})
        self.assertEqual((verdict.reward, verdict.method), (1.0, "tests"), verdict.detail)


class ResourceAttackTest(PoolTest):
    @parameterized.named_parameters(
        ("infinite_loop", "while True: pass", {"timeout"}),
        ("sleep", "import time\ntime.sleep(1000)", {"timeout"}),
        ("sleep_after_the_answer", "print(5, flush=True)\nimport time\ntime.sleep(99)", {"timeout"}),
        ("thread_that_never_ends",
         "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nprint(5)",
         {"timeout"}),
        ("many_threads",
         "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
         {"error", "timeout", "memory"}),
        ("child_waited_for", "import os, time\nif os.fork(): os.wait()\nelse: time.sleep(99)",
         {"timeout"}),
        ("fork_bomb", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", {"timeout"}),
        ("memory_bomb", "x = []\nwhile True: x.append(bytearray(1 << 20))",
         {"memory", "timeout"}),
        ("huge_allocation", "x = bytearray(1 << 40)", {"memory"}),
        ("memory_bomb_in_children",
         "import os, time\nfor _ in range(12):\n  if os.fork() == 0:\n"
         "    x = bytearray(os.urandom(1 << 20)) * 64\n    time.sleep(99)\ntime.sleep(99)",
         {"memory", "timeout"}),
        ("big_integer", "x = 9**9**9\nprint(x)", {"timeout", "memory"}),
        ("disk_filling",
         "n = 0\nwhile True:\n  open(f'f{n}', 'wb').write(b'x' * 1000000)\n  n += 1", {"error"}),
        ("one_large_file",
         "f = open('f', 'wb')\nwhile True: f.write(b'x' * 1000000)", {"error"}),
        ("many_files", "n = 0\nwhile True:\n  open(f'f{n}', 'w').close()\n  n += 1",
         {"error", "timeout"}),
        ("output_flood", "while True: print('x' * 10000)", {"output"}),
        ("error_flood", "import sys\nwhile True: print('x' * 10000, file=sys.stderr)", {"output"}),
        ("output_flood_without_buffer", "import os\nwhile True: os.write(1, b'5' * 65536)", {"output"}),
        ("deep_recursion", "def f(): f()\nf()", {"error"}),
        ("deep_recursion_of_c_code",
         "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
         {"error", "memory", "timeout"}),
        ("segfault", "import ctypes\nctypes.string_at(0)", {"error"}),
        ("abort_after_the_answer", "import os\nprint(5, flush=True)\nos.abort()", {"error"}),
        ("crash_after_the_answer", "print(5)\n1/0", {"error"}),
        ("status_after_the_answer", "print(5)\nraise SystemExit(3)", {"error"}),
        ("kills_itself", "import os, signal\nprint(5, flush=True)\nos.kill(os.getpid(), 9)", {"error"}),
        ("swallowed_signals",
         "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
         "  except (OSError, ValueError): pass\nwhile True:\n  try:\n    while True: pass\n"
         "  except BaseException: pass", {"timeout"}),
        ("kills_its_init", "import os\nprint(5, flush=True)\nos.kill(1, 9)\nos.kill(-1, 9)\n"
         "while True: pass", {"timeout", "error"}),
        ("syntax_bomb", "(" * 50000, {"error"}),
        ("nul_in_the_source", "print(5)\0", {"error"}),
        ("lone_surrogate_in_the_source", "print('\ud800')", {"error", "tests"}),
        ("a_text_too_long", "#" * 200000 + "\nprint(5)", {"error"}),
    )  # fmt: skip
    def test_ends_in_its_limits(self, program, methods):
        verdict = self.grade(program, {"inputs": ["4"], "outputs": ["5"]})
        self.assertEqual(verdict.reward, 0.0)
        self.assertIn(verdict.method, methods, verdict.detail)
        self.assert_pool_works()

    @parameterized.named_parameters(
        ("power_of_two", "def f(x): return 2**1_000_000", {"tests"}),
        ("long_integer", "def f(x): return 1 << 8_000_000", {"output"}),
        ("long_integer_in_a_list", "def f(x): return [1 << 2_000_000]", {"tests", "output"}),
        ("long_key", "def f(x): return {1 << 2_000_000: 1}", {"tests", "output"}),
        ("fraction", "from fractions import Fraction\ndef f(x): return Fraction(3**20_000, 2**90_000)",
         {"error"}),
        ("decimal", "from decimal import Decimal\ndef f(x): return Decimal('1' * 900_000)", {"error"}),
        ("decimal_of_a_large_exponent", "from decimal import Decimal\n"
         "def f(x): return {Decimal('1e999999999'): 1}", {"tests"}),
        ("long_range", "def f(x): return range(10**18)", {"tests"}),
        ("long_text", "def f(x): return 'x' * 63_000_000", {"output", "memory", "timeout"}),
        ("long_list", "def f(x): return [0] * 500_000", {"output", "memory", "timeout"}),
        ("long_message", "def f(x): raise ValueError('x' * 10**7)", {"error"}),
        ("many_keys_of_one_hash", "def f(x): return {k * ((1 << 61) - 1) for k in range(1, 9**6)}",
         {"timeout", "output"}),
    )  # fmt: skip
    def test_values_cost_the_judge_little(self, program, methods):
        before = self.pool.pool.pids
        verdict = self.grade(program, {"fn_name": "f", "inputs": [[1]], "outputs": [[1]]})
        self.assertEqual(verdict.reward, 0.0)
        self.assertIn(verdict.method, methods, verdict.detail)
        test = "def check(candidate):\n    assert candidate(1) == 1\n"
        verdict = self.grade(program, {"entry_point": "f", "test": test})
        self.assertEqual(verdict.reward, 0.0)
        self.assertEqual(self.pool.pool.pids, before, "the supervisor was lost")
        self.assert_pool_works()

    @parameterized.named_parameters(
        ("set", '{"s": [%s]}', '{"i": "%x"}'),
        ("dictionary", '{"d": [%s]}', '[{"i": "%x"}, 1]'),
        ("counter", '{"c": [%s]}', '[{"i": "%x"}, 1]'),
        ("ordered_dictionary", '{"o": [%s]}', '[{"i": "%x"}, 1]'),
    )
    def test_keys_of_one_hash_end_in_time(self, whole, item):
        # The program writes the reply itself: 25,000 keys that all have hash 0.
        program = f"""
import json
real = json.dumps
body = {whole!r} % ",".join({item!r} % (k * ((1 << 61) - 1)) for k in range(1, 25_000))
def dumps(value, *rest, **more):
    if isinstance(value, dict) and "t" in value and value["t"][0] == "ok":
        return '{{"t": ["ok", "%s", %s]}}' % (value["t"][1], body)
    return real(value, *rest, **more)
json.dumps = dumps
def f(x): return 1
"""
        before = self.pool.pool.pids
        verdict = self.grade(program, {"fn_name": "f", "inputs": [[1]], "outputs": [[1]]})
        self.assertEqual((verdict.reward, verdict.method), (0.0, "output"), verdict.detail)
        self.assertIn("too long", verdict.detail)
        self.assertEqual(self.pool.pool.pids, before, "the supervisor was lost")
        self.assert_pool_works()

    def test_daemon_is_gone_when_its_program_is(self):
        daemon = """
import os, time
print(5, flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        while True: time.sleep(1)
    os._exit(0)
"""
        verdict = self.grade(daemon, {"inputs": ["4"], "outputs": ["5"]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)
        self.assert_pool_works()

    def test_second_test_of_a_program_finds_nothing_of_the_first_running(self):
        # In the first test a child waits and would answer for the second one.
        program = """
import os, time
if input() == "1":
    print("a")
    if os.fork() == 0:
        time.sleep(60)
else:
    print(len([p for p in os.listdir("/proc") if p.isdigit()]))
"""
        verdict = self.grade(program, {"inputs": ["1", "2"], "outputs": ["a", "2"]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)


class OutsideAttackTest(PoolTest):
    """A program prints "held" where it could do nothing; that is the expected output."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp(prefix="restem-test-")
        os.chmod(cls.folder, 0o777)
        cls.file = os.path.join(cls.folder, "file")
        with open(cls.file, "w") as file:
            file.write("precious")
        os.chmod(cls.file, 0o666)

    @classmethod
    def tearDownClass(cls):
        os.unlink(cls.file)
        os.rmdir(cls.folder)
        super().tearDownClass()

    @parameterized.named_parameters(
        ("read_a_file", "open(FILE).read()"),
        ("read_passwords", "open('/etc/passwd').read()"),
        ("write_a_file", "open(FILE, 'w').write('x')"),
        ("delete_a_file", "os.unlink(FILE)"),
        ("list_a_folder", "os.listdir(os.path.dirname(FILE))"),
        ("create_a_file", "open(FILE + '2', 'w')"),
        ("write_to_the_root", "open('/x', 'w')"),
        ("write_to_python", "open(os.__file__, 'a')"),
        ("reach_the_root_of_another", "os.listdir(os.path.join('/proc', str(PID), 'root', ''))"),
        ("read_its_environment", "open('/proc/%d/environ' % PID).read()"),
        ("read_the_kernel_log", "open('/dev/kmsg').read(1)"),
        ("open_a_disk", "open('/dev/vda', 'rb')"),
        ("signal", "os.kill(PID, 0)"),
        ("kill", "os.kill(PID, 9)"),
        ("ptrace_a_parent", "call('ptrace', 16, os.getppid(), 0, 0)"),
        ("ptrace_another", "call('ptrace', 16, PID, 0, 0)"),
        ("read_memory_of_another", "open('/proc/%d/mem' % PID, 'rb')"),
        ("write_memory_of_init", "open('/proc/1/mem', 'r+b')"),
        ("tcp", "__import__('socket').create_connection(('127.0.0.1', 80), 0.1)"),
        ("udp", "__import__('socket').socket(2, 2).sendto(b'x', ('169.254.169.254', 53))"),
        ("unix_socket", "__import__('socket').socket(1, 1)"),
        ("become_root", "os.setuid(0)"),
        ("mount", "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)"),
        ("user_namespace", "call('unshare', 0x10000000)"),
        ("chroot", "os.chroot('/')"),
        ("execute", "os.execv('/bin/sh', ['sh'])"),
        ("raise_its_limits", "__import__('resource').setrlimit(7, (4096, 4096))"),
        ("shared_memory", "call('shmget', 1, 4096, 0o1666)"),
        ("change_the_clock", "__import__('time').clock_settime(0, 0)"),
        ("change_the_host_name", "__import__('socket').sethostname('x')"),
    )  # fmt: skip
    def test_cannot(self, action):
        program = f"""
import ctypes, os
FILE, PID = {self.file!r}, {os.getpid()}
def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
try:
    print("achieved", {action})
except (OSError, ValueError):
    print("held")
"""
        verdict = self.grade(program, {"inputs": [""], "outputs": ["held"]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)
        with open(self.file) as file:
            self.assertEqual(file.read(), "precious")
        self.assertEqual(os.listdir(self.folder), ["file"])

    def test_sees_nothing_of_this_process(self):
        os.environ["RESTEM_TEST_SECRET"] = secrets.token_hex(8)
        self.addCleanup(os.environ.pop, "RESTEM_TEST_SECRET")
        program = "import os\nprint(*sorted(k for k in os.environ if k not in KNOWN))\n"
        known = {"PATH", "LANG", "HOME", "TMPDIR", "LC_CTYPE", "MALLOC_ARENA_MAX",
                 "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # fmt: skip
        verdict = self.grade(f"KNOWN = {known}\n{program}", {"inputs": [""], "outputs": [""]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)


_ALWAYS_EQUAL = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __len__(self): return 3
    def __iter__(self): return iter([])
    def __float__(self): return 0.0
    def __sub__(self, other): return 0
    __abs__ = lambda self: 0
"""
_SEARCH = """
import gc, glob, os, re, sys
def search():
    found = set()
    pattern = re.compile(rb"answer-[0-9a-f]{32}")
    for thing in gc.get_objects():
        for item in gc.get_referents(thing):
            if type(item) is str: found |= set(pattern.findall(item.encode("utf-8", "replace")))
            if type(item) is bytes: found |= set(pattern.findall(item))
    frame = sys._getframe()
    while frame:
        found |= set(pattern.findall(repr(frame.f_locals).encode()))
        found |= set(pattern.findall(repr(list(frame.f_globals)).encode()))
        frame = frame.f_back
    for fd in range(0, 256):
        try: found |= set(pattern.findall(os.pread(fd, 1 << 20, 0)))
        except OSError: pass
    names = glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + glob.glob("/tmp/*")
    for name in names + glob.glob("/proc/*/fd/*") + glob.glob("/*"):
        try: found |= set(pattern.findall(os.read(os.open(name, os.O_NONBLOCK), 1 << 20)))
        except OSError: pass
    for name in glob.glob("/proc/*/maps"):
        try:
            memory = open(name.replace("maps", "mem"), "rb")
            for line in open(name):
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                try:
                    memory.seek(low)
                    found |= set(pattern.findall(memory.read(min(high - low, 1 << 24))))
                except (OSError, ValueError, OverflowError): pass
        except OSError: pass
    return sorted(found)
"""


class ForgeryTest(PoolTest):
    """Programs that do not solve their problem and want to be called right."""

    def human_eval(self, program):
        tests = {
            "entry_point": "f",
            "test": "def check(candidate):\n    assert candidate(2) == 4\n"
            "    assert candidate(3) == 9\n    assert abs(candidate(0.5) - 0.25) < 1e-6\n",
        }
        return self.grade(program, tests)

    _FORGERIES = (
        ("exits_at_import", "import sys\nsys.exit(0)"),
        ("exits_hard_at_import", "import os\nos._exit(0)"),
        ("exits_when_called", "import sys\ndef f(x): sys.exit(0)"),
        ("exits_hard_when_called", "import os\ndef f(x): os._exit(0)"),
        ("exits_at_exit", "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0"),
        ("kills_init", "import os\ndef f(x): os.kill(1, 9)"),
        ("execs_true", "import os\nos.execv('/bin/true', ['true'])"),
        ("stops_itself", "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)"),
        ("always_equal_object", _ALWAYS_EQUAL + "def f(x): return Yes()"),
        ("always_equal_float", "class F(float):\n  __eq__ = lambda a, b: True\n"
         "  __sub__ = __rsub__ = lambda a, b: 0.0\ndef f(x): return F(7)"),
        ("always_equal_int", "class I(int):\n  __eq__ = lambda a, b: True\n  __hash__ = int.__hash__\n"
         "def f(x): return I(7)"),
        ("patched_builtins", "import builtins\nfor n in ('abs', 'all', 'any', 'len', 'isinstance'):\n"
         "  setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 0"),
        ("patched_assertion_error", "import builtins\nbuiltins.AssertionError = SystemExit\n"
         "def f(x): return 0"),
        ("patched_json", "import json\njson.dumps = lambda *a, **k: 'true'\n"
         "json.loads = lambda *a, **k: True\ndef f(x): return 0"),
        ("patched_modules", "import sys\nfor n in list(sys.modules): sys.modules[n] = None\n"
         "def f(x): return 0"),
        ("patched_codec", "import sys\nfor m in list(sys.modules.values()):\n"
         "  for n in ('encode', 'decode', 'frame', '_pack'):\n"
         "    if hasattr(m, n):\n      try: setattr(m, n, lambda *a, **k: b'\"ok\"')\n"
         "      except Exception: pass\ndef f(x): return 0"),
        ("patched_unittest", "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"
         "def f(x): return 0"),
        ("patched_operators", "import operator\noperator.eq = lambda *a: True\ndef f(x): return 0"),
        ("defines_check", "def check(candidate): pass\ndef f(x): return 0"),
        ("raises_system_exit_with_zero", "def f(x): raise SystemExit(0)"),
        ("raises_assertion_error", "def f(x): raise AssertionError"),
        ("forks_in_the_call", "import os\ndef f(x):\n  os.fork()\n  return 0"),
        ("writes_to_every_descriptor", "import os\ndef f(x):\n  for fd in range(64):\n"
         "    try: os.write(fd, b'\\x0d\\0\\0\\0{\"nonce\": \"\"}')\n    except OSError: pass\n  return 0"),
        ("answers_for_the_codec", "import os\ndef f(x):\n  for fd in range(3, 64):\n"
         "    try: os.write(fd, b'\\x10\\0\\0\\0{\"t\": [\"ok\", true]}')\n    except OSError: pass\n"
         "  os._exit(0)"),
        ("traces", "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
         "def f(x): return 0"),
        ("returns_nan", "def f(x): return float('nan')"),
        ("returns_a_generator", "def f(x):\n  while True: yield 4"),
        ("returns_a_function", "def f(x): return f"),
        ("returns_its_own_list_class", "class L(list):\n  __eq__ = lambda a, b: True\n"
         "def f(x): return L()"),
        ("returns_a_self_containing_list", "def f(x):\n  a = []\n  a.append(a)\n  return a"),
        ("returns_a_deep_list", "def f(x):\n  a = []\n  for _ in range(10**5): a = [a]\n  return a"),
        ("returns_too_much", "def f(x): return 'x' * (1 << 28)"),
    )  # fmt: skip

    @parameterized.named_parameters(*_FORGERIES)
    def test_human_eval_is_not_forged_by(self, program):
        verdict = self.human_eval(program)
        self.assertEqual(verdict.reward, 0.0)
        self.assertNotEqual(verdict.detail, "")

    @parameterized.named_parameters(*_FORGERIES)
    def test_calls_are_not_forged_by(self, program):
        tests = {"fn_name": "f", "inputs": [[2], [3]], "outputs": [[4], [9]]}
        self.assertEqual(self.grade(program, tests).reward, 0.0)

    @parameterized.named_parameters(
        ("always_true_set", "def set(x): return 0\ndef g(x): return x"),
        ("always_equal_result", _ALWAYS_EQUAL + "def g(x): return Yes()"),
        ("own_isclose", "import math\nmath.isclose = lambda *a, **k: True\ndef g(x): return 0"),
        ("exits", "import os\ndef g(x): os._exit(0)"),
    )
    def test_mbpp_is_not_forged_by(self, program):
        tests = {"test_list": ["assert set(g((1, 2))) == set((2, 3))",
                               "assert math.isclose(g(1), 2.5)"]}  # fmt: skip
        self.assertEqual(self.grade(program, tests).reward, 0.0)

    def test_helpers_of_the_prompt_cannot_be_replaced(self):
        # As in HumanEval/32: the test uses a helper that the prompt defines.
        prompt = 'def poly(x):\n    return x - 3\n\n\ndef root():\n    """Zero of poly."""\n'
        tests = {
            "prompt": prompt,
            "entry_point": "root",
            "test": "def check(candidate):\n    assert poly(candidate()) == 0\n",
        }
        self.assertEqual(self.grade("    return 3\n", tests).reward, 1.0)
        forged = "    return 5\n\n\ndef poly(x):\n    return 0\n"
        self.assertEqual(self.grade(forged, tests).reward, 0.0)
        # Without the prompt, the helper is the program's first, as where it begins with the prompt.
        del tests["prompt"]
        self.assertEqual(self.grade(prompt + "    return 3\n", tests).reward, 1.0)
        self.assertEqual(self.grade(prompt + forged, tests).reward, 0.0)

    def test_standard_output_cannot_be_stolen(self):
        # The expected output is nowhere that the program can look.
        secret = f"answer-{secrets.token_hex(16)}"
        program = _SEARCH + "print(*search() or ['nothing'])"
        verdict = self.grade(program, {"inputs": ["4"], "outputs": [secret]})
        self.assertEqual(verdict.reward, 0.0)
        self.assertIn("nothing", verdict.detail)

    def test_search_finds_what_is_there(self):
        # The search above is no straw man: it finds an answer that stands in the input.
        secret = f"answer-{secrets.token_hex(16)}"
        program = _SEARCH + "print(*[x.decode() for x in search()] or ['nothing'])"
        verdict = self.grade(program, {"inputs": [secret], "outputs": [secret]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)

    def test_expected_values_of_calls_cannot_be_stolen(self):
        secret = f"answer-{secrets.token_hex(16)}"
        program = _SEARCH + "def f(): return (search() or ['nothing'])[0].decode()"
        verdict = self.grade(program, {"fn_name": "f", "inputs": [[]], "outputs": [[secret]]})
        self.assertEqual(verdict.reward, 0.0)

    def test_expected_values_of_asserts_cannot_be_stolen(self):
        secret = f"answer-{secrets.token_hex(16)}"
        tests = {"entry_point": "f", "test": f"def check(c):\n    assert c() == {secret!r}\n"}
        program = _SEARCH + "def f(): return (search() or [b'nothing'])[0].decode()"
        verdict = self.grade(program, tests)
        self.assertEqual(verdict.reward, 0.0)
        self.assertEqual(verdict.method, "tests", verdict.detail)

    def test_tests_given_as_text(self):
        tests = json.dumps({"inputs": ["1"], "outputs": ["2"]})
        self.assertEqual(self.grade("print(int(input()) + 1)", tests).reward, 1.0)


if __name__ == "__main__":
    absltest.main()

"""What counts as waiting for other programs, and what /proc tells of processes."""

import os
import subprocess
import sys

from absl.testing import absltest, parameterized

from restem.verify.sandbox import process_tree
from restem.verify.sandbox.process_tree import Use

INIT = Use(0.0, 0.0, 0.0)


class ForeignWaitTest(parameterized.TestCase):
    """On one core, of a limit of 2 s; the program may go on for as long as the result says."""

    @parameterized.named_parameters(
        ("alone_on_a_core", [INIT, Use(2.0, 0.0, 0.0)], 0.0, 0.0),
        ("beside_another_program", [INIT, Use(1.0, 0.0, 1.0)], 0.0, 1.0),
        ("sleeps", [INIT, Use(0.0, 0.0, 0.0)], 0.0, 0.0),
        # Six processes of one program, each of which has had a sixth of the core.
        ("forks", [INIT, *[Use(1 / 3, 0.0, 5 / 3)] * 6], 0.0, 0.0),
        # The same on a core that another program keeps half busy.
        ("forks_beside_another", [INIT, *[Use(1 / 6, 0.0, 11 / 6)] * 6], 0.0, 1.0),
        # Children that work one after the other and end, while their parent is ready too.
        ("forks_children_that_end", [INIT, Use(0.5, 1.5, 1.5)], 0.0, 0.0),
        # Orphans are the jail's init to reap.
        ("forks_orphans_that_end", [Use(0.0, 1.5, 0.0), Use(0.5, 0.0, 1.5)], 0.0, 0.0),
        # What earlier tests of the program used is none of this one's.
        ("after_other_tests", [Use(0.0, 9.0, 0.0), Use(1.0, 0.0, 1.0)], 9.0, 1.0),
        ("nothing_left", [], 0.0, 0.0),
    )
    def test_of(self, uses, before, expected):
        self.assertAlmostEqual(process_tree.foreign_wait_s(uses, before), expected)


class ProcTest(parameterized.TestCase):
    def test_a_tree_of_processes(self):
        code = "import os, sys\nos.fork()\nos.write(1, b'%d\\n' % os.getpid())\nsys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            pids = {int(child.stdout.readline()) for _ in range(2)}
            self.assertEqual(pids - set(process_tree.below_children(os.getpid())), {child.pid})
            self.assertEqual(process_tree.parents()[child.pid], os.getpid())
            use = process_tree._use(child.pid)
            self.assertGreaterEqual(min(use.cpu_s, use.children_s, use.waited_s), 0.0)
            self.assertGreaterEqual(process_tree.wait_for_others_s(os.getpid(), 0.0), 0.0)
        self.assertIsNone(process_tree._use(child.pid))

    @parameterized.parameters("bytearray(SIZE)", "mmap.mmap(-1, SIZE)")
    def test_private_and_shared_memory(self, memory):
        size = 32 << 20
        wait = "print(flush=True)\nsys.stdin.readline()\n"
        code = (
            f"import mmap, sys\nSIZE = {size}\n{wait}memory = {memory}\n"
            f"for n in range(0, SIZE, 4096): memory[n] = 1\n{wait}"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            found = []
            for _ in range(2):
                child.stdout.readline()
                found.append(process_tree.resident_bytes(child.pid))
                child.stdin.write("\n")
                child.stdin.flush()
        self.assertAlmostEqual(found[1] - found[0], size, delta=8 << 20)
        self.assertEqual(process_tree.resident_bytes(child.pid), 0)


if __name__ == "__main__":
    absltest.main()

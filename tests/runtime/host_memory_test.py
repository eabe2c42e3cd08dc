"""The memory of a machine or container; freed memory goes back to the system."""

import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
from absl.testing import absltest

from restem.runtime import host_memory


def resident_mb():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class GiveBackTest(absltest.TestCase):
    def test_freed_pieces_between_kept_ones(self):
        """Pieces too small for mappings of their own, every second one of which is freed."""
        pieces = [np.ones(16_000, np.float32) for _ in range(4000)]  # 64 kB each
        del pieces[::2]
        before = resident_mb()
        host_memory.give_back()
        self.assertLess(resident_mb(), before - 80)  # of 122 MB
        self.assertLen(pieces, 2000)


class KeepFreedTest(absltest.TestCase):
    def faults(self, platform, gigabytes):
        """Returns page faults of a thread that allocates 100 and 20 MB ten times more."""
        program = """
            import resource, sys, threading
            from restem.runtime import host_memory
            assert "numpy" not in sys.modules, "threads of NumPy have heaps of their own"
            host_memory.total = lambda: int(sys.argv[1]) << 30
            host_memory.keep_freed()

            def work():
                def use():
                    return b"x" * (100 << 20), b"x" * (20 << 20)
                use()
                before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
                for _ in range(10):
                    use()
                print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        """
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(gigabytes)],
            env={**os.environ, "JAX_PLATFORMS": platform}, check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        return int(found.stdout)

    def test_freed_memory_is_used_again(self):
        kept = self.faults("cpu", 16)
        self.assertLess(kept, self.faults("tpu", 16) / 10)
        self.assertLess(kept, self.faults("cpu", 8) / 10)


class TotalTest(absltest.TestCase):
    def test_the_limit_of_a_container_counts_where_it_has_one(self):
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        none = self.create_tempdir()
        self.assertEqual(host_memory.total(none.full_path), machine)
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            root = self.create_tempdir()
            root.create_file(name, "4194304\n")
            self.assertEqual(host_memory.total(root.full_path), 4194304)
        for unlimited in ("max\n", "9223372036854771712\n"):
            root = self.create_tempdir()
            root.create_file("memory.max", unlimited)
            self.assertEqual(host_memory.total(root.full_path), machine)


if __name__ == "__main__":
    absltest.main()

"""Freed memory goes back to the system."""

import pathlib

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


if __name__ == "__main__":
    absltest.main()

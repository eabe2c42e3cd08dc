"""The steps between sampling and training hold a shard at a time, however many there are."""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]


class MemoryTest(absltest.TestCase):
    def test_twenty_shards_take_the_memory_of_two(self):
        output = subprocess.run(
            [sys.executable, "benchmarks/scale.py", "--samples=40960", "--over_mb=100",
             f"--folder={self.create_tempdir().full_path}"],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1",
                 "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
                 "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.assertEqual(output.returncode, 0, output.stdout[-3000:])
        for step in ("counts", "selection", "contamination", "packing", "summary", "report"):
            self.assertIn(f"{step}: within the limit", output.stdout)
        # Holding all samples at once is what the limit forbids.
        self.assertIn("everything: beyond the limit", output.stdout)


if __name__ == "__main__":
    absltest.main()

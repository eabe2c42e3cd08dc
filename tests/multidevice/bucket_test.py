"""A run whose folder, base policy and checkpoints are in a bucket."""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]


class BucketTest(absltest.TestCase):
    def test_a_whole_run(self):
        done = subprocess.run(
            [sys.executable, "-m", "tests.multidevice.bucket_run"],
            cwd=ROOT, capture_output=True, text=True, timeout=900,
            env={
                # Compiled programs go to the bucket.
                **{k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"},
                "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "PYTHONPATH": str(ROOT), "EPATH_USE_TF": "false",
            },
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-5000:])


if __name__ == "__main__":
    absltest.main()

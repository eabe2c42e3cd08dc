"""The script for a GPU works, shown on a CPU with a tiny model."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "gpu.py"


class GpuTest(absltest.TestCase):
    def test_sections_report_their_figures(self):
        names = ("machine", "decode", "train")
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--tiny", "--sections", *names],
            capture_output=True, text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        *sections, last = map(json.loads, done.stdout.splitlines())
        self.assertEqual([s["section"] for s in sections], list(names))
        for section in sections:
            self.assertNotIn("error", section)
        machine, decode, train = sections
        self.assertGreater(machine["flops"], 0)
        self.assertEqual(
            [(c["slots"], c["unstacked"], c["steps_per_visit"]) for c in decode["cases"]],
            [(8, False, 8), (8, True, 8), (16, False, 8), (16, True, 8), (8, False, 1),
             (8, False, 32)],
        )  # fmt: skip
        for case in decode["cases"]:
            self.assertGreater(case["tokens_per_second"], 0)
        self.assertEqual([c["remat"] for c in train["cases"]], ["full", "dots"])
        self.assertEqual(
            set(last["summary"]), {"share_of_bandwidth", "tokens_per_second", "share_of_flops"}
        )


if __name__ == "__main__":
    absltest.main()

"""A program's process ends as a newly started interpreter does: what is flushed, and the status."""

# ruff: noqa: E501  (programs in tables)

import subprocess
import sys

from absl.testing import absltest, parameterized

from tests.helpers.program_pools import PoolTest


class EndTest(PoolTest):
    @parameterized.named_parameters(
        ("closed", "import sys\nsys.stdout.write('7')\nsys.stdout.close()", 0),
        ("closed_by_with", "import sys\nwith sys.stdout as out: out.write('7')", 0),
        ("both_closed", "import sys\nprint(7)\nsys.stderr.close()\nsys.stdout.close()", 0),
        ("printed_after_it_was_closed", "import sys\nsys.stdout.close()\nprint(7)", 1),
        ("file_closed", "import sys\nf = open('/dev/stdout', 'w')\nf.write('7')\nf.close()", 0),
        ("detached", "import sys\nsys.stdout.write('7')\nsys.stdout.flush()\nsys.stdout = sys.stdout.detach()", 0),
        ("object_without_a_hash",
         "import sys\nclass Out:\n  __eq__ = lambda a, b: True\n  flush = lambda self: None\n"
         "print(7)\nsys.stdout.flush()\nsys.stdout = Out()", 0),
        ("object_that_cannot_flush", "import sys\nclass Out: pass\nprint(7)\nsys.stdout = Out()", 120),
    )  # fmt: skip
    def test_status(self, program, status):
        python = subprocess.run([sys.executable, "-c", program], capture_output=True)
        self.assertEqual(python.returncode, status, python.stderr)
        verdict = self.grade(program, {"inputs": [""], "outputs": ["7"]})
        self.assertEqual(verdict.reward, float(status == 0), verdict.detail)
        if status:
            self.assertIn(f"exit status {status}", verdict.detail)


if __name__ == "__main__":
    absltest.main()

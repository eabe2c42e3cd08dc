"""The table of methods over seeds, from the summaries of finished runs."""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "methods.py"


def summary(*scores: float, task: str = "arithmetic") -> dict:
    """Returns the summary of a run with these test scores, base first."""
    evaluated = [{"evals": {task: {"pass@1": score}}} for score in scores]
    for iteration in evaluated[1:]:
        iteration["generate"] = {"samples": 90, "seconds": 20.0}
        iteration["train"] = {"examples": 30, "seconds": 40.0}
    return {"iterations": evaluated}


class MethodsTest(absltest.TestCase):
    def test_mean_and_interval_over_seeds(self):
        with tempfile.TemporaryDirectory() as folder:
            for seed, scores in enumerate([(0.4, 0.5, 0.6), (0.4, 0.6, 0.5), (0.4, 0.6, 0.7)]):
                run = pathlib.Path(folder, f"seed_{seed}", "restem")
                run.mkdir(parents=True)
                (run / "summary.json").write_text(json.dumps(summary(*scores)))
            done = subprocess.run(
                [sys.executable, str(SCRIPT), f"--workdir={folder}", "--table"],
                capture_output=True, text=True,
            )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        # Gains of 20, 10 and 30 points: 20 +- 4.303 (Student's t, 2 degrees) x 10 / 3^.5.
        self.assertEqual(
            done.stdout.splitlines()[2:],
            [
                "| the base policy | | | | | 40.0, 40.0, 40.0 | **40.0** | |",
                "| `restem` | 2 | 180 | 60 | 120 | 60.0, 50.0, 70.0 | **60.0** "
                "| +20.0 (-4.8 to +44.8) |",
            ],
        )

    def test_one_seed_has_the_test_over_problems(self):
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder, "seed_0", "rft")
            run.mkdir(parents=True)
            finished = summary(0.09, 0.168, task="math")
            paired = {"ci": [0.049, 0.108], "p_value": 7.5e-07}
            finished["iterations"][-1]["versus_base"] = {"math": {"greedy": paired}}
            (run / "summary.json").write_text(json.dumps(finished))
            done = subprocess.run(
                [sys.executable, str(SCRIPT), f"--workdir={folder}", "--table", "--methods", "rft"],
                capture_output=True, text=True,
            )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            done.stdout.splitlines()[3],
            "| `rft` | 1 | 90 | 30 | 60 | 16.8 | **16.8** | +7.8 (+4.9 to +10.8), p = 7.5e-07 |",
        )

    def test_distillation_needs_a_teacher(self):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--workdir=unused"], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("distill needs --teacher", done.stderr)


if __name__ == "__main__":
    absltest.main()

"""The table of methods over seeds, from the summaries of finished runs."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "methods.py"


def load():
    """Returns the script as a module."""
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(*scores: float, task: str = "arithmetic") -> dict:
    """Returns the summary of a run with these test scores, base first."""
    evaluated = [
        {"iteration": i, "evals": {f"{task}.train": {"pass@1": 0.9}, task: {"pass@1": score}}}
        for i, score in enumerate(scores)
    ]
    for iteration in evaluated[1:]:
        iteration["generate"] = {"samples": 90, "seconds": 20.0}
        iteration["train"] = {"examples": 30, "seconds": 40.0}
    return {"iterations": evaluated, "task": task}


def write(run: pathlib.Path, found: dict, iterations: int) -> None:
    """Writes what a run of so many iterations leaves behind that made those of a summary."""
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(found))
    (run / "operative_config.gin").write_text(
        f"em.evaluate_every = 1\nem.iterations = {iterations}\n"
    )


def spent(bindings: list[str], problems: int) -> int:
    """Returns the samples that a method's bindings spend."""
    found = dict(binding.split("=") for binding in bindings)
    number = lambda name, default: int(found.get(name, default))
    steps = number("em.iterations", 1) // number("em.generate_every", 1)
    batch = number("em.problems_per_iteration", problems)
    return steps * number("generate.num_samples", 0) * batch


class MethodsTest(absltest.TestCase):
    def test_mean_and_interval_over_seeds(self):
        with tempfile.TemporaryDirectory() as folder:
            for seed, scores in enumerate([(0.4, 0.5, 0.6), (0.4, 0.6, 0.5), (0.4, 0.6, 0.7)]):
                run = pathlib.Path(folder, f"seed_{seed}", "restem")
                write(run, summary(*scores), 2)
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
            finished = summary(0.09, 0.168, task="math")
            paired = {"ci": [0.049, 0.108], "p_value": 7.5e-07}
            finished["iterations"][-1]["versus_base"] = {"math": {"greedy": paired}}
            write(run, finished, 1)
            done = subprocess.run(
                [sys.executable, str(SCRIPT), f"--workdir={folder}", "--table", "--methods", "rft"],
                capture_output=True, text=True,
            )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            done.stdout.splitlines()[3],
            "| `rft` | 1 | 90 | 30 | 60 | 16.8 | **16.8** | +7.8 (+4.9 to +10.8), p = 7.5e-07 |",
        )

    def test_a_run_that_is_not_finished_is_left_out(self):
        with tempfile.TemporaryDirectory() as folder:
            for seed, (scores, iterations) in enumerate([((0.4, 0.5, 0.6), 2), ((0.4, 0.6), 2)]):
                write(pathlib.Path(folder, f"seed_{seed}", "restem"), summary(*scores), iterations)
            started = pathlib.Path(folder, "seed_2", "restem")
            started.mkdir(parents=True)
            (started / "summary.json").write_text(json.dumps(summary(0.4, 0.9)))
            done = subprocess.run(
                [sys.executable, str(SCRIPT), f"--workdir={folder}", "--table"],
                capture_output=True, text=True,
            )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| 60.0 | **60.0** | +20.0 |", done.stdout)
        self.assertEqual(done.stderr.count("not finished"), 2)

    def test_every_method_spends_the_budget(self):
        methods = load()
        samplers = ("restem", "rest", "rft", "iml", "raft", "rwr", "exit", "self_improve", "trice")
        for problems, samples, iterations in ((30, 6, 2), (30, 4, 2), (32, 8, 4), (60, 12, 3)):
            self.assertIsNone(methods.indivisible(samplers, problems, samples, iterations))
            found = methods.settings(problems, samples, iterations)
            for name in samplers:
                budget = spent(found[name], problems)
                self.assertEqual(budget, problems * samples, (name, problems, samples))

    def test_what_finished_runs_were_started_with(self):
        found = load().settings(30, 6, 2)
        batches = ["em.iterations=6", "generate.num_samples=3", "em.problems_per_iteration=10",
                   "em.evaluate_every=6"]  # fmt: skip
        self.assertEqual(found["iml"], batches)
        self.assertEqual(found["raft"], batches)
        self.assertEqual(found["star"], ["em.iterations=3", "generate.num_samples=1"])
        self.assertEqual(
            found["restem"], ["em.iterations=2", "generate.num_samples=3", "select.cap=2"]
        )

    def test_a_budget_that_does_not_divide_is_refused(self):
        for flags, message in (
            (["--samples=5"], "restem, rwr, exit: dividing --samples=5 by --iterations=2"),
            (["--samples=5", "--methods", "star"], "star: dividing --samples=5 by 2"),
            (["--problems=64", "--methods", "iml"], "iml: dividing --problems=64 by half of"),
        ):
            done = subprocess.run(
                [sys.executable, str(SCRIPT), "--workdir=unused", "--teacher=x", *flags],
                capture_output=True, text=True,
            )  # fmt: skip
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)

    def test_distillation_needs_a_teacher(self):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--workdir=unused"], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("distill needs --teacher", done.stderr)


if __name__ == "__main__":
    absltest.main()

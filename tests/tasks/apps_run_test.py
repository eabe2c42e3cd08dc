"""`restem_apps.gin` end to end: programs are sampled, run in jails, selected and trained on."""

import json
import os
import pathlib

import gin
from absl.testing import absltest

from restem import em, records
from restem.cli.gin_files import parse_gin
from restem.data import registry
from restem.records import Problem, TaskCard
from restem.run import reader, run, shards, summary
from restem.runtime import storage
from restem.steps.settings import Settings
from restem.tasks.apps import HOLD_OUT
from restem.verify import close_shared
from restem.verify.sandbox import layers
from tests.helpers import compilation, run_files, tiny

# The real prompt is 1,500 tokens for a vocabulary of bytes.
PREFIX = "QUESTION:\nPrint 1.\n\nUse Standard Input format\n\nANSWER:\nprint(1)\n\n"
SOLUTION = "print(input())\n"
SETTINGS = (
    "ITERATIONS = 1",
    "apps.validation_size = 2",
    "generate.num_samples = 4",
    "generate.extend = @HumanSolutions()",
    "Run.e_step_slots = 8",
    "select.cap = 2",
    "adamw.learning_rate = 1e-2",
    "improve.epochs = 30",
    "improve.validate_every = 30",
    "improve.batch_examples = 6",
    "improve.row_length = 128",
    "improve.rows_per_batch = 6",
    "Run.m_step_slots = 8",
)


def setUpModule():
    os.environ["JAX_PLATFORMS"] = "cpu"
    compilation.begin()


def tearDownModule():
    compilation.end()
    close_shared()
    gin.clear_config()


def write_data(folder: pathlib.Path) -> None:
    """Problems in the published layouts; all of APPS's are solved by printing the line read."""
    rows = [
        {
            "problem_id": i,
            "question": f"Print word {i}.",
            "input_output": json.dumps({"inputs": [f"w{i}\n", "x\n"], "outputs": [f"w{i}", "x"]}),
            "solutions": json.dumps([SOLUTION]),
            "source_file": HOLD_OUT if i >= 8 else "data/apps/train.parquet",
        }
        for i in range(11)
    ]
    functions = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f'def same(x):\n    """Returns x + {i}."""\n',
            "entry_point": "same",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(candidate):\n    assert candidate(3) == 3 + {i}\n",
        }
        for i in range(2)
    ]
    for name, lines in (("apps/train_introductory", rows), ("humaneval/test", functions)):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def problems_of(task: str, splits, folder: pathlib.Path) -> tuple[TaskCard, list[Problem]]:
    """What SeqIO would materialise, without TensorFlow."""
    spec = registry.get(task)
    problems = []
    for split in splits:
        found = spec.source(split, data_dir=str(folder))
        for row in getattr(found, "rows", found):
            problems.append(Problem(split=split, **row))
    prefix = PREFIX if task == "apps" else ""
    card = TaskCard(task, prefix, spec.stop, grader=dict(spec.grader), max_new_tokens=20)
    return card, problems


class AppsRunTest(absltest.TestCase):
    def test_programs_are_run_selected_and_learned_from(self):
        folder = pathlib.Path(self.create_tempdir().full_path)
        write_data(folder / "data")
        base = tiny.save_policy(folder / "base")
        parse_gin(["restem_apps.gin"], [f"MODEL = '{base}'", *SETTINGS])
        settings = Settings.from_gin()
        this = run.Run(str(folder / "run"), settings.run)
        run_files.write_problems(this.files, *problems_of("apps", registry.SPLITS, folder / "data"))
        run_files.write_problems(this.files, *problems_of("humaneval", ("test",), folder / "data"))
        em.em(run=this, settings=settings)

        directory = this.directory(1)
        samples = reader.read_samples(directory)
        with self.subTest("what a random policy writes is run, and is no program"):
            written = [s for s in samples if s.source == "policy"]
            self.assertLen(written, 6 * 4)
            self.assertEqual({s.reward for s in written}, {0.0})
            self.assertContainsSubset({s.verdict.method for s in written}, {"tests", "error"})
            self.assertIn("SyntaxError", " ".join(s.verdict.detail for s in written))
        with self.subTest("the run says what isolated the programs"):
            generation = storage.read_json(directory.generation)
            self.assertEqual(generation["sandbox"], layers.in_force())
            self.assertEmpty(layers.missing(layers.layers()))
        with self.subTest("human solutions are what is kept"):
            examples = list(shards.StoredExamples(directory))
            self.assertEqual([e.targets for e in examples], [SOLUTION] * 6)
        with self.subTest("the trained policy writes programs that pass"):
            report = storage.read_json(directory.improvement)
            self.assertEqual(report["validation"][0][1], 0.0)
            self.assertGreater(report["best_validation"], 0.0)
            before, after = (
                e["evals"]
                for e in summary.summarize(reader.read_run(this.files.path))["iterations"]
            )
            self.assertEqual((before["apps"]["correct"], before["apps"]["n"]), (0, 3))
            self.assertGreaterEqual(after["apps"]["correct"], 2)
        with self.subTest("functions of HumanEval are called"):
            self.assertEqual(after["humaneval"]["n"], 2)
            answers = records.samples_from_table(storage.read_table(directory.answers("humaneval")))
            self.assertEqual([a.problem_id for a in answers], ["HumanEval/0", "HumanEval/1"])
            self.assertContainsSubset({a.verdict.method for a in answers}, {"tests", "error"})


if __name__ == "__main__":
    absltest.main()

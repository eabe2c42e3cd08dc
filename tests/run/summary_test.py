"""The table at the end of a run, where files are damaged."""

import io
import json

import rich.console
from absl.testing import absltest, parameterized
from etils import epath

from restem.run import layout, reader, summary
from restem.runtime import storage
from tests.helpers.synthetic_run import SyntheticRun


class DamagedTest(parameterized.TestCase):
    def shown(self, damage) -> str:
        """Returns the table of a run of which `damage` changes the files of iteration 1."""
        folder = epath.Path(self.create_tempdir().full_path) / "run"
        SyntheticRun(skills=(-0.8, 0.5), problems=8, samples=2, tests=8, n=2, with_bbh=True).write(
            folder
        )
        damage(layout.Workdir(folder).iteration(1))
        found = summary.summarize(reader.read_run(folder))
        console = rich.console.Console(file=io.StringIO(), width=200)
        console.print(summary.table(found))
        return console.file.getvalue()

    @parameterized.parameters("pass@1", "ci95", "n", "mean_reward", "correct")
    def test_an_evaluation_without_a_number(self, missing):
        def damage(files):
            for path in (files.path / "evals").glob("*.json"):
                values = storage.read_json(path)
                del values[missing]
                storage.write_json(path, values)

        self.assertIn("iteration 1", self.shown(damage))

    @parameterized.parameters(
        ({}, ""),
        ({"kept": 3}, "3"),
        ({"correct": 4, "sampled": 16, "kept": 3}, "4 of 16"),
        ({"correct": "4", "sampled": [], "kept": None}, ""),
    )
    def test_a_selection_without_counts(self, counts, expected):
        text = self.shown(lambda files: files.selection.write_text(json.dumps(counts)))
        (line,) = [line for line in text.splitlines() if line.strip().startswith("iteration 1")][:1]
        self.assertIn(expected, line)

    def test_samples_that_no_gold_answer_graded_are_not_called_incorrect(self):
        def without_gold(files):
            run = layout.Workdir(files.path.parent)
            identity = storage.read_json(run.identity)
            identity["settings"]["generate.grading"] = {"WithoutGold": {}}
            storage.write_json(run.identity, identity)

        text = self.shown(without_gold)
        self.assertIn("samples", text)
        self.assertNotIn("correct", text)
        self.assertNotIn("0 of 16", text)


if __name__ == "__main__":
    absltest.main()

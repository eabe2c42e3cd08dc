"""The files of `restem init`: a task that runs as it is."""

import os
import pathlib

import gin
from absl.testing import absltest, parameterized

from restem.cli.gin_files import parse_gin
from restem.data import sources
from restem.errors import UserError
from restem.run import run
from restem.run.settings import RunSettings, from_gin
from restem.tasks import new_task
from restem.verify import Verifier


class NewTaskTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        self.addCleanup(gin.clear_config)
        os.chdir(self.create_tempdir().full_path)

    def test_what_is_written_is_a_task_whose_solutions_are_right(self):
        written = new_task.write("mine")
        names = ["mine/mine.gin", "mine/problems.jsonl", "mine/prompt.txt"]
        self.assertEqual([str(path) for path in written], names)
        self.assertNotIn("NAME", "".join(path.read_text() for path in written))
        parse_gin(["mine/mine.gin"], [])
        this = run.Run("runs/mine", from_gin(RunSettings))
        self.assertEqual((this.task, this.evaluations), ("mine", ("mine",)))
        card, problems = sources.materialize("mine")
        sizes = {s: sum(p.split == s for p in problems) for s in ("train", "validation", "test")}
        self.assertEqual(sizes, {"train": 40, "validation": 16, "test": 24})
        self.assertLen({p.inputs for p in problems}, 80)
        self.assertStartsWith(card.prefix, "Q: ")
        with Verifier(grader=card.grader) as verifier:
            verdicts = verifier.grade(problems, [p.solutions[0] for p in problems])
            shifted = verifier.grade(
                problems, [p.solutions[0] for p in problems[1:] + problems[:1]]
            )
        self.assertEqual({v.reward for v in verdicts}, {1.0})
        self.assertLess(sum(v.reward for v in shifted), 8)
        # The shots are in the form of the template, and of the solutions.
        for shot in card.prefix.strip().split("\n\n"):
            self.assertRegex(shot, r"\AQ: How many .*\?\nA: .*\. The answer is \d+\.\Z")

    @parameterized.parameters(
        ("a b", "a name is letters"),
        ("1st", "a name is letters"),
        ("../up", "a name is letters"),
        ("math", "there is a task math"),
        ("bbh_cot", "there is a task bbh_cot"),
        ("taken", "taken exists"),
    )
    def test_names_that_are_refused(self, name, message):
        pathlib.Path("taken").mkdir()
        with self.assertRaisesRegex(UserError, f"init {name}: {message}"):
            new_task.write(name)
        self.assertEqual(os.listdir("."), ["taken"])


if __name__ == "__main__":
    absltest.main()

"""A dry run shows the settings of a run, and its next step."""

import pathlib

import gin
from absl.testing import absltest

from restem.cli import dry_run
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.run import run
from restem.runtime import storage
from restem.runtime.progress import CONSOLE
from restem.steps.settings import Settings
from tests.helpers import toys


class DryRunTest(toys.ToyTest):
    def shown(self, *bindings) -> str:
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        parse_gin(["restem_demo.gin"], bindings)
        settings = Settings.from_gin()
        self.this = run.Run(self.folder, settings.run)
        with CONSOLE.capture() as output:
            self.assertEqual(dry_run.show(self.this, settings), 0)
        return output.get()

    def setUp(self):
        super().setUp()
        self.folder = self.create_tempdir().full_path

    def test_every_setting_is_shown(self):
        output = self.shown("em.iterations=5", "select.cap=7", "improve.save_every=3")
        fixed, changeable = output.split("settings that may change when it is resumed")
        self.assertIn("select.cap = 7\n", fixed)
        self.assertIn("adamw.learning_rate = 5e-05\n", fixed)
        self.assertIn("em.iterations = 5\n", changeable)
        self.assertIn("improve.save_every = 3\n", changeable)
        self.assertEmpty(list(pathlib.Path(self.folder).iterdir()))

    def test_one_step_needs_no_test_problems(self):
        toys.add(source=lambda split: [{"inputs": "a"}], splits=("train",))
        with self.assertRaisesRegex(UserError, "task toy has no test problems"):
            self.shown("Run.task='toy'")
        with CONSOLE.capture() as output:
            dry_run.show(self.this, Settings.from_gin(), "generate (iteration 1)")
        self.assertIn("next: generate (iteration 1)\n", output.get())

    def test_a_task_that_does_not_exist_is_refused_and_a_missing_policy_named(self):
        with self.assertRaisesRegex(UserError, "no task named 'mth'"):
            self.shown("Run.task='mth'")
        with self.assertRaisesRegex(UserError, "no task named 'gsm9k'"):
            self.shown("Run.evaluate_on=('gsm9k',)")
        output = self.shown("MODEL='hf:/no/such/folder'")
        self.assertIn("warning: the base policy cannot be read here: /no/such/folder", output)

    def test_files_of_a_task_are_read(self):
        path = pathlib.Path(self.folder, "mine.jsonl")
        path.write_text('{"question": "1 + 1", "answer": "2"}\n')
        with self.assertRaisesRegex(UserError, "line 1: no field 'problem'"):
            self.shown("Run.task='mine'", f"mine/file_task.path='{path}'")

    def test_the_next_step(self):
        bindings = ("em.iterations=3", "em.evaluate_every=3", "em.generate_every=2")
        self.shown(*bindings)
        of = self.this.directory
        for done, following in (
            (of(0).evaluation("arithmetic"), "generate (iteration 1)"),
            (of(1).generation, "select (iteration 1)"),
            (of(1).selection, "improve (iteration 1)"),
            (of(1).improvement, "select (iteration 2)"),
            (of(2).selection, "improve (iteration 2)"),
            (of(2).improvement, "generate (iteration 3)"),
            (of(3).generation, "select (iteration 3)"),
            (of(3).selection, "improve (iteration 3)"),
            (of(3).improvement, "evaluate (iteration 3)"),
            (of(3).evaluation("arithmetic"), "nothing, all is done"),
        ):
            storage.write_json(done, {})
            self.assertIn(f"iterations    3; next: {following}\n", self.shown(*bindings))


if __name__ == "__main__":
    absltest.main()

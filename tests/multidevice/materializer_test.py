"""Tasks are materialised in a child process that knows the run's bindings and modules."""

import os
import pathlib
import sys
from unittest import mock

import gin
from absl.testing import absltest
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import records
from restem.data.materializer import materialize
from restem.errors import UserError
from restem.runtime import storage

MODULE = """
from restem.data import registry

registry.add("three", source=lambda split: [{"inputs": str(i)} for i in range(3)])
"""

WAITING = """
import pathlib, time
from restem.data import registry

def source(split):
    deadline = time.monotonic() + 60
    while not pathlib.Path(__file__).with_name("opened").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [{"inputs": str(i)} for i in range(3)]

registry.add("waits", source=source)
"""


class MaterializerTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        self.root = epath.Path(self.create_tempdir().full_path)
        cache = {"RESTEM_CACHE_DIR": str(self.root / "cache")}  # nothing was read before
        self.enterContext(mock.patch.dict(os.environ, cache))

    def read(self, name):
        return records.problems_from_table(storage.read_table(self.root / name))

    def test_gin_bindings_and_modules_reach_the_child(self):
        pathlib.Path(self.root, "their_tasks.py").write_text(MODULE)
        path = self.root / "mine.jsonl"
        path.write_text('{"problem": "1+1?", "answer": 2}\n')
        gin.parse_config(
            f"mine/file_task.path = '{path}'\narithmetic.sizes = {{'test': 4}}\n"
            "mine/file_task.max_new_tokens = 5"
        )
        with mock.patch.object(sys, "path", [*sys.path, str(self.root)]):
            materialize(
                {
                    self.root / "mine.parquet": {"task": "mine"},
                    self.root / "arithmetic.parquet": {"task": "arithmetic", "splits": ["test"]},
                    self.root / "three.parquet": {"task": "three", "limits": {"train": 2}},
                },
                modules=["restem.tasks", "their_tasks"],
            )
        card, problems = self.read("mine.parquet")
        self.assertEqual((card.max_new_tokens, problems[0].answer), (5, "2"))
        self.assertLen(self.read("arithmetic.parquet")[1], 4)
        splits = [p.split for p in self.read("three.parquet")[1]]
        self.assertEqual(splits, ["train"] * 2 + ["validation"] * 3 + ["test"] * 3)

    def test_errors_of_the_child_are_one_line(self):
        path = self.root / "mine.jsonl"
        path.write_text('{"problem": "1+1?"}\n{"problem": }\n')
        gin.parse_config(f"mine/file_task.path = '{path}'")
        with self.assertRaisesRegex(UserError, r"mine.jsonl, line 2: not JSON") as caught:
            materialize({self.root / "mine.parquet": {"task": "mine"}}, modules=["restem.tasks"])
        self.assertNotIn("\n", str(caught.exception))
        self.assertFalse((self.root / "mine.parquet").exists())
        with self.assertRaisesRegex(UserError, "materialising mine failed .*no_such_module"):
            materialize({self.root / "mine.parquet": {"task": "mine"}}, modules=["no_such_module"])

    def test_the_parent_works_while_the_child_reads(self):
        pathlib.Path(self.root, "waiting_task.py").write_text(WAITING)
        with mock.patch.object(sys, "path", [*sys.path, str(self.root)]):
            materialize(
                {self.root / "waits.parquet": {"task": "waits"}},
                modules=["waiting_task"],
                meanwhile=pathlib.Path(self.root, "opened").touch,
            )
        self.assertNotEmpty(self.read("waits.parquet")[1])

    def test_nothing_to_do_starts_no_process(self):
        meanwhile = mock.Mock()
        with mock.patch("subprocess.run") as run:
            materialize({}, modules=["restem.tasks"], meanwhile=meanwhile)
        run.assert_not_called()
        meanwhile.assert_not_called()


if __name__ == "__main__":
    absltest.main()

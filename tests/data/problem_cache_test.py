"""Problems that were read before are read again only if what they depend on has changed."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
from unittest import mock

import gin
from absl.testing import absltest
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import records
from restem.data import materializer, problem_cache, registry
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.runtime import storage


class ProblemCacheTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        self.root = pathlib.Path(self.create_tempdir().full_path)
        self.data = self.root / "data"
        self.data.mkdir()
        (self.data / "file").write_text("1")
        cache = mock.patch.dict(os.environ, RESTEM_CACHE_DIR=str(self.root / "cache"))
        self.enterContext(cache)
        self.children = []
        self.enterContext(mock.patch.object(materializer.subprocess, "run", self.child))

    def child(self, command, *, input, **options):
        """Writes one problem per request, named after the number of the child."""
        message = json.loads(input)
        self.children.append([request["task"] for _, request in message["requests"]])
        problem = Problem(f"p{len(self.children)}", "test", "1+1")
        for path, request in message["requests"]:
            table = records.problems_to_table([problem], TaskCard(task=request["task"]))
            storage.write_table(epath.Path(path), table)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    def read(self, **request):
        """The id of the problem that a new run reads."""
        path = epath.Path(self.root / f"run{len(list(self.root.iterdir()))}.parquet")
        request = {"task": "arithmetic", "data_dir": str(self.data), "seed": 0, **request}
        materializer.materialize({path: request})
        _, (problem,) = records.problems_from_table(storage.read_table(path))
        return problem.problem_id

    def test_the_second_run_reads_no_source(self):
        self.assertEqual([self.read(), self.read()], ["p1", "p1"])
        self.assertEqual(self.children, [["arithmetic"]])

    def test_one_of_many_tasks_that_share_a_source(self):
        tasks = ["bbh_cot_navigate", "bbh_direct_navigate"]
        found = [self.read(task=task) for task in (*tasks, *tasks)]
        self.assertEqual(found, ["p1", "p2", "p1", "p2"])

    def test_what_the_problems_depend_on(self):
        self.assertEqual(self.read(), "p1")
        self.assertEqual(self.read(seed=1), "p2")
        gin.parse_config("arithmetic.sizes = {'test': 4}")
        self.assertEqual(self.read(), "p3")
        gin.clear_config()
        self.assertEqual(self.read(), "p1")
        (self.data / "file").write_text("12")
        self.assertEqual(self.read(), "p4")
        with mock.patch.object(problem_cache.restem, "__version__", "other"):
            self.assertEqual(self.read(), "p5")

    def test_a_task_that_cannot_be_read_ends_with_its_line_alone(self):
        def child(command, **options):
            told = "task a: 3 train problems\nb: no such folder\n"
            return subprocess.CompletedProcess(command, 2, stdout=told, stderr="")

        shown = self.enterContext(contextlib.redirect_stderr(io.StringIO()))
        with (
            mock.patch.object(materializer.subprocess, "run", child),
            self.assertRaisesRegex(UserError, r"\Ab: no such folder\Z"),
        ):
            self.read()
        self.assertEqual(shown.getvalue(), "task a: 3 train problems\n")

    def test_files_behind_links_count(self):
        elsewhere = self.root / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "file").write_text("1")
        (elsewhere / "above").symlink_to(elsewhere)
        (self.data / "link").symlink_to(elsewhere)
        self.assertEqual([self.read(), self.read()], ["p1", "p1"])
        (elsewhere / "file").write_text("12")
        self.assertEqual(self.read(), "p2")

    def test_a_folder_with_a_link_to_nothing_is_not_cached(self):
        (self.data / "link").symlink_to(self.root / "nowhere")
        self.assertEqual([self.read(), self.read()], ["p1", "p2"])

    def test_tasks_that_may_read_anything_are_not_cached(self):
        registry.add("of_this_test", source=lambda split: [], splits=("test",))
        self.addCleanup(registry._TASKS.pop, "of_this_test")
        self.assertIsNone(problem_cache.path_of({"task": "of_this_test"}))
        self.assertIsNone(problem_cache.path_of({"task": "only the child knows it"}))
        self.assertEqual([self.read(task="of_this_test") for _ in range(2)], ["p1", "p2"])


if __name__ == "__main__":
    absltest.main()

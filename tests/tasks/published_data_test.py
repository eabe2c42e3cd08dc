"""The tasks of published data sets, read whole from the data folder of this machine."""

import collections
import json
import os
import re
import shutil
import tempfile
import unittest

from absl.testing import absltest, parameterized

from restem.data import folder, registry, sources
from restem.rollout import prompts
from restem.tasks import apps, bbh, gsm8k, math, mbpp
from restem.verify import Verifier
from tests.helpers import vocabularies

DATA = os.environ.get(folder.ENVIRONMENT)
needs_data = unittest.skipUnless(DATA, f"{folder.ENVIRONMENT} is not set")


@needs_data
class RealDataTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cache = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.cache)

    def sizes(self, problems):
        return dict(collections.Counter(problem.split for problem in problems))

    def materialize(self, task, **options):
        card, problems = sources.materialize(task, cache_dir=self.cache, **options)
        for kind in ("gguf_smollm", "gguf_llama-bpe", "sentencepiece_dummy"):
            vocabulary = vocabularies.of_kind(kind)
            inputs = [p.inputs for p in problems[:: max(1, len(problems) // 20)]]
            encoded = prompts.encode(card, inputs, vocabulary)
            self.assertEqual(encoded.prefix, prompts.prefix_ids(card, vocabulary))
            for text, question in zip(inputs, encoded.questions, strict=True):
                whole = vocabulary.prompt_ids(card.prefix + text)
                self.assertEqual((*encoded.prefix, *question), whole)
        return card, problems

    def test_math(self):
        card, problems = self.materialize("math")
        self.assertEqual(self.sizes(problems), {"train": 7000, "validation": 500, "test": 5000})
        self.assertEqual((card.notes["train_rows"], card.notes["test_rows"]), (7500, 5000))
        self.assertEqual(card.prompt_source, math.MINERVA.file)
        self.assertEqual(card.prefix_sha256, math.MINERVA.sha256)
        self.assertIn("480\\\\\n\\Rightarrow", card.prefix)
        self.assertLen({p.problem_id for p in problems}, 12_500)
        self.assertLen([p for p in problems if not p.answer], 2)
        levels = {p.metadata["level"] for p in problems}
        self.assertLen(levels, 6)  # "Level 1" to "Level 5", and "Level ?" of two problems

    def test_gsm8k(self):
        card, problems = self.materialize("gsm8k")
        self.assertEqual(self.sizes(problems), {"train": 6973, "validation": 500, "test": 1319})
        self.assertEqual(card.prefix_sha256, gsm8k.COT_8SHOT.sha256)
        self.assertTrue(all(re.fullmatch(r"-?\d+(\.\d+)?", p.answer) for p in problems))
        self.assertFalse(any("<<" in p.solutions[0] for p in problems))

    def test_apps(self):
        card, problems = self.materialize("apps")
        kept = {part: card.notes[f"{part}_filter"] for part in ("train", "test")}
        self.assertEqual((kept["train"]["read"], kept["test"]["read"]), (2176, 221))
        self.assertEqual(2176 + 221, 2397)
        self.assertEqual(self.sizes(problems), {"train": 2019, "validation": 150, "test": 221})
        for part in kept.values():
            self.assertEqual(part["read"], part["kept"] + sum(part["dropped"].values()))
        styles = collections.Counter(p.inputs.split("\n\n")[-2].split("\n")[-1] for p in problems)
        self.assertEqual(set(styles), {apps.STANDARD_INPUT, apps.CALL_BASED})

    def test_humaneval_mbpp_and_the_hungarian_exam(self):
        _, problems = self.materialize("humaneval")
        self.assertEqual(self.sizes(problems), {"test": 164})
        tests = json.loads(problems[0].tests)
        self.assertEqual(tests["prompt"], problems[0].inputs)
        card, problems = self.materialize("mbpp")
        self.assertEqual(card.notes["rows"], 974)
        self.assertEqual(self.sizes(problems), {"train": 374, "validation": 90, "test": 500})
        self.assertFalse(any("\r" in p.solutions[0] for p in problems))
        self.assertEqual(
            {split: len(numbers) for split, numbers in mbpp.SPLITS.items()}, self.sizes(problems)
        )
        card, problems = self.materialize("hungarian")
        self.assertEqual(self.sizes(problems), {"test": 33})
        self.assertEqual(card.grader, {"kind": "none"})

    def test_bbh(self):
        counts = {
            file: len(registry.get(f"bbh_direct_{file}").source("test", data_dir=DATA))
            for file in bbh.FILES
        }
        self.assertEqual(sum(counts.values()), 6511)
        self.assertEqual(collections.Counter(counts.values()), {250: 24, 187: 1, 178: 1, 146: 1})
        for style in bbh.STYLES:
            self.assertLen(bbh.read_prompts(style, DATA), 27)
        card, problems = self.materialize("bbh_cot_navigate")
        self.assertLen(problems, 250)
        # The query continues the prefix in the form of its shots.
        self.assertEqual(card.prefix.count("\n\nQ: "), 3)
        self.assertEqual(card.prefix.count("\nA: Let's think step by step.\n"), 3)
        self.assertEndsWith(problems[0].inputs, "\nA: Let's think step by step.")

    def test_human_solutions_are_right_by_the_tasks_own_grader(self):
        for task in ("arithmetic", "math", "gsm8k"):
            card, problems = self.materialize(task, splits=("train",), limits={"train": 100})
            problems = [p for p in problems if p.solutions]
            with Verifier(grader=card.grader) as verifier:
                verdicts = verifier.grade(problems, [p.solutions[0] for p in problems])
            wrong = [v for v in verdicts if v.reward != 1.0]
            self.assertEmpty(wrong, task)
            # The answer of another problem is wrong, or the check above could not fail.
            shifted = [*problems[1:], problems[0]]
            with Verifier(grader=card.grader) as verifier:
                verdicts = verifier.grade(problems, [p.solutions[0] for p in shifted])
            self.assertLess(sum(v.reward for v in verdicts), 30)


if __name__ == "__main__":
    absltest.main()

"""Tasks for SeqIO and T5X: tokenised, scored and mixed."""

import dataclasses
import sys
from unittest import mock

import seqio
from absl.testing import absltest

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import registry, seqio_tasks, sources
from restem.data.seqio_vocabulary import SeqioVocabulary
from restem.errors import UserError
from tests.helpers import toys
from tests.helpers.toys import Bytes, ToyTest


class SeqioTaskTest(ToyTest):
    def test_tokenised_features_and_prompt(self):
        toys.add()
        vocabulary = SeqioVocabulary(Bytes())
        task = seqio_tasks.seqio_task("toy", vocabulary=vocabulary)
        self.assertIs(seqio.TaskRegistry.get("toy"), task)
        dataset = seqio.get_dataset(
            "toy",
            task_feature_lengths={"inputs": 128, "targets": 32},
            dataset_split="test",
            shuffle=False,
            feature_converter=seqio.DecoderFeatureConverter(pack=False),
        )
        (first,) = dataset.take(1).as_numpy_iterator()
        text = vocabulary.decode(first["decoder_target_tokens"])
        prefix = "Q: What is 0 + 1?\nA: The answer is 1.\n\n"
        self.assertEqual(text, f"{prefix}Q: What is 100 + 1?\nA: The answer is 101.")

    def test_metrics_grade_model_outputs(self):
        toys.add()
        task = seqio_tasks.seqio_task("toy", vocabulary=SeqioVocabulary(Bytes()))
        lengths = {"inputs": 128, "targets": 32}
        examples = list(task.get_dataset(lengths, "test", shuffle=False).as_numpy_iterator())
        outputs = [" The answer is 101.", " It is 102.", " The answer is 104."]
        targets = [
            task.postprocess_fn("unused", example=example, is_target=True)
            for example in examples[:3]
        ]
        predictions = [
            task.postprocess_fn(output, example=example, is_target=False)
            for output, example in zip(outputs, examples, strict=False)
        ]
        (metric,) = task.metric_fns
        # 101 is right, the second names no answer in the task's form, the third is wrong.
        self.assertEqual(metric(targets, predictions), {"accuracy": 100 / 3})

    def test_a_group_is_a_mixture(self):
        toys.add(groups=("pair",))
        registry.add("toy2", source=toys.records, splits=("train", "test"), groups=("pair",))
        self.addCleanup(registry._TASKS.pop, "toy2")
        mixture = seqio_tasks.seqio_mixture("pair")
        self.assertEqual({task.name for task in mixture.tasks}, {"toy", "toy2"})
        rows = mixture.get_dataset(None, "test", shuffle=False).take(20).as_numpy_iterator()
        self.assertLen(list(rows), 20)

    def test_its_absence_is_one_line_with_the_remedy(self):
        toys.add(through_seqio=True)
        self.enter_context(mock.patch.dict(sys.modules, {"seqio": None}))
        with self.assertRaisesRegex(UserError, r"not installed.*pip install 'restem\[seqio\]'"):
            sources.materialize("toy")
        toys.add(through_seqio=False)
        self.assertLen(sources.materialize("toy")[1], 50)

    def test_a_task_is_the_same_with_seqio_and_without(self):
        toys.add(through_seqio=True)
        through = sources.materialize("toy")
        toys.add(through_seqio=False)
        self.assertEqual(sources.materialize("toy"), through)
        spec = registry.get("arithmetic")
        through = sources.materialize("arithmetic")
        direct = dataclasses.replace(spec, through_seqio=False)
        self.enter_context(mock.patch.dict(registry._TASKS, {"arithmetic": direct}))
        self.assertFalse(registry.get("arithmetic").needs_seqio)
        self.assertEqual(sources.materialize("arithmetic"), through)


if __name__ == "__main__":
    absltest.main()

"""Materialising tasks, through SeqIO and without it."""

import pathlib
import sys
import textwrap
from unittest import mock

import gin
import seqio
import tensorflow as tf
from absl.testing import absltest, parameterized

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import records
from restem.data import registry, sources
from restem.errors import UserError
from tests.helpers import toys
from tests.helpers.toys import TEXTS, ToyTest


class MaterializeTest(ToyTest):
    def test_a_task_of_ones_own(self):
        toys.add()
        card, problems = sources.materialize("toy")
        self.assertEqual(card.task, "toy")
        self.assertEqual(card.prefix, "Q: What is 0 + 1?\nA: The answer is 1.\n\n")
        self.assertEqual(card.opening, "Q: What is ")
        self.assertEqual(card.stop, ("\nQ:",))
        self.assertEqual(card.prompt_source, "user")
        self.assertEqual(card.max_new_tokens, 16)
        self.assertLen(problems, 50)
        self.assertEqual(
            problems[3],
            records.Problem(
                problem_id="train-00003",
                split="train",
                inputs="Q: What is 3 + 1?\nA:",
                answer="4",
                solutions=(" The answer is 4.",),
                metadata={"a": 3},
            ),
        )
        # What a run writes and reads is what was materialised.
        table = records.problems_to_table(problems, card)
        self.assertEqual(records.problems_from_table(table), (card, problems))

    def test_the_built_in_task_needs_no_data(self):
        card, problems = sources.materialize("arithmetic", limits={"train": 7})
        self.assertEqual(card.prompt_source, "restem")
        self.assertLen([p for p in problems if p.split == "train"], 7)
        self.assertGreaterEqual(len([p for p in problems if p.split == "test"]), 200)
        self.assertTrue(all(p.answer and p.solutions for p in problems))

    def test_gin_binds_the_generator(self):
        gin.parse_config("""
            import restem.tasks
            arithmetic.families = ("sums", "equations")
            arithmetic.sizes = {"test": 12}
            arithmetic.seed = 3
        """)
        _, problems = sources.materialize("arithmetic", splits=("test",))
        self.assertLen(problems, 12)
        self.assertEqual({p.metadata["family"] for p in problems}, {"sums", "equations"})

    def test_limits_are_random_nested_subsets(self):
        toys.add()

        def ids(limit, seed=0):
            _, problems = sources.materialize("toy", limits={"train": limit}, seed=seed)
            return [p.problem_id for p in problems if p.split == "train"]

        self.assertLen(ids(10), 10)
        self.assertContainsSubset(ids(10), ids(25))
        self.assertNotEqual(ids(10), ids(10, seed=1))
        self.assertNotEqual(ids(10), sorted(ids(40))[:10])
        self.assertLen(ids(1000), 40)
        self.assertEqual(ids(0), [])

    def test_splits_that_a_task_lacks(self):
        toys.add()
        _, problems = sources.materialize("toy", splits=("validation", "test"))
        self.assertEqual({p.split for p in problems}, {"test"})
        with self.assertRaisesRegex(UserError, "toy has no split validation; it has train, test"):
            sources.materialize("toy", splits=("validation",))
        with self.assertRaisesRegex(UserError, "no split 'dev'"):
            sources.materialize("toy", splits=("dev",))

    @parameterized.parameters(True, False)
    def test_text_survives_as_it_is(self, through_seqio):
        rows = [{"inputs": text, "answer": text, "solutions": [text]} for text in TEXTS[:3]]
        rows.append({"inputs": "NUL \0 inside", "tests": {"inputs": ["1"], "outputs": ["2"]}})
        rows.append({"inputs": "an empty answer", "answer": ""})
        toys.add(source=lambda split: rows, splits=("test",), through_seqio=through_seqio)
        _, problems = sources.materialize("toy")
        self.assertEqual([p.inputs for p in problems], [r["inputs"] for r in rows])
        self.assertEqual([p.answer for p in problems], [*TEXTS[:3], None, ""])
        self.assertEqual(problems[2].solutions, (TEXTS[2],))
        self.assertEqual(problems[3].tests, '{"inputs": ["1"], "outputs": ["2"]}')
        self.assertIsNone(problems[0].tests)

    @parameterized.parameters(
        ({}, "test record 1: no field 'inputs'"),
        ({"inputs": "a", "solutions": "b"}, "'solutions' must be a list"),
        ({"inputs": "lone \ud800 surrogate"}, "test record 1: .*UTF-8"),
        ({"inputs": "a", "metadata": {"x": {1}}}, "test record 1: .*JSON"),
    )
    def test_bad_records_are_named(self, record, message):
        for through_seqio in (True, False):
            toys.add(source=lambda split: [record], splits=("test",), through_seqio=through_seqio)
            with self.assertRaisesRegex(UserError, f"toy, .*{message}|toy, {message}"):
                sources.materialize("toy")

    def test_ids_are_unique(self):
        row = {"inputs": "a", "problem_id": "same"}
        toys.add(source=lambda split: [row], splits=("train", "test"))
        with self.assertRaisesRegex(UserError, "'same' occurs twice"):
            sources.materialize("toy")

    def test_a_seqio_source_with_preprocessors(self):
        def dataset_fn(split, shuffle_files=False):
            del split, shuffle_files
            return tf.data.Dataset.from_tensor_slices({"n": [1, 2, 3]})

        @seqio.map_over_dataset
        def to_text(features):
            n = tf.strings.as_string(features["n"])
            return {"inputs": n + " + 0 =", "targets": n}

        source = seqio.FunctionDataSource(dataset_fn, splits=["test"])
        toys.add(source=source, preprocessors=[to_text])
        _, problems = sources.materialize("toy")
        self.assertEqual([p.inputs for p in problems], ["1 + 0 =", "2 + 0 =", "3 + 0 ="])
        self.assertEqual([p.answer for p in problems], ["1", "2", "3"])
        self.assertLen({p.problem_id for p in problems}, 3)

    def test_the_file_that_the_registry_shows_is_a_task(self):
        example = registry.__doc__.split("`import my_task`:\n\n")[1].split("\n\nAdding")[0]
        folder_of_user = self.create_tempdir().full_path
        pathlib.Path(folder_of_user, "my_task.py").write_text(textwrap.dedent(example))
        self.addCleanup(registry._TASKS.pop, "successor")
        with mock.patch.object(sys, "path", [folder_of_user, *sys.path]):
            gin.parse_config("import my_task")
        card, problems = sources.materialize("successor")
        self.assertLen(problems, 80)
        self.assertEqual(problems[0].inputs, "Q: What is 0 + 1?\nA:")
        self.assertEqual(card.prefix, "Q: What is 0 + 1?\nA: The answer is 1.\n\n")
        self.assertEqual(card.opening, "Q: What is ")


if __name__ == "__main__":
    absltest.main()

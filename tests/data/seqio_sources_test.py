"""Tasks through SeqIO: materialised for a run, tokenised for T5X, scored by SeqIO's metrics."""

import os
import pathlib
import sys
import textwrap
import threading
from unittest import mock

import gin
import seqio
import tensorflow as tf
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.data import folder, registry, seqio_tasks, sources, tfds_builders
from restem.data.seqio_vocabulary import SeqioVocabulary
from restem.errors import UserError

TEXTS = (
    "Problem:\nWhat is $\\frac{1}{2}$?\n\nSolution:",
    " leading and trailing ",
    "naïve 日本語 🙂 \t tabs",
    "",
)


class Bytes:
    """What the adapter uses of a `Vocabulary`: one id a byte, from 3; 1 and 2 end a text."""

    bos_id = None
    eos_ids = frozenset({1, 2})
    pad_id = 0
    size = 259
    fingerprint = "bytes"

    def encode(self, text):
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i >= 3).decode()


def toy(split):
    count = {"train": 40, "test": 10}[split]
    for i in range(count):
        a = i if split == "train" else 100 + i
        yield {
            "inputs": f"Q: What is {a} + 1?\nA:",
            "answer": a + 1,
            "solutions": [f" The answer is {a + 1}."],
            "metadata": {"a": a},
        }


def add_toy(**fields):
    options = {
        "source": toy,
        "splits": ("train", "test"),
        "prompt": "Q: What is 0 + 1?\nA: The answer is 1.\n\n",
        "stop": ["\nQ:"],
        "grader": {"kind": "numeric", "extraction": "answer_is"},
        "max_new_tokens": 16,
    }
    return registry.add("toy", **{**options, **fields})


class SourcesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        self.enter_context(mock.patch.dict(os.environ))
        os.environ.pop(folder.ENVIRONMENT, None)

    def tearDown(self):
        registry._TASKS.pop("toy", None)
        super().tearDown()


class MaterializeTest(SourcesTest):
    def test_a_task_of_ones_own(self):
        add_toy()
        card, problems = sources.materialize("toy")
        self.assertEqual(card.task, "toy")
        self.assertEqual(card.prefix, "Q: What is 0 + 1?\nA: The answer is 1.\n\n")
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
        add_toy()

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
        add_toy()
        _, problems = sources.materialize("toy", splits=("validation", "test"))
        self.assertEqual({p.split for p in problems}, {"test"})
        with self.assertRaisesRegex(UserError, "toy has no split validation; it has train, test"):
            sources.materialize("toy", splits=("validation",))
        with self.assertRaisesRegex(UserError, "no split 'dev'"):
            sources.materialize("toy", splits=("dev",))

    def test_text_survives_as_it_is(self):
        rows = [{"inputs": text, "answer": text, "solutions": [text]} for text in TEXTS[:3]]
        rows.append({"inputs": "NUL \0 inside", "tests": {"inputs": ["1"], "outputs": ["2"]}})
        rows.append({"inputs": "an empty answer", "answer": ""})
        add_toy(source=lambda split: rows, splits=("test",))
        _, problems = sources.materialize("toy")
        self.assertEqual([p.inputs for p in problems], [r["inputs"] for r in rows])
        self.assertEqual([p.answer for p in problems], [*TEXTS[:3], None, ""])
        self.assertEqual(problems[2].solutions, (TEXTS[2],))
        self.assertEqual(problems[3].tests, '{"inputs": ["1"], "outputs": ["2"]}')
        self.assertIsNone(problems[0].tests)

    @parameterized.parameters(
        ({}, "test record 1: no field 'inputs'"),
        ({"inputs": "a", "solutions": "b"}, "'solutions' must be a sequence"),
        ({"inputs": "lone \ud800 surrogate"}, "test record 1: .*UTF-8"),
        ({"inputs": "a", "metadata": {"x": {1}}}, "test record 1: .*JSON"),
    )
    def test_bad_records_are_named(self, record, message):
        add_toy(source=lambda split: [record], splits=("test",))
        with self.assertRaisesRegex(UserError, f"toy, .*{message}|toy, {message}"):
            sources.materialize("toy")

    def test_ids_are_unique(self):
        row = {"inputs": "a", "problem_id": "same"}
        add_toy(source=lambda split: [row], splits=("train", "test"))
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
        add_toy(source=source, preprocessors=[to_text])
        _, problems = sources.materialize("toy")
        self.assertEqual([p.inputs for p in problems], ["1 + 0 =", "2 + 0 =", "3 + 0 ="])
        self.assertEqual([p.answer for p in problems], ["1", "2", "3"])
        self.assertLen({p.problem_id for p in problems}, 3)

    def test_the_file_that_the_registry_shows_is_a_task(self):
        example = registry.__doc__.split("a gin file:\n\n")[1].split("\n\nAdding")[0]
        folder_of_user = self.create_tempdir().full_path
        pathlib.Path(folder_of_user, "my_task.py").write_text(textwrap.dedent(example))
        self.addCleanup(registry._TASKS.pop, "successor")
        with mock.patch.object(sys, "path", [folder_of_user, *sys.path]):
            gin.parse_config("import my_task")
        card, problems = sources.materialize("successor")
        self.assertLen(problems, 80)
        self.assertEqual(problems[0].inputs, "Q: What is 0 + 1?\nA:")
        self.assertEqual(card.prefix, "Q: What is 0 + 1?\nA: The answer is 1.\n\n")

    def test_a_jsonl_task_by_gin_alone(self):
        path = pathlib.Path(self.create_tempdir().full_path, "mine.jsonl")
        path.write_text('{"problem": "1+1?", "answer": 2}\n{"problem": "1+2?", "answer": 3}\n')
        gin.parse_config(f"import restem.tasks\nmine/jsonl_task.path = '{path}'")
        card, problems = sources.materialize("mine")
        self.assertEqual(card.task, "mine")
        self.assertEqual([p.answer for p in problems], ["2", "3"])
        self.assertEqual(problems[0].inputs, "Problem:\n1+1?\n\nSolution:")


class VocabularyTest(parameterized.TestCase):
    def test_round_trip_in_python_and_in_tensorflow(self):
        vocabulary = SeqioVocabulary(Bytes())
        for text in TEXTS:
            ids = vocabulary.encode(text)
            self.assertEqual(ids, Bytes().encode(text))
            self.assertEqual(vocabulary.decode(ids), text)
            self.assertEqual(vocabulary.encode_tf(tf.constant(text)).numpy().tolist(), ids)
            if ids:
                decoded = vocabulary.decode_tf(tf.constant(ids, tf.int32))
                self.assertEqual(decoded.numpy().decode(), text)

    def test_decoding_ends_at_the_end_of_text(self):
        vocabulary = SeqioVocabulary(Bytes())
        ids = [*vocabulary.encode("ab"), 1, *vocabulary.encode("c"), 0]
        self.assertEqual(vocabulary.decode(ids), "ab")
        batch = tf.constant([ids, [*vocabulary.encode("abcd"), 1]], tf.int32)
        self.assertEqual(vocabulary.decode_tf(batch).numpy().tolist(), [b"ab", b"abcd"])

    def test_ids_are_the_models(self):
        vocabulary = SeqioVocabulary(Bytes(), eos_id=2)
        self.assertEqual((vocabulary.eos_id, vocabulary.pad_id, vocabulary.vocab_size), (2, 0, 259))
        self.assertNotEqual(vocabulary, SeqioVocabulary(Bytes()))
        self.assertEqual(vocabulary, SeqioVocabulary(Bytes(), eos_id=2))
        with self.assertRaisesRegex(ValueError, "eos_id 7"):
            SeqioVocabulary(Bytes(), eos_id=7)


class SeqioTaskTest(SourcesTest):
    def test_tokenised_features_and_prompt(self):
        add_toy()
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
        add_toy()
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
        add_toy(groups=("pair",))
        registry.add("toy2", source=toy, splits=("train", "test"), groups=("pair",))
        self.addCleanup(registry._TASKS.pop, "toy2")
        mixture = seqio_tasks.seqio_mixture("pair")
        self.assertEqual({task.name for task in mixture.tasks}, {"toy", "toy2"})
        rows = mixture.get_dataset(None, "test", shuffle=False).take(20).as_numpy_iterator()
        self.assertLen(list(rows), 20)


class Numbers(tfds_builders._FolderBuilder):
    """Numbers."""

    FIELDS = ("n", "note")
    OPTIONAL = ("note",)
    prepared = 0

    def _split_generators(self, dl_manager):
        type(self).prepared += 1
        return super()._split_generators(dl_manager)


class BuilderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = epath.Path(self.create_tempdir().full_path)
        self.cache = str(self.root / "cache")
        Numbers.prepared = 0

    def files(self, count, name="train.jsonl"):
        path = self.root / name
        path.write_text("".join(f'{{"n": {n}}}\n' for n in range(count)))
        return {"train": [path]}

    def read(self, files):
        return tfds_builders.read(Numbers, files, "train", cache_dir=self.cache)

    def test_prepared_once_and_read_in_order(self):
        rows = self.read(self.files(2500))
        self.assertEqual([row["n"] for row in rows], [str(n) for n in range(2500)])
        self.assertEqual(rows[2], {"n": "2", "note": "", "source": "train.jsonl:3"})
        self.assertEqual(self.read(self.files(2500)), rows)
        self.assertEqual(Numbers.prepared, 1)

    def test_other_contents_are_another_data_set(self):
        self.assertLen(self.read(self.files(3)), 3)
        self.assertLen(self.read(self.files(4)), 4)
        self.assertEqual(Numbers.prepared, 2)

    def test_two_may_prepare_at_once(self):
        files, results = self.files(50), []
        threads = [
            threading.Thread(target=lambda: results.append(self.read(files))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLen(results, 3)
        self.assertTrue(all(len(rows) == 50 for rows in results))
        self.assertEqual(Numbers.prepared, 1)

    def test_a_bad_record_is_named_and_leaves_nothing_behind(self):
        path = self.root / "train.jsonl"
        path.write_text('{"n": 1}\n{"m": 2}\n')
        with self.assertRaisesRegex(UserError, "train.jsonl, line 2: no field 'n'"):
            self.read({"train": [path]})
        self.assertLen(self.read(self.files(2)), 2)

    def test_cache_folder(self):
        named = str(self.root / "named")
        with mock.patch.dict(os.environ, {"RESTEM_CACHE_DIR": named}):
            self.assertEqual(str(tfds_builders.cache_folder()), named)
            self.assertEqual(str(tfds_builders.cache_folder(self.cache)), self.cache)
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": named}):
            os.environ.pop("RESTEM_CACHE_DIR", None)
            self.assertEqual(str(tfds_builders.cache_folder()), f"{named}/restem")


if __name__ == "__main__":
    absltest.main()

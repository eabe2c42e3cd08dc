"""Files of the data folder, splits, prompts and the registry, without SeqIO or TensorFlow."""

import gzip
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import gin
from absl.testing import absltest, parameterized
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import folder, prompts, registry, splits
from restem.errors import UserError
from restem.tasks import shots

LAYOUT = folder.Layout("two files", {"train": ("set/train.jsonl*",), "test": ("set/test.jsonl*",)})


class TempTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.create_tempdir().full_path)
        self.addCleanup(gin.clear_config)
        self.enter_context(mock.patch.dict(os.environ))
        os.environ.pop(folder.ENVIRONMENT, None)

    def write(self, name, *lines):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return path


class FolderTest(TempTest):
    def find(self, argument=None):
        return folder.find(argument, task="toy", layouts=[LAYOUT], source="https://example.org")

    def test_argument_then_gin_then_environment(self):
        self.assertIsNone(folder.data_dir())
        os.environ[folder.ENVIRONMENT] = "/from/environment"
        self.assertEqual(folder.data_dir(), "/from/environment")
        gin.parse_config("DATA_DIR = None")
        self.assertEqual(folder.data_dir(), "/from/environment")
        gin.parse_config("DATA_DIR = '/from/gin'")
        self.assertEqual(folder.data_dir(), "/from/gin")
        self.assertEqual(folder.data_dir("/from/argument"), "/from/argument")

    def test_absence_names_file_folder_and_source(self):
        with self.assertRaisesRegex(
            UserError, r"toy.*set/train\.jsonl.*https://example\.org.*DATA_DIR=FOLDER"
        ):
            self.find()
        with self.assertRaisesRegex(UserError, "/no/such/place does not exist"):
            self.find("/no/such/place")
        with self.assertRaisesRegex(UserError, rf"set/test\.jsonl.*{self.root}.*example\.org"):
            self.find(str(self.root))

    def test_finds_what_is_there_and_asks_for_the_split_that_is_not(self):
        path = self.write("set/test.jsonl", "{}")
        layout, files = self.find(str(self.root))
        self.assertEqual({k: [str(f) for f in v] for k, v in files.items()}, {"test": [str(path)]})
        with self.assertRaisesRegex(UserError, r"no train files; looked for set/train"):
            folder.require_split(files, "train", task="toy", layout=layout)

    def test_reads_plain_and_gzipped_lines_whatever_stands_in_them(self):
        records = [{"a": "line\u2028separator"}, {"a": "caf\u00e9\n"}]
        text = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records)
        plain = self.write("plain.jsonl", text)
        packed = self.root / "packed.jsonl.gz"
        packed.write_bytes(gzip.compress(text.encode()))
        for path in (plain, packed):
            found = list(folder.read_jsonl(epath.Path(path), required=("a",)))
            self.assertEqual(found, [(1, records[0]), (3, records[1])])

    @parameterized.parameters(
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ('{"a": 1}\n[1]', "line 2: expected a JSON object, found list"),
        ('{"b": 1}', "line 1: no field 'a'; it has 'b'"),
        ('{"a": null}', "line 1: no field 'a'"),
    )
    def test_bad_lines_are_named(self, text, message):
        path = self.write("bad.jsonl", text)
        with self.assertRaisesRegex(UserError, f"bad.jsonl, {message}"):
            list(folder.read_jsonl(epath.Path(path), required=("a",)))

    def test_bad_files_are_named(self):
        truncated = self.root / "cut.jsonl.gz"
        truncated.write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-12])
        with self.assertRaisesRegex(UserError, r"cut.jsonl.gz, line \d+: cannot be read"):
            list(folder.read_jsonl(epath.Path(truncated)))
        latin = self.root / "latin.jsonl"
        latin.write_bytes(b'{"a": "\xe9"}')
        with self.assertRaisesRegex(UserError, "latin.jsonl, line 1: not UTF-8"):
            list(folder.read_jsonl(epath.Path(latin)))
        with self.assertRaisesRegex(UserError, "none.jsonl: no such file"):
            list(folder.read_jsonl(self.root / "none.jsonl"))

    def test_checksum_depends_on_names_and_contents_only(self):
        def checksum(base, **contents):
            for name, text in contents.items():
                self.write(f"{base}/set/{name}", text)
            return folder.checksum(epath.Path(self.root / base / "set" / n) for n in contents)

        first = checksum("one", a="x", b="y")
        self.assertEqual(checksum("two", a="x", b="y"), first)
        self.assertNotEqual(checksum("three", a="x", b="z"), first)
        self.assertNotEqual(checksum("four", a="x\n", c="y"), first)


class SplitsTest(parameterized.TestCase):
    items = tuple(f"item {i}" for i in range(200))

    def subset(self, size, seed=0, items=items):
        return splits.subset(items, size, key=str, seed=seed)

    def test_smaller_subsets_are_nested_and_keep_their_order(self):
        small, large = self.subset(20), self.subset(90)
        self.assertLen(small, 20)
        self.assertContainsSubset(small, large)
        self.assertEqual(small, [i for i in self.items if i in set(small)])
        self.assertEqual(self.subset(500), list(self.items))
        self.assertEqual(self.subset(0), [])

    def test_the_choice_depends_on_seed_and_item_not_on_position(self):
        self.assertNotEqual(self.subset(50), self.subset(50, seed=1))
        reversed_items = tuple(reversed(self.items))
        self.assertEqual(
            set(self.subset(50)), set(splits.subset(reversed_items, 50, key=str, seed=0))
        )

    def test_the_choice_is_uniform(self):
        # Mean position of 100 of 200 has standard deviation 57.7 * sqrt(1/100 * 100/199) = 4.1.
        for seed in range(5):
            positions = [self.items.index(i) for i in self.subset(100, seed)]
            self.assertBetween(sum(positions) / 100, 99.5 - 16, 99.5 + 16)

    def test_carving_parts_the_items(self):
        rest, held = splits.carve(self.items, 30, key=str, seed=0, setting="toy.validation_size")
        self.assertLen(held, 30)
        self.assertCountEqual(rest + held, self.items)
        _, more = splits.carve(self.items, 60, key=str, seed=0, setting="toy.validation_size")
        self.assertContainsSubset(held, more)
        # Not the head of the ranking that limits use, or a limited train split would be skewed.
        self.assertNotEqual(held, self.subset(30))

    def test_impossible_sizes(self):
        with self.assertRaisesRegex(
            UserError, "toy.validation_size = 200: cannot hold out 200 of 200"
        ):
            splits.carve(self.items, 200, key=str, seed=0, setting="toy.validation_size")
        with self.assertRaisesRegex(UserError, "not -1"):
            self.subset(-1)


class PromptsTest(TempTest):
    published = prompts.Published(
        file="prompts/toy.jsonl",
        sha256=prompts.sha256("Q: 1\n\nQ: 2\n\n"),
        shot=lambda record: f"Q: {record['q']}",
    )

    def test_published_prompt_is_read_and_checked(self):
        self.assertIsNone(self.published.read(str(self.root)))
        self.write("prompts/toy.jsonl", '{"q": 1}', '{"q": 2}')
        prompt = self.published.read(str(self.root))
        self.assertEqual(prompt, prompts.Prompt("Q: 1\n\nQ: 2\n\n", "prompts/toy.jsonl"))
        choose = shots.published_or_own(self.published, "gsm8k_8shot")
        self.assertEqual(choose(str(self.root)), prompt)
        self.assertEqual(choose(None).source, "restem")

    def test_another_prompt_is_refused(self):
        self.write("prompts/toy.jsonl", '{"q": 1}', '{"q": 3}')
        with self.assertRaisesRegex(UserError, "toy.jsonl: this is not the published prompt"):
            self.published.read(str(self.root))
        self.write("prompts/toy.jsonl", '{"r": 1}')
        with self.assertRaisesRegex(UserError, "toy.jsonl, line 1: no field 'q'"):
            self.published.read(str(self.root))

    def test_a_prefix_ends_with_one_empty_line(self):
        self.assertEqual(prompts.as_prefix("a\n\n\n"), "a\n\n")
        self.assertEqual(prompts.as_prefix(" \n"), "")


class RegistryTest(TempTest):
    def test_importing_the_tasks_imports_no_tensorflow(self):
        program = "import restem.tasks, sys; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        heavy = {"tensorflow", "seqio", "tensorflow_datasets", "jax", "torch"}
        self.assertEmpty(heavy & set(done.stdout.split()))

    def test_built_in_tasks_and_groups(self):
        names = registry.names()
        for name in ("arithmetic", "math", "gsm8k", "apps", "humaneval", "mbpp", "hungarian"):
            self.assertIn(name, names)
        self.assertLen(registry.group("bbh_cot"), 27)
        self.assertLen(registry.group("bbh_direct"), 27)
        self.assertEqual(registry.group("math"), ["math"])
        self.assertLen(registry.expand(["math", "bbh_cot", "math"]), 28)

    def test_every_grader_is_one_that_verification_knows(self):
        from restem.verify import graders

        for name in registry.names():
            graders.check(registry.get(name).grader)

    def test_unknown_names_get_a_hint(self):
        with self.assertRaisesRegex(UserError, r"'aritmetic' \(is it arithmetic\?\).*bbh_cot"):
            registry.get("aritmetic")
        with self.assertRaisesRegex(UserError, "'a b'"):
            registry.add("a b", source=list)
        with self.assertRaisesRegex(UserError, "stop must be a tuple"):
            registry.add("toy", source=list, stop="Q:")
        with self.assertRaisesRegex(UserError, "source must be"):
            registry.add("toy", source=[1])


class JsonlTaskTest(TempTest):
    def bind(self, path, *lines):
        gin.parse_config([f"toy/jsonl_task.path = '{path}'", *lines])
        return registry.get("toy")

    def test_gin_alone_makes_a_task(self):
        path = self.write(
            "toy.jsonl",
            '{"problem": "1+1?", "answer": 2, "solution": "It is 2."}',
            '{"problem": "1+2?", "answer": "3", "split": "test", "id": "x"}',
        )
        prompt = self.write("prompt.txt", "Q: 0+1?", "A: 1")
        spec = self.bind(
            path,
            f"toy/jsonl_task.prompt = '{prompt}'",
            "toy/jsonl_task.template = 'Q: {problem}\\nA:'",
            "toy/jsonl_task.solution_template = ' {solution}'",
            "toy/jsonl_task.grader = {'kind': 'exact', 'prefix': 'A:'}",
            "toy/jsonl_task.stop = ('Q:',)",
        )
        self.assertEqual(spec.splits, ("train", "test"))
        self.assertEqual(spec.read_prompt(None).prefix, "Q: 0+1?\nA: 1\n\n")
        self.assertEqual(spec.grader, {"kind": "exact", "prefix": "A:"})
        (train,), (test,) = spec.source("train"), spec.source("test")
        self.assertEqual(train["inputs"], "Q: 1+1?\nA:")
        self.assertEqual(train["answer"], "2")
        self.assertEqual(train["solutions"], (" It is 2.",))
        self.assertEqual(test["problem_id"], "x")

    def test_splits_can_be_carved(self):
        lines = [json.dumps({"problem": f"{i}?", "answer": i}) for i in range(30)]
        spec = self.bind(
            self.write("toy.jsonl", *lines),
            "toy/jsonl_task.validation_size = 5",
            "toy/jsonl_task.test_size = 10",
        )
        sizes = {split: len(spec.source(split)) for split in registry.SPLITS}
        self.assertEqual(sizes, {"train": 15, "validation": 5, "test": 10})
        ids = [r["problem_id"] for split in registry.SPLITS for r in spec.source(split)]
        self.assertLen(set(ids), 30)

    def test_tests_choose_the_grader_of_programs(self):
        line = {"problem": "echo", "tests": {"inputs": ["1"], "outputs": ["1"]}}
        spec = self.bind(self.write("toy.jsonl", json.dumps(line)))
        self.assertEqual(spec.grader["kind"], "program")

    @parameterized.parameters(
        ('{"answer": 1}', "line 1: no field 'problem'"),
        ('{"problem": "a", "split": "dev"}', "line 1: split is 'dev'"),
        ('{"problem": "a", "answer": [1]}', "line 1: 'answer' must be"),
        ('{"problem": " "}', "line 1: 'problem' must be"),
        ('{"problem": "a", "solutions": "b"}', "line 1: 'solutions' must be a list"),
        ('{"problem": "a", "id": 1}\n{"problem": "b", "id": 1}', "line 2: id '1'.* line 1"),
        ("", "holds no records"),
    )
    def test_bad_records_are_named(self, text, message):
        with self.assertRaisesRegex(UserError, rf"toy\.jsonl(,|:) {message}"):
            self.bind(self.write("toy.jsonl", text))


if __name__ == "__main__":
    absltest.main()

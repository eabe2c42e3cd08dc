"""Tasks that a gin file makes of data files."""

import json
import subprocess
import sys

import gin
import pyarrow as pa
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

from restem.data import registry, sources
from restem.errors import UserError
from tests.helpers.data_folders import DataFolderTest

DEEP = "[" * 200_000 + "]" * 200_000
LONG = "1" * 5000


class FileTaskTest(DataFolderTest):
    def bind(self, path, *lines):
        gin.parse_config([f"toy/file_task.path = '{path}'", *lines])
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
            f"toy/file_task.prompt = '{prompt}'",
            "toy/file_task.template = 'Q: {problem}\\nA:'",
            "toy/file_task.solution_template = ' {solution}'",
            "toy/file_task.grader = {'kind': 'exact', 'prefix': 'A:'}",
            "toy/file_task.stop = ('Q:',)",
        )
        self.assertEqual(spec.splits, ("train", "test"))
        self.assertEqual(spec.read_prompt(None).prefix, "Q: 0+1?\nA: 1\n\n")
        self.assertEqual(spec.grader, {"kind": "exact", "prefix": "A:"})
        (train,), (test,) = spec.source("train"), spec.source("test")
        self.assertEqual(train["inputs"], "Q: 1+1?\nA:")
        self.assertEqual(train["answer"], "2")
        self.assertEqual(train["problem_id"], "line-1")
        self.assertEqual(train["solutions"], (" It is 2.",))
        self.assertEqual(test["problem_id"], "x")

    def test_the_former_name_still_binds(self):
        path = self.write("toy.jsonl", '{"problem": "1+1?", "answer": 2}')
        gin.parse_config([f"toy/jsonl_task.path = '{path}'", "toy/jsonl_task.max_new_tokens = 7"])
        self.assertEqual(registry.get("toy").max_new_tokens, 7)

    def test_splits_can_be_held_out(self):
        lines = [json.dumps({"problem": f"{i}?", "answer": i}) for i in range(30)]
        spec = self.bind(
            self.write("toy.jsonl", *lines),
            "toy/file_task.validation_size = 5",
            "toy/file_task.test_size = 10",
        )
        sizes = {split: len(spec.source(split)) for split in registry.SPLITS}
        self.assertEqual(sizes, {"train": 15, "validation": 5, "test": 10})
        ids = [r["problem_id"] for split in registry.SPLITS for r in spec.source(split)]
        self.assertLen(set(ids), 30)
        with self.assertRaisesRegex(UserError, r"toy/file_task.test_size = 30: cannot hold out 30"):
            self.bind(self.root / "toy.jsonl", "toy/file_task.test_size = 30")

    def test_tests_choose_the_grader_of_programs(self):
        line = {"problem": "echo", "tests": {"inputs": ["1"], "outputs": ["1"]}}
        spec = self.bind(self.write("toy.jsonl", json.dumps(line)))
        self.assertEqual(spec.grader["kind"], "program")

    def test_columns_are_mapped(self):
        """A folder of Parquet files in the form of GSM8K, with a nested column."""
        for split, count in (("train", 3), ("test", 2)):
            rows = [
                {"question": f"{split} {i}?", "answer": f"It is {i}.\n#### {i},000", "level": i,
                 "extra": {"source": {"url": f"u{i}"}}}
                for i in range(count)
            ]  # fmt: skip
            (self.root / "main").mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), self.root / f"main/{split}-0.parquet")
        spec = self.bind(
            self.root / "main",
            "toy/file_task.columns = {'problem': 'question', 'solution': 'answer'}",
            "toy/file_task.answer_pattern = '#### (.+)'",
            "toy/file_task.metadata_columns = ('level', 'extra.source.url')",
        )
        self.assertEqual(spec.splits, ("train", "test"))
        records = spec.source("test")
        self.assertEqual([r["answer"] for r in records], ["0,000", "1,000"])
        self.assertEqual(records[1]["solutions"], ("\nIt is 1.\n#### 1,000",))
        self.assertEqual(records[1]["metadata"], {"level": 1, "extra.source.url": "u1"})
        self.assertEqual(records[1]["problem_id"], "test-0.parquet:row-2")

    def test_csv_cells_hold_json(self):
        path = self.write(
            "toy.csv",
            "problem,answer,solutions,metadata,split",
            '1+1?,2,"[""two"", ""2""]","{""a"": 1}",train',
            "1+2?,3,,,test",
        )
        spec = self.bind(path)
        (train,), (test,) = spec.source("train"), spec.source("test")
        self.assertEqual(train["solutions"], ("\ntwo", "\n2"))
        self.assertEqual((train["metadata"], train["problem_id"]), ({"a": 1}, "line-2"))
        self.assertEqual((test["solutions"], test["metadata"], test["answer"]), ((), {}, "3"))

    def test_reading_starts_neither_tensorflow_nor_seqio(self):
        path = self.write("toy.jsonl", *[{"problem": f"{i}?", "answer": i} for i in range(60)])
        program = (
            "import sys, gin, restem.tasks\n"
            "from restem.data import sources\n"
            f"gin.parse_config(\"toy/file_task.path = '{path}'\")\n"
            "print(len(sources.materialize('toy')[1]), *sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        count, *modules = done.stdout.split()
        self.assertEqual(count, "60")
        self.assertEmpty({"tensorflow", "seqio", "tensorflow_datasets", "jax"} & set(modules))

    @parameterized.parameters(
        ('{"answer": 1}', "line 1: no field 'problem'"),
        ('{"problem": "a", "split": "dev"}', "line 1: split is 'dev'"),
        ('{"problem": "a", "answer": [1]}', "line 1: 'answer' must be"),
        ('{"problem": "a", "answer": NaN}', "line 1: 'answer' is nan"),
        ('{"problem": " "}', "line 1: 'problem' must be"),
        ('{"problem": 1}', "line 1: 'problem' must be"),
        ('{"problem": "a", "solutions": "b"}', "line 1: 'solutions' must be a list"),
        ('{"problem": "a", "solutions": [1]}', "line 1: 'solutions' must be a list"),
        ('{"problem": "a", "solution": {}, "solutions": {"b": 1}}', "line 1: 'solutions' must be"),
        ('{"problem": "a", "tests": 3}', "line 1: 'tests' must be a JSON object, not int"),
        ('{"problem": "a", "id": 1}\n{"problem": "b", "id": 1}', "line 2: id '1'.*line 1"),
        ('{"problem": "a", "metadata": [1]}', "line 1: 'metadata' must be a JSON object, not list"),
        ('{"problem": "a", "metadata": "b"}', "line 1: 'metadata' must be a JSON object, not str"),
        ('{"problem": "lone \\ud800"}', "line 1: 'problem' is not text that UTF-8"),
        ('{"problem": "a", "answer": "\\udfff"}', "line 1: 'answer' is not text that UTF-8"),
        ('{"problem": "a", "solution": "\\udfff"}', "line 1: 'solutions' is not text that UTF-8"),
        (f'{{"problem": "a"}}\n{{"metadata": {DEEP}}}', "line 2: JSON that is nested too deeply"),
        (f'{{"problem": "a", "answer": {LONG}}}', "line 1: a number of more than 4300 digits"),
        ('{"problem": "a"}\n{"problem": }', "line 2: not JSON"),
        ("", "holds no records"),
    )
    def test_bad_records_are_named_in_one_line(self, text, message):
        with self.assertRaisesRegex(UserError, rf"toy\.jsonl(,|:) {message}") as caught:
            self.bind(self.write("toy.jsonl", text))
        self.assertNotIn("\n", str(caught.exception).partition("\nIn call")[0].strip())

    @parameterized.parameters(
        ("template = 'Q:'", "template has no {problem}"),
        ("solution_template = 'A:'", "solution_template has no {solution}"),
        ("columns = {'question': 'problem'}", "columns: no field 'question'; the fields are"),
        ("columns = {'answer': 'gold'}", "line 1: no column 'gold'; it has 'problem', 'answer'"),
        ("metadata_columns = ('a.b',)", "line 1: no column 'a.b'"),
        ("metadata_columns = 'level'", "metadata_columns = 'level': must be a tuple"),
        ("stop = 'Q:'", "stop = 'Q:': must be a tuple"),
        (
            "stop_after = ('',)",
            r"stop_after = \(''.*: must be a tuple of strings, none of them empty",
        ),
        ("answer_pattern = '('", "answer_pattern: missing"),
        ("answer_pattern = 'a'", "answer_pattern has no group"),
        ("answer_pattern = '#(.*)'", r"line 1: answer_pattern '#\(\.\*\)' does not match '2'"),
        ("files = {'train': '*'}", "is a file"),
        ("grader = {'kind': 'maths'}", "unknown grader kind 'maths'"),
        ("grader = {'kind': 'exact', 'suffix': 'x'}", "no option 'suffix'"),
    )
    def test_settings_that_do_not_fit(self, line, message):
        path = self.write("toy.jsonl", '{"problem": "1+1?", "answer": "2"}')
        with self.assertRaisesRegex(UserError, message):
            self.bind(path, f"toy/file_task.{line}")

    def test_a_byte_order_mark_is_accepted(self):
        path = self.root / "toy.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"problem": "1+1?", "answer": 2}\r\n')
        (record,) = self.bind(path).source("train")
        self.assertEqual(record["answer"], "2")

    def test_what_is_read_is_what_a_run_gets(self):
        path = self.write("mine.jsonl", {"problem": "1+1?", "answer": 2, "metadata": {"a": [1]}})
        gin.parse_config(f"mine/file_task.path = '{path}'")
        card, (problem,) = sources.materialize("mine")
        self.assertEqual((card.task, problem.answer), ("mine", "2"))
        self.assertEqual(problem.inputs, "Problem:\n1+1?\n\nSolution:")
        self.assertEqual(problem.metadata, {"a": [1]})


if __name__ == "__main__":
    absltest.main()

"""Records as rows of text, and rows as problems."""

from absl.testing import absltest, parameterized

from restem.data import rows
from restem.data.task_spec import Records, TaskSpec
from restem.errors import UserError


def read(source, split="test", **options):
    notes: dict = {}
    spec = TaskSpec("toy", source)
    options = {"data_dir": None, "cache_dir": None, **options}
    return rows.of_function(spec, split, notes=notes, **options), notes


class RowsTest(parameterized.TestCase):
    def test_a_source_receives_the_folders_that_it_asks_for(self):
        def source(split, *, data_dir, cache_dir):
            return [{"inputs": f"{split} {data_dir} {cache_dir}"}]

        (row,), _ = read(source, data_dir="/data", cache_dir="/cache")
        self.assertEqual(row["inputs"], "test /data /cache")
        (row,), _ = read(lambda split: [{"inputs": split}], data_dir="/data")
        self.assertEqual(row["inputs"], "test")

    def test_notes_of_a_source_are_kept(self):
        found, notes = read(lambda split: Records([{"inputs": "a"}], {"dropped": 3}))
        self.assertLen(found, 1)
        self.assertEqual(notes, {"dropped": 3})

    @parameterized.parameters(
        ({}, "", None),
        ({"answer": 0}, "0", "0"),
        ({"answer": 10**400}, str(10**400), str(10**400)),
        ({"answer": ""}, "", ""),
        ({"answer": 0.5, "solutions": ["half", "1/2"]}, "half", "0.5"),
        ({"solutions": ("only a solution",)}, "only a solution", None),
        ({"targets": "own", "answer": "1"}, "own", "1"),
    )
    def test_answer_and_targets(self, fields, targets, answer):
        (row,), _ = read(lambda split: [{"inputs": "a", **fields}])
        self.assertEqual(set(row), set(rows.FIELDS))
        self.assertEqual(row["targets"], targets)
        problem = rows.to_problem(row, split="test", index=0)
        self.assertEqual(problem.answer, answer)
        self.assertEqual(problem.solutions, tuple(fields.get("solutions", ())))
        self.assertEqual(problem.problem_id, "test-00000")

    def test_a_row_of_another_source_has_inputs_and_targets_alone(self):
        problem = rows.to_problem({"inputs": "q", "targets": "t"}, split="train", index=7)
        self.assertEqual((problem.answer, problem.solutions), ("t", ()))
        self.assertEqual(problem.problem_id, "train-00007")
        row = {"inputs": "q", "targets": "long solution", "answer": "t"}
        problem = rows.to_problem(row, split="train", index=7)
        self.assertEqual((problem.answer, problem.solutions), ("t", ("long solution",)))

    @parameterized.parameters(
        ({}, "no field 'inputs'"),
        ([1], "expected a JSON object, found list"),
        ({"inputs": 5}, "'inputs' must be a non-empty string, not 5"),
        ({"inputs": " "}, "'inputs' must be a non-empty string, not ' '"),
        ({"inputs": "a", "targets": 5}, "'targets' must be a non-empty string, not 5"),
        ({"inputs": "a", "answer": b"5"}, "'answer' must be a string or a number, not bytes"),
        ({"inputs": "a", "answer": ["5"]}, "'answer' must be a string or a number, not list"),
        ({"inputs": "a", "answer": float("nan")}, "'answer' is nan, which is no number"),
        ({"inputs": "a", "solutions": "b"}, "'solutions' must be a list of strings, not"),
        ({"inputs": "a", "solutions": {"b": 1}}, "'solutions' must be a list of strings, not dict"),
        ({"inputs": "a", "solutions": 5}, "'solutions' must be a list of strings, not int"),
        ({"inputs": "a", "solutions": [5]}, "'solutions' must be a list of strings"),
        ({"inputs": "a", "tests": {"x": {1}}}, "'tests' is not what JSON can hold"),
        ({"inputs": "a", "tests": ["1"]}, "'tests' must be a JSON object, not list"),
        ({"inputs": "a", "tests": b"{}"}, "'tests' must be a JSON object, not bytes"),
        ({"inputs": "a", "metadata": {"x": float}}, "'metadata' is not what JSON can hold"),
        ({"inputs": "a", "metadata": 5}, "'metadata' must be a JSON object, not int"),
    )
    def test_bad_records_are_named(self, record, message):
        with self.assertRaisesRegex(UserError, f"task toy, test record 2: {message}"):
            read(lambda split: [{"inputs": "fine"}, record])


if __name__ == "__main__":
    absltest.main()

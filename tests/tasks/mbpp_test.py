"""The task `mbpp`, from a folder made here."""

import json

import gin
from absl.testing import absltest

from restem import verify
from restem.tasks import mbpp  # noqa: F401  adds the task
from tests.helpers.data_folders import DataFolderTest

TESTS = ["assert double(1) == 2", "assert double(3) == 6", "assert double(5) == 10"]
LISTED = """
def double(x):
    return {%s}[x]
"""


class MbppTest(DataFolderTest):
    def problems(self, *bindings):
        row = {"text": "Double.", "code": "double = lambda x: 2 * x", "test_list": TESTS}
        self.write("mbpp/mbpp.jsonl", *(row | {"task_id": task_id} for task_id in (11, 601)))
        gin.parse_config(bindings)
        self.addCleanup(gin.clear_config)
        _, problems = self.materialize("mbpp", splits=("train", "test"))
        return [problems[split][0] for split in ("train", "test")]

    def test_a_program_that_lists_the_shown_values(self):
        for shown, reward in ((None, 1.0), (1, 0.0)):
            train, test = self.problems(f"mbpp.shown_tests = {shown}")
            self.assertEqual(test.inputs.count("assert"), 3)
            self.assertEqual(train.inputs.count("assert"), shown or 3)
            values = ((1, 2), (3, 6), (5, 10))[:shown]
            program = LISTED % ", ".join(f"{x}: {y}" for x, y in values)
            found = verify.run_programs([program], [json.loads(train.tests)], workers=1)
            self.assertEqual(found[0].reward, reward, found)


if __name__ == "__main__":
    absltest.main()

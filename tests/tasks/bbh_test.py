"""BIG-Bench Hard: files, tasks, groups and prompts."""

from absl.testing import absltest

from restem.data import registry
from restem.errors import UserError
from restem.tasks import bbh
from tests.helpers.data_folders import DataFolderTest


class BbhTest(DataFolderTest):
    def test_27_files_are_23_tasks(self):
        self.assertLen(bbh.FILES, 27)
        self.assertLen(bbh.TASKS, 23)
        for style in bbh.STYLES:
            members = registry.group(f"bbh_{style}")
            self.assertEqual(sorted(members), [bbh.task_name(style, f) for f in bbh.FILES])

    def test_official_folders_and_absent_prompts(self):
        self.write("bbh/snarks.json", {"examples": [{"input": "Which?", "target": "(A)"}]})
        rows = registry.get("bbh_cot_snarks").source("test", data_dir=str(self.root))
        self.assertEqual(
            [(r["inputs"], r["answer"]) for r in rows],
            [("Q: Which?\nA: Let's think step by step.", "(A)")],
        )
        with self.assertRaisesRegex(UserError, "no examples of hyperbaton"):
            registry.get("bbh_direct_hyperbaton").source("test", data_dir=str(self.root))
        with self.assertRaisesRegex(UserError, r"bbh/prompts\.jsonl.*BIG-Bench-Hard"):
            self.materialize("bbh_cot_snarks")
        self.write(
            "bbh/prompts.jsonl",
            *[{"task": f, "cot_prompt": "Q", "direct_prompt": "Q"} for f in bbh.FILES],
        )
        with self.assertRaisesRegex(UserError, "these are not the published cot prompts"):
            self.materialize("bbh_cot_snarks")


if __name__ == "__main__":
    absltest.main()

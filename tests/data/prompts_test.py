"""Published prompts and their checksums."""

from absl.testing import absltest

from restem.data import prompts
from restem.errors import UserError
from restem.tasks import shots
from tests.helpers.data_folders import DataFolderTest


class PromptsTest(DataFolderTest):
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


if __name__ == "__main__":
    absltest.main()

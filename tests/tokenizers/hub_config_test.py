"""Chat template, special tokens and generation config, from every place where they may be."""

import json
import pathlib

from absl.testing import absltest

from restem.errors import UserError
from restem.tokenizers import hub_config

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


class HubConfigTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)

    def write(self, name: str, **values) -> None:
        (self.folder / name).write_text(json.dumps(values))

    def test_a_folder_without_any(self):
        found = hub_config.from_hf(self.folder)
        self.assertEqual(found, hub_config.HubConfig())
        self.assertIsNone(found.chat_template)
        self.assertEqual(hub_config.load(self.folder), found)

    def test_a_folder(self):
        self.write("special_tokens_map.json", eos_token="old", unk_token="<unk>")
        self.write("tokenizer_config.json", eos_token="<|im_end|>", auto_map={"a": "b.C"})
        self.write("generation_config.json", temperature=0.6, transformers_version="4.1")
        found = hub_config.from_hf(self.folder)
        self.assertEqual(found.tokenizer, {"eos_token": "<|im_end|>", "unk_token": "<unk>"})
        self.assertEqual(found.generation, {"temperature": 0.6})

    def test_places_of_the_chat_template(self):
        self.write("chat_template.json", chat_template="of the processor")
        self.assertEqual(hub_config.from_hf(self.folder).chat_template, "of the processor")
        self.write("tokenizer_config.json", chat_template=TEMPLATE)
        self.assertEqual(hub_config.from_hf(self.folder).chat_template, TEMPLATE)
        named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
        self.write("tokenizer_config.json", chat_template=named)
        self.assertEqual(hub_config.from_hf(self.folder).chat_template, "d")
        (self.folder / "chat_template.jinja").write_text("of its own file")
        self.assertEqual(hub_config.from_hf(self.folder).chat_template, "of its own file")

    def test_a_gguf_header(self):
        header = {
            "tokenizer.chat_template": TEMPLATE,
            "tokenizer.ggml.tokens": ["<pad>", "<s>", "</s>", "a"],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 0,
        }
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        found = hub_config.from_gguf(header)
        self.assertEqual(found.tokenizer, {**special, "chat_template": TEMPLATE})
        self.assertEqual(hub_config.from_gguf({}), hub_config.HubConfig())

    def test_it_travels(self):
        config = hub_config.HubConfig({"chat_template": TEMPLATE}, {"top_p": 0.9})
        config.save(self.folder / "new")
        self.assertEqual(hub_config.load(self.folder / "new"), config)

    def test_a_file_that_is_not_json(self):
        (self.folder / "generation_config.json").write_text("{")
        with self.assertRaisesRegex(UserError, "generation_config.json is not JSON"):
            hub_config.from_hf(self.folder)


if __name__ == "__main__":
    absltest.main()

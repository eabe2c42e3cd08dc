"""Conversations have the text and the tokens that transformers' apply_chat_template gives them."""

import datetime
import importlib.util
import json
import pathlib
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest, parameterized

from restem.checkpoints import pypi
from restem.errors import UserError
from restem.records import CHAT_DATE
from restem.tokenizers import hf, saved
from restem.tokenizers.chat_template import ChatTemplate
from restem.tokenizers.conversion import to_tokenizer_json
from tests.helpers import chat_templates, packaged, vocabularies

SHOTS = [
    {"role": "user", "content": "What is $1+1$?"},
    {"role": "assistant", "content": "It is\n\n\\boxed{2}."},
    {"role": "user", "content": "  And <b>2</b> + 'two' & \"3\"?\n"},
]
SYSTEM = {"role": "system", "content": "You count."}
CONVERSATIONS = {
    "question": SHOTS[:1],
    "shots": SHOTS,
    "system": [SYSTEM, *SHOTS],
    **{f"text_{name}": [{"role": "user", "content": t}] for name, t in vocabularies.TEXTS.items()},
}
DAY = datetime.date.fromisoformat(CHAT_DATE)  # templates may write the date
needs_transformers = unittest.skipIf(
    importlib.util.find_spec("transformers") is None,
    "transformers is not installed (pip install 'restem[parity]')",
)


def reference(model: bytes, template: ChatTemplate):
    """Returns the tokenizer of transformers with the same model and template."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "tokenizer.json")
        path.write_bytes(model)
        return PreTrainedTokenizerFast(
            tokenizer_file=str(path), chat_template=template.source, **template.special_tokens
        )


def assert_equal_to_transformers(test, vocabulary, theirs, *, without: tuple[str, ...] = ()):
    template = vocabulary.chat_template
    clock = mock.patch("transformers.utils.chat_template_utils.datetime")
    test.enter_context(clock).now.return_value = DAY
    for name, conversation in CONVERSATIONS.items():
        if name in without:
            continue
        for generation in (True, False):
            with test.subTest(name, generation=generation):
                text = template.render(conversation, add_generation_prompt=generation)
                options = {"add_generation_prompt": generation}
                expected = theirs.apply_chat_template(conversation, tokenize=False, **options)
                test.assertEqual(text, expected)
                ids = theirs.apply_chat_template(conversation, return_dict=False, **options)
                test.assertEqual(vocabulary.encode(text, opening=True), ids)


class ParityTest(parameterized.TestCase):
    @parameterized.parameters(*chat_templates.TEMPLATES)
    @needs_transformers
    def test_forms_of_the_families(self, name):
        vocabulary = chat_templates.vocabulary(name)
        theirs = reference(vocabulary.model, vocabulary.chat_template)
        without = ("system",) if name in ("gemma", "mistral") else ()
        assert_equal_to_transformers(self, vocabulary, theirs, without=without)

    @parameterized.parameters(*pypi.MODELS)
    @needs_transformers
    def test_real_models(self, package):
        packaged.require(self, package)
        vocabulary = packaged.vocabulary(package)
        if vocabulary.chat_template is None:
            self.skipTest(f"pypi:{package} has no chat template")
        theirs = reference(to_tokenizer_json(vocabulary), vocabulary.chat_template)
        assert_equal_to_transformers(self, vocabulary, theirs)

    def test_known_conversation(self):
        text = chat_templates.vocabulary("chatml").chat_template.render(SHOTS[:1])
        self.assertEqual(
            text,
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nWhat is $1+1$?<|im_end|>\n"
            "<|im_start|>assistant\n",
        )


class TemplateTest(parameterized.TestCase):
    def test_dates_and_options(self):
        llama3 = chat_templates.vocabulary("llama3").chat_template
        self.assertIn("Today Date: 26 Jul 2024\n", llama3.render(SHOTS))
        self.assertIn("Today Date: 05 Jan 2025\n", llama3.render(SHOTS, date="2025-01-05"))
        chatml = chat_templates.vocabulary("chatml").chat_template
        without = chatml.render(SHOTS, options={"enable_thinking": False})
        self.assertEqual(without, chatml.render(SHOTS) + "<think>\n\n</think>\n\n")

    def test_refusals_are_one_line(self):
        gemma = chat_templates.vocabulary("gemma").chat_template
        with self.assertRaisesRegex(UserError, "system, user.*System role not supported"):
            gemma.render([SYSTEM, *SHOTS[:1]])
        for source, reason in (("{% if %}", "Expected an expression"), ("{{ 1 + 'a' }}", "int")):
            with self.assertRaisesRegex(UserError, reason):
                ChatTemplate(source).render(SHOTS)

    def test_a_template_is_in_a_sandbox(self):
        for source in (
            "{{ messages.append(1) }}",
            "{{ ''.__class__.__mro__[1] }}",
        ):
            with self.assertRaisesRegex(UserError, "unsafe"):
                ChatTemplate(source).render(SHOTS)


class TurnEndTest(parameterized.TestCase):
    @parameterized.parameters(*chat_templates.TEMPLATES)
    def test_the_end_of_a_turn_ends_a_text(self, name):
        vocabulary = chat_templates.vocabulary(name)
        end = chat_templates.TURN_ENDS[name]
        self.assertEqual(vocabulary.token(vocabulary.turn_end_id), end)
        self.assertEqual(vocabulary.for_chat.eos_ids, vocabulary.eos_ids | {vocabulary.turn_end_id})
        self.assertEqual(vocabulary.for_chat.encode("a b"), vocabulary.encode("a b"))
        self.assertIs(vocabulary.for_chat.for_chat, vocabulary.for_chat)

    def test_a_vocabulary_without_one(self):
        vocabulary = vocabularies.of_kind("gguf_smollm")
        with self.assertRaisesRegex(UserError, "no chat template"):
            _ = vocabulary.for_chat
        vocabulary = type(vocabulary)(
            vocabulary.model,
            vocabulary.specials,
            ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
        )
        with self.assertRaisesRegex(UserError, "with no special token"):
            _ = vocabulary.turn_end_id


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        (self.folder / "tokenizer.json").write_bytes(chat_templates.tokenizer_json())
        (self.folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))

    def load(self, **settings):
        (self.folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return hf.from_hf(self.folder)

    def test_the_forms_in_use(self):
        expected = ChatTemplate("A", {"bos_token": "<s>", "eos_token": "</s>"})
        tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
        self.assertEqual(self.load(chat_template="A", **tokens).chat_template, expected)
        several = [{"name": "tool_use", "template": "B"}, {"name": "default", "template": "A"}]
        self.assertEqual(self.load(chat_template=several, **tokens).chat_template, expected)
        self.assertIsNone(self.load(**tokens).chat_template)
        (self.folder / "chat_template.json").write_text(json.dumps({"chat_template": "A"}))
        self.assertEqual(self.load(**tokens).chat_template, expected)
        (self.folder / "chat_template.jinja").write_text("A")
        self.assertEqual(self.load(chat_template="B", **tokens).chat_template, expected)

    def test_gguf(self):
        metadata = {
            **vocabularies.bpe_metadata("smollm"),
            "tokenizer.chat_template": "{{ bos_token }}{{ eos_token }}",
        }
        template = vocabularies.gguf.from_gguf(metadata).chat_template
        self.assertEqual(template.render([]), "<|begin_of_text|><|end_of_text|>")

    def test_it_travels_with_a_checkpoint(self):
        vocabulary = chat_templates.vocabulary("llama3")
        vocabulary.save(self.folder / "saved")
        again = saved.load(self.folder / "saved")
        self.assertEqual(again.chat_template, vocabulary.chat_template)
        self.assertEqual(again.for_chat.eos_ids, vocabulary.for_chat.eos_ids)
        # It does not change how text is tokenised.
        without = type(vocabulary)(vocabulary.model, vocabulary.specials)
        self.assertEqual(without.fingerprint, vocabulary.fingerprint)


if __name__ == "__main__":
    absltest.main()

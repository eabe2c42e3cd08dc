"""Small tokenizers of every kind, and hard texts to try them on."""

import functools
import json
import pathlib
import tempfile

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from restem.tokenizers import gguf, hf
from restem.tokenizers.vocabulary import Vocabulary

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


@functools.cache
def train_sentencepiece(**options) -> bytes:
    """A small BPE model with byte fallback, like those of Llama and Gemma."""
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


def write_hf(folder: str, file_name: str, model: bytes, **settings) -> Vocabulary:
    path = pathlib.Path(folder)
    (path / file_name).write_bytes(model)
    config = {"bos_token_id": 1, "eos_token_id": 2}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return hf.from_hf(folder)


@functools.cache
def llama3_tokenizer() -> bytes:
    """A small tokenizer.json in the form of Llama 3's: split by expression, byte-level, BOS."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(gguf.LLAMA3_SPLIT), "isolated"),
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


def bpe_metadata(pre: str) -> dict:
    """Metadata of a GGUF file with the tokens of `llama3_tokenizer`, split as `pre` names."""
    tokenizer = tokenizers.Tokenizer.from_str(llama3_tokenizer().decode())
    merges = json.loads(llama3_tokenizer())["model"]["merges"]
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def sentencepiece_metadata(model: bytes, dummy_prefix: bool) -> dict:
    """Metadata of a GGUF file that llama.cpp's converter would write for a SentencePiece model."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

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


KINDS = (
    "tokenizer_json", "gguf_smollm", "gguf_llama-bpe", "gguf_qwen2", "gguf_tekken",
    "sentencepiece", "sentencepiece_dummy", "gguf_sentencepiece", "gguf_sentencepiece_dummy",
)  # fmt: skip
"""Names of `of_kind`; "dummy" models put a space before the first text."""


@functools.cache
def of_kind(kind: str) -> Vocabulary:
    """Returns a small vocabulary of one of `KINDS`."""
    if kind.removeprefix("gguf_").startswith("sentencepiece"):
        is_dummy = kind.endswith("_dummy")
        model = train_sentencepiece(add_dummy_prefix=is_dummy)
        if kind.startswith("gguf"):
            return gguf.from_gguf(sentencepiece_metadata(model, is_dummy))
        with tempfile.TemporaryDirectory() as folder:
            return write_hf(folder, "tokenizer.model", model)
    if kind.startswith("gguf_"):
        return gguf.from_gguf(bpe_metadata(kind.removeprefix("gguf_")))
    with tempfile.TemporaryDirectory() as folder:
        return write_hf(folder, "tokenizer.json", llama3_tokenizer())


def assert_byte_exact(test, vocabulary: Vocabulary) -> None:
    """Every text is the joined bytes of its ids, which decode to it."""
    for name, text in TEXTS.items():
        with test.subTest(name):
            ids = vocabulary.encode(text)
            joined = b"".join(vocabulary.token_bytes(i) for i in ids)
            test.assertEqual(joined, text.encode())
            test.assertEqual(vocabulary.decode(ids), text)
            test.assertTrue(all(0 <= i < vocabulary.size for i in ids))

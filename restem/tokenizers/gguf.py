"""Rebuilds a vocabulary from the metadata of a GGUF file.

GGUF keeps the tokens, their types and scores and, for BPE, the merges; it only names how text is
split before merging. Byte-level BPE becomes a tokenizer.json again, SentencePiece a ModelProto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.tokenizers import chat_template, hub_config
from restem.tokenizers.sentencepiece import SentencePieceVocabulary
from restem.tokenizers.tokenizer_json import TokenizersVocabulary
from restem.tokenizers.vocabulary import END_TOKENS, SPACE, Specials, Vocabulary

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class _PreTokenizer:
    """How byte-level BPE splits text before merging."""

    expression: str | None = None
    """What one piece of text looks like; None is GPT-2's own."""
    split_digits: bool = False
    """Whether every digit is a piece by itself."""
    ignore_merges: bool = False
    """Whether a piece that is a token skips merging."""
    nfc: bool = False
    """Whether text is normalised to NFC first."""


_DIGITS = _PreTokenizer(split_digits=True)
_LLAMA3 = _PreTokenizer(LLAMA3_SPLIT, ignore_merges=True)
_QWEN2 = _PreTokenizer(_QWEN2_SPLIT, nfc=True)
_PRE_TOKENIZERS: Mapping[str, _PreTokenizer] = {
    "gpt-2": _PreTokenizer(),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "tekken": _PreTokenizer(_TEKKEN_SPLIT, ignore_merges=True),
}
"""By the name that GGUF gives it."""
# GGUF numbers token types as SentencePiece does.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6


def from_gguf(metadata: Mapping[str, Any], *, source: str = "GGUF file") -> Vocabulary:
    """Returns the vocabulary that the metadata of a GGUF file describes.

    Args:
      metadata: keys and values of the file's header (`tokenizer.ggml.*`).
      source: name of the file in errors.

    Raises:
      UserError: the metadata describes no vocabulary, or one of a kind not supported here.
    """
    get = lambda key, default=None: metadata.get(f"tokenizer.ggml.{key}", default)
    tokens = get("tokens")
    if tokens is None:
        raise UserError(
            f"{source} carries no vocabulary (tokenizer.ggml.tokens): use one that does"
        )
    types = get("token_type") or [1] * len(tokens)
    eos_ids = {get(f"{name}_token_id") for name in ("eos", "eot", "eom")} - {None}
    eos_ids |= {i for i, t in enumerate(tokens) if types[i] == _CONTROL and t in END_TOKENS}
    if not eos_ids:
        raise UserError(f"{source} names no end-of-text token (tokenizer.ggml.eos_token_id)")
    kind = get("model")
    pre = _named_split(metadata, tokens) if kind == "gpt2" else None
    specials = Specials(
        bos_id=get("bos_token_id"),
        eos_ids=frozenset(eos_ids),
        pad_id=get("padding_token_id", min(eos_ids)),
        add_bos=bool(get("add_bos_token", kind == "llama" or pre == "llama-bpe")),
        space_after_specials=kind == "llama" and bool(get("add_space_prefix", True)),
    )
    template = chat_template.of_hub(hub_config.from_gguf(metadata))
    if kind == "gpt2":
        if pre is None:
            raise UserError(
                f"{source} does not say how it splits text (tokenizer.ggml.pre is missing or"
                " 'default'): load the Hugging Face folder instead"
            )
        if pre not in _PRE_TOKENIZERS:
            raise UserError(
                f"{source} splits text by {pre!r}, which restem does not know (it knows "
                f"{', '.join(sorted(_PRE_TOKENIZERS))}): load the Hugging Face folder instead"
            )
        try:
            model = _bpe(tokens, types, get("merges") or (), pre)
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise UserError(
                f"{source}: its merges do not fit its tokens ({error}); download it again"
            ) from error
        return TokenizersVocabulary(model, specials, template)
    if kind == "llama":
        model = _sentencepiece_model(
            tokens,
            get("scores"),
            types,
            unk_id=get("unknown_token_id", 0),
            add_dummy_prefix=bool(get("add_space_prefix", True)),
            remove_extra_whitespaces=bool(get("remove_extra_whitespaces", False)),
        )
        return SentencePieceVocabulary(model, specials, template)
    raise UserError(
        f"{source} has a vocabulary of kind {kind!r}; restem reads 'gpt2' (byte-level BPE) and "
        "'llama' (SentencePiece): load the model from its Hugging Face folder"
    )


def _named_split(metadata: Mapping[str, Any], tokens: Sequence[str]) -> str | None:
    """Returns the name of how byte-level BPE splits text, or None if it cannot be known.

    Old files have no name, or "default", whatever the split; the models of some architectures all
    have the same one.
    """
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre != "default":
        return pre
    architecture = metadata.get("general.architecture")
    if architecture in ("qwen2", "qwen3"):
        return "qwen2"
    is_llama3 = list(tokens[128_000:128_001]) == ["<|begin_of_text|>"]
    return "llama-bpe" if architecture == "llama" and is_llama3 else None


def _bpe(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str) -> bytes:
    """Returns the tokenizer.json of a byte-level BPE."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    split = _PRE_TOKENIZERS[pre]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[(left, right) for left, right in (merge.split(" ") for merge in merges)],
            ignore_merges=split.ignore_merges,
        )
    )
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    stages: list[pre_tokenizers.PreTokenizer] = []
    if split.split_digits:
        stages.append(pre_tokenizers.Digits(individual_digits=True))
    if split.expression is not None:
        stages.append(pre_tokenizers.Split(tokenizers.Regex(split.expression), "isolated"))
    gpt2 = split.expression is None
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        tokenizers.AddedToken(token, special=kind != _USER_DEFINED, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED, _UNUSED)
    ]
    tokenizer.add_tokens(added)
    return tokenizer.to_str().encode()


def _sentencepiece_model(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    unk_id: int,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
) -> bytes:
    """Returns the tokenizer.model (a serialised ModelProto) of a SentencePiece BPE."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        if i == unk_id:
            kind = _UNKNOWN
        elif kind == _USER_DEFINED:
            # GGUF writers store these with plain spaces; SentencePiece matches escaped text.
            token = token.replace(" ", SPACE)
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = _BYTE in types
    proto.trainer_spec.vocab_size = len(tokens)
    proto.trainer_spec.unk_id = unk_id
    proto.trainer_spec.unk_piece = tokens[unk_id]
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = add_dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = remove_extra_whitespaces
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString()

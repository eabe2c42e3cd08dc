"""Converts any vocabulary to a Hugging Face tokenizer.json, for export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from restem.errors import UserError
from restem.tokenizers.sentencepiece import SentencePieceVocabulary, parse_model
from restem.tokenizers.vocabulary import SPACE, Vocabulary

_ADDS_SPECIALS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
"""Types of post-processors that put special tokens around a text."""


def to_tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """Returns a tokenizer.json whose ids of a text are the vocabulary's `prompt_ids`.

    Raises:
      UserError: `vocabulary` is a SentencePiece model that is not BPE.
    """
    import tokenizers
    from tokenizers import processors

    if isinstance(vocabulary, SentencePieceVocabulary):
        tokenizer = _from_sentencepiece(vocabulary)
    else:
        tokenizer = tokenizers.Tokenizer.from_str(vocabulary.model.decode())
    if tuple(tokenizer.encode("").ids) != vocabulary.start_ids:
        # The settings beside a tokenizer.json may say otherwise than its template does.
        spec = json.loads(tokenizer.to_str())
        spec["post_processor"] = _without_specials(spec["post_processor"])
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    bos_id = vocabulary.bos_id
    if vocabulary.start_ids and bos_id is not None and not tokenizer.encode("").ids:
        bos = vocabulary.token(bos_id)
        tokenizer.post_processor = processors.Sequence(
            [
                *([tokenizer.post_processor] if tokenizer.post_processor is not None else []),
                processors.TemplateProcessing(
                    single=f"{bos} $A",
                    pair=f"{bos} $A {bos}:1 $B:1",
                    special_tokens=[(bos, bos_id)],
                ),
            ]
        )
    return tokenizer.to_str().encode()


def _without_specials(part: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns a post-processor of a tokenizer.json without the stages that add special tokens."""
    if part is None or part["type"] in _ADDS_SPECIALS:
        return None
    if part["type"] != "Sequence":
        return part
    kept = [stage for old in part["processors"] if (stage := _without_specials(old))]
    return {**part, "processors": kept} if kept else None


def _from_sentencepiece(vocabulary: SentencePieceVocabulary):
    import tokenizers
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import decoders, models, normalizers

    proto = parse_model(vocabulary.model)
    spec = proto.trainer_spec
    if spec.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
        raise UserError(
            "this SentencePiece vocabulary is not BPE, unlike those of restem's model families; "
            "it cannot be exported as tokenizer.json"
        )
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    mergeable = {p.piece: p.score for p in proto.pieces if p.type == kinds.NORMAL}
    # A user-defined symbol is matched whole, but may also be part of a longer piece.
    parts = mergeable.keys() | {p.piece for p in proto.pieces if p.type == kinds.USER_DEFINED}
    merges = []
    for piece, score in mergeable.items():
        for i in range(1, len(piece)):
            left, right = piece[:i], piece[i:]
            if left in parts and right in parts:
                # SentencePiece merges the pair whose result scores highest.
                merges.append((-score, ids[piece], ids[left], ids[right], left, right))
    merges.sort()
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(left, right) for *_, left, right in merges],
            unk_token=proto.pieces[spec.unk_id].piece,
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
        )
    )
    prefix = proto.normalizer_spec.add_dummy_prefix
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefix else replace
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken(
                piece.piece,
                special=piece.type != kinds.USER_DEFINED,
                normalized=piece.type == kinds.USER_DEFINED,
            )
            for piece in proto.pieces
            if piece.type in (kinds.CONTROL, kinds.UNKNOWN, kinds.USER_DEFINED)
        ]
    )
    return tokenizer

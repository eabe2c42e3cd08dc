"""Vocabularies of the `sentencepiece` library: a `tokenizer.model`."""

from __future__ import annotations

import functools
import re

from restem.tokenizers.chat_template import ChatTemplate
from restem.tokenizers.vocabulary import Specials, Vocabulary, piece_bytes


class SentencePieceVocabulary(Vocabulary):
    """A vocabulary that the `sentencepiece` library runs."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes, specials: Specials, chat_template: ChatTemplate | None = None):
        super().__init__(model, specials, chat_template)
        proto = parse_model(model)
        self._opening = _processor(model)
        self._continuing = self._opening
        if proto.normalizer_spec.add_dummy_prefix:
            proto.normalizer_spec.add_dummy_prefix = False
            self._continuing = _processor(proto.SerializeToString())

    @property
    def size(self) -> int:
        return self._opening.vocab_size()

    def token(self, token_id: int) -> str:
        return self._opening.id_to_piece(token_id)

    @functools.cached_property
    def _controls(self) -> tuple[re.Pattern[str], dict[str, int]]:
        sp = self._opening
        ids = {sp.id_to_piece(i): i for i in range(sp.vocab_size()) if sp.is_control(i)}
        longest_first = sorted(ids, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")"), ids

    def encode(self, text: str, *, opening: bool = False) -> list[int]:
        pattern, control_ids = self._controls
        if not control_ids:
            return (self._opening if opening else self._continuing).encode(text)
        ids = []
        everywhere = self.specials.space_after_specials
        for i, part in enumerate(pattern.split(text)):
            if part in control_ids:
                ids.append(control_ids[part])
            elif part:
                processor = (
                    self._opening if opening and (i == 0 or everywhere) else self._continuing
                )
                ids.extend(processor.encode(part))
        return ids

    def _bytes_of(self, token_id: int) -> bytes:
        sp = self._opening
        if sp.is_control(token_id) or sp.is_unknown(token_id) or sp.is_unused(token_id):
            return b""
        return piece_bytes(sp.id_to_piece(token_id), sp.is_byte(token_id))


def _processor(model: bytes):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def parse_model(model: bytes):
    """Returns the `ModelProto` of a serialised tokenizer.model."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)

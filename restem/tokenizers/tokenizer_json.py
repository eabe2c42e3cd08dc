"""Vocabularies of the `tokenizers` library: a `tokenizer.json`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from restem.errors import UserError
from restem.tokenizers.chat_template import ChatTemplate
from restem.tokenizers.vocabulary import Specials, Vocabulary, piece_bytes


class TokenizersVocabulary(Vocabulary):
    """A vocabulary that the `tokenizers` library runs."""

    file_name = "tokenizer.json"

    def __init__(self, model: bytes, specials: Specials, chat_template: ChatTemplate | None = None):
        super().__init__(model, specials, chat_template)
        self._spec = json.loads(model)
        self._opening = new_tokenizer(model)
        continuing = _without_dummy_prefix(self._spec)
        same = continuing == self._spec
        self._continuing = self._opening if same else new_tokenizer(json.dumps(continuing).encode())

    @functools.cached_property
    def size(self) -> int:
        # Ids may have gaps: o200k's end-of-text and Phi-4-mini's turns lie beyond the merges.
        return 1 + max(self._opening.get_vocab(with_added_tokens=True).values(), default=-1)

    def token(self, token_id: int) -> str:
        return self._opening.id_to_token(token_id)

    def encode(self, text: str, *, opening: bool = False) -> list[int]:
        tokenizer = self._opening if opening else self._continuing
        return tokenizer.encode(text, add_special_tokens=False).ids

    def _bytes_of(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return b"" if added["special"] else self._added_bytes(added["content"])
        token = self._opening.id_to_token(token_id)
        if token is None or token == self._spec["model"].get("unk_token"):
            return b""
        return self._to_bytes(token)

    @functools.cached_property
    def _added(self) -> dict[int, dict[str, Any]]:
        return {token["id"]: token for token in self._spec.get("added_tokens", ())}

    def _added_bytes(self, content: str) -> bytes:
        """Returns the bytes of an added token that stands for text.

        Byte-level tokenizers spell such a token as plain text; SentencePiece-like ones spell it as
        a piece, so Gemma's run of two spaces is "\u2581\u2581".
        """
        return content.encode() if self._is_byte_level else piece_bytes(content, False)

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in _component_types(self._spec)

    @functools.cached_property
    def _to_bytes(self) -> Callable[[str], bytes]:
        """Returns the bytes of a token of the model's vocabulary."""
        model = self._spec["model"]
        if self._is_byte_level:
            characters = _byte_characters()
            return lambda token: bytes(characters[c] for c in token)
        if model["type"] in ("BPE", "Unigram"):
            byte_fallback = model.get("byte_fallback", False)
            return lambda token: piece_bytes(token, byte_fallback)
        raise UserError(
            f"tokenizer.json of type {model['type']}: restem reads byte-level BPE and"
            " SentencePiece-like tokenizers; use a model of a supported family"
        )


@functools.cache
def _byte_characters() -> dict[str, int]:
    """Returns the byte that each character of byte-level BPE stands for (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    rest = (b for b in range(256) if b not in printable)
    return table | {chr(256 + i): b for i, b in enumerate(rest)}


def _component_types(spec: Any) -> set[str]:
    """Returns the types of all components of a tokenizer.json that see text."""
    if isinstance(spec, Mapping):
        parts = [spec.get(k) for k in ("decoder", "pre_tokenizer", "pretokenizers", "decoders")]
        return (
            {spec["type"]} | _component_types(parts) if "type" in spec else _component_types(parts)
        )
    if isinstance(spec, list):
        return set().union(*map(_component_types, spec))
    return set()


def _without_dummy_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a tokenizer.json like `spec` that puts no space before a text."""

    def clean(part):
        if isinstance(part, list):
            return [
                clean(p) for p in part if not (isinstance(p, dict) and p.get("type") == "Prepend")
            ]
        if not isinstance(part, dict):
            return part
        if part.get("type") == "Prepend":
            return None
        part = {
            k: clean(v) if k in ("normalizers", "pretokenizers") else v for k, v in part.items()
        }
        if part.get("type") == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = False
        return part

    return {**spec, **{k: clean(spec.get(k)) for k in ("normalizer", "pre_tokenizer")}}


def new_tokenizer(model: bytes):
    """Returns the `tokenizers.Tokenizer` of a tokenizer.json that neither truncates nor pads."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_buffer(model)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

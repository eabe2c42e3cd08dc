"""Vocabularies of the `tokenizers` library: a `tokenizer.json`."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
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
        self._opening = new_tokenizer(self._spec)
        continuing = _without_dummy_prefix(self._spec)
        self._continuing = self._opening if continuing == self._spec else new_tokenizer(continuing)

    @property
    def size(self) -> int:
        return self._opening.get_vocab_size(with_added_tokens=True)

    def token(self, token_id: int) -> str:
        return self._opening.id_to_token(token_id)

    def encode(self, text: str, *, opening: bool = False) -> list[int]:
        tokenizer = self._opening if opening else self._continuing
        return tokenizer.encode(text, add_special_tokens=False).ids

    def _token_table(self) -> list[bytes]:
        kinds = _component_types(self._spec)
        if "ByteLevel" in kinds:
            characters = _byte_characters()
            to_bytes = lambda token: bytes(characters[c] for c in token)
        elif self._spec["model"]["type"] in ("BPE", "Unigram"):
            byte_fallback = self._spec["model"].get("byte_fallback", False)
            to_bytes = lambda token: piece_bytes(token, byte_fallback)
        else:
            raise UserError(
                f"tokenizer.json of type {self._spec['model']['type']}: restem reads byte-level "
                "BPE and SentencePiece-like tokenizers; use a model of a supported family"
            )
        added = {t["id"]: t for t in self._spec.get("added_tokens", ())}
        unknown = self._spec["model"].get("unk_token")
        table = []
        for i in range(self.size):
            token = self._opening.id_to_token(i)
            if i in added:
                table.append(b"" if added[i]["special"] else added[i]["content"].encode())
            elif token is None or token == unknown:
                table.append(b"")
            else:
                table.append(to_bytes(token))
        return table


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


def new_tokenizer(spec: Mapping[str, Any]):
    """Returns the `tokenizers.Tokenizer` of a tokenizer.json that neither truncates nor pads."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

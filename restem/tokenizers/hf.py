"""Vocabularies of Hugging Face model folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from restem.errors import UserError
from restem.runtime import storage
from restem.tokenizers import chat_template, hub_config
from restem.tokenizers.sentencepiece import SentencePieceVocabulary, parse_model
from restem.tokenizers.tokenizer_json import TokenizersVocabulary, new_tokenizer
from restem.tokenizers.vocabulary import END_TOKENS, Specials, Vocabulary

_CONTROL, _USER_DEFINED = 3, 4  # types of SentencePiece pieces


@dataclasses.dataclass(frozen=True)
class _ModelFile:
    """What a tokenizer's model file says by itself."""

    kind: type[TokenizersVocabulary | SentencePieceVocabulary]
    model: bytes
    to_id: Callable[[str], int | None]
    """Id of a token by its spelling."""
    special_ids: Mapping[str, int]
    """Ids of special tokens by their spelling."""
    starts: list[int]
    """Ids that the tokenizer itself puts before a text."""


def from_hf(folder: epath.PathLike) -> Vocabulary:
    """Returns the vocabulary of a Hugging Face model folder.

    `tokenizer.json` is preferred to `tokenizer.model`. The ids that end a text are those named by
    `generation_config.json`, `config.json` or `tokenizer_config.json`, and the well-known ones.

    Raises:
      UserError: the folder holds no tokenizer, or none of its files names an end-of-text token.
    """
    folder = epath.Path(folder)
    file = _model_file(folder)
    settings = _read_json(folder / "tokenizer_config.json")
    config = _read_json(folder / "config.json")
    config = {**config, **config.get("text_config", {})}

    def named_id(name: str) -> int | None:
        token = settings.get(f"{name}_token")
        if isinstance(token, Mapping):
            token = token["content"]
        token_id = config.get(f"{name}_token_id") if token is None else file.to_id(token)
        return token_id if isinstance(token_id, int) and token_id >= 0 else None

    eos_ids = set()
    for source in (_read_json(folder / "generation_config.json"), config):
        named = source.get("eos_token_id")
        eos_ids.update(named if isinstance(named, list) else [] if named is None else [named])
    if named_id("eos") is not None:
        eos_ids.add(named_id("eos"))
    # Special tokens only: Qwen has an ordinary token spelled "</s>".
    eos_ids.update(i for token, i in file.special_ids.items() if token in END_TOKENS)
    if not eos_ids:
        raise UserError(
            f"{folder}: nothing names an end-of-text token; add eos_token_id to its "
            "generation_config.json"
        )
    bos_id, pad_id = named_id("bos"), named_id("pad")
    add_bos = settings.get("add_bos_token")
    if add_bos is None:
        add_bos = bos_id is not None and file.starts[:1] == [bos_id]
    specials = Specials(
        bos_id=bos_id,
        eos_ids=frozenset(eos_ids),
        pad_id=min(eos_ids) if pad_id is None else pad_id,
        add_bos=bool(add_bos),
        space_after_specials=settings.get("legacy") is True
        and file.kind is SentencePieceVocabulary,
    )
    return file.kind(file.model, specials, chat_template.of_hub(hub_config.from_hf(folder)))


def _model_file(folder: epath.Path) -> _ModelFile:
    if (folder / "tokenizer.json").exists():
        model = (folder / "tokenizer.json").read_bytes()
        spec = storage.read_json(folder / "tokenizer.json", remedy=storage.COPY)
        tokenizer = new_tokenizer(model)
        return _ModelFile(
            kind=TokenizersVocabulary,
            model=model,
            to_id=tokenizer.token_to_id,
            special_ids={
                t["content"]: t["id"] for t in spec.get("added_tokens", ()) if t["special"]
            },
            starts=tokenizer.encode("a", add_special_tokens=True).ids,
        )
    if (folder / "tokenizer.model").exists():
        model = (folder / "tokenizer.model").read_bytes()
        proto = parse_model(model)
        special = (_CONTROL, _USER_DEFINED)
        return _ModelFile(
            kind=SentencePieceVocabulary,
            model=model,
            to_id={p.piece: i for i, p in enumerate(proto.pieces)}.get,
            special_ids={p.piece: i for i, p in enumerate(proto.pieces) if p.type in special},
            starts=[proto.trainer_spec.bos_id],
        )
    raise UserError(
        f"{folder} holds neither tokenizer.json nor tokenizer.model: copy the tokenizer's files "
        "there"
    )


def _read_json(path: epath.Path) -> dict[str, Any]:
    return storage.read_json(path, remedy=storage.COPY) if path.exists() else {}

"""Vocabularies that travel with a checkpoint."""

from __future__ import annotations

import json

from etils import epath

from restem.errors import UserError
from restem.tokenizers.chat_template import ChatTemplate
from restem.tokenizers.sentencepiece import SentencePieceVocabulary
from restem.tokenizers.tokenizer_json import TokenizersVocabulary
from restem.tokenizers.vocabulary import SPEC_FILE, Specials, Vocabulary


def load(folder: epath.PathLike) -> Vocabulary:
    """Returns the vocabulary that `Vocabulary.save` wrote into `folder`.

    Raises:
      UserError: `folder` holds no saved vocabulary, or one of an unknown kind.
    """
    folder = epath.Path(folder)
    spec_path = folder / SPEC_FILE
    if not spec_path.exists():
        raise UserError(f"{spec_path} does not exist: {folder} holds no saved vocabulary")
    spec = json.loads(spec_path.read_text())
    file_name, stored = spec.pop("file"), spec.pop("chat_template", None)
    template = None if stored is None else ChatTemplate(**stored)
    for kind in (TokenizersVocabulary, SentencePieceVocabulary):
        if kind.file_name == file_name:
            specials = Specials(**{**spec, "eos_ids": frozenset(spec["eos_ids"])})
            return kind((folder / file_name).read_bytes(), specials, template)
    raise UserError(f"{spec_path} names an unknown vocabulary file {file_name!r}")

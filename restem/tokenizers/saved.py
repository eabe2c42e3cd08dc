"""Vocabularies that travel with a checkpoint."""

from __future__ import annotations

from etils import epath

from restem.errors import UserError
from restem.runtime import storage
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
    spec = storage.read_json(spec_path, "file", "eos_ids", remedy=storage.COPY)
    file_name, stored = spec.pop("file"), spec.pop("chat_template", None)
    template = None if stored is None else ChatTemplate(**stored)
    for kind in (TokenizersVocabulary, SentencePieceVocabulary):
        if kind.file_name == file_name:
            specials = Specials(**{**spec, "eos_ids": frozenset(spec["eos_ids"])})
            data = (folder / file_name).read_bytes()
            try:
                return kind(data, specials, template)
            except Exception as error:  # the libraries raise what they like
                text = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{folder / file_name}: cannot be read as a tokenizer ({text}); {storage.COPY}"
                ) from error
    raise UserError(f"{spec_path} names an unknown vocabulary file {file_name!r}")

"""Vocabularies: text to token ids and back, byte for byte.

There are two kinds, named after the library that does the work: `TokenizersVocabulary` (a Hugging
Face `tokenizer.json`: byte-level BPE of Llama 3, SmolLM2 and Qwen, or SentencePiece-like BPE) and
`SentencePieceVocabulary` (a `tokenizer.model`: Llama 1 and 2, Mistral, Gemma). Either can be read
from a Hugging Face folder (`hf.from_hf`) or rebuilt from the metadata of a GGUF file
(`gguf.from_gguf`), and either travels with a checkpoint (`Vocabulary.save`, `saved.load`). Nothing
here imports TensorFlow.

Text is decoded by joining the bytes of its tokens, never by a library's own `decode`, which drops
leading spaces or replaces half a character: a sampler must find a stop string in exactly the bytes
that training will see.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from etils import epath

from restem.errors import UserError
from restem.tokenizers.chat_template import ChatTemplate

# Any of these ends a text, whichever of them a checkpoint names as its own.
END_TOKENS = frozenset(
    {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
    | {"</s>", "<eos>", "<end_of_turn>"}
)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
SPEC_FILE = "vocabulary.json"
"""Name of the file that holds `Vocabulary.to_spec` beside the model file."""
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclasses.dataclass(frozen=True)
class Specials:
    """Token ids that stand for no text."""

    bos_id: int | None
    """Id that begins a text; None where the family has none."""
    eos_ids: frozenset[int]
    """Ids that end a text: end of text, of a turn, of a message."""
    pad_id: int
    """Id that fills rows; it is masked everywhere, so any value will do."""
    add_bos: bool
    """Whether texts of this family begin with `bos_id` (Gemma's and Llama's do, Qwen's do not)."""
    space_after_specials: bool = False
    """Whether the space that SentencePiece puts before a text also follows each special token in
    it, as in Llama 2's chats; transformers calls this `legacy`."""


class Vocabulary(abc.ABC):
    """Text to token ids and back."""

    file_name: str
    """File name of the serialised model within a folder."""

    def __init__(self, model: bytes, specials: Specials, chat_template: ChatTemplate | None = None):
        self.model = model
        self.specials = specials
        self.chat_template = chat_template

    @property
    def bos_id(self) -> int | None:
        return self.specials.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        return self.specials.eos_ids

    @property
    def pad_id(self) -> int:
        return self.specials.pad_id

    @property
    def add_bos(self) -> bool:
        return self.specials.add_bos

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Ids before the first text of a sequence: the BOS id, or none."""
        return (self.bos_id,) if self.add_bos and self.bos_id is not None else ()

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """One more than the largest id; the embedding table may have more rows."""

    @abc.abstractmethod
    def token(self, token_id: int) -> str:
        """Returns a token as the vocabulary's own file spells it."""

    @abc.abstractmethod
    def encode(self, text: str, *, opening: bool = False) -> list[int]:
        """Returns the ids of `text`, with no BOS or EOS added.

        Control tokens spelled out in the text (`<|im_start|>`) become those tokens.

        Args:
          text: any text; normalised where the family's tokenizer does so (Qwen: NFC).
          opening: whether the text is the first of its sequence. Llama 1 and 2 and Mistral put a
            space before such a text; for other families it makes no difference.

        Returns:
          Ids. With `opening` false, their bytes join to exactly the bytes of the text.
        """

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """Returns the ids of a whole prompt: the start-of-text id, if any, and those of `text`."""
        return (*self.start_ids, *self.encode(text, opening=True))

    @functools.cached_property
    def turn_end_id(self) -> int:
        """Id with which the chat template ends the assistant's turn.

        Raises:
          UserError: there is no chat template, or it ends the turn with no special token.
        """
        if self.chat_template is None:
            raise UserError(
                "the model has no chat template (chat_template.jinja, tokenizer_config.json or"
                " tokenizer.chat_template of GGUF): use an instruct model, or Run.chat = False"
            )
        for token_id in self.encode(self.chat_template.after_answer):
            if token_id in self.eos_ids or not self.token_bytes(token_id):
                return token_id
        raise UserError(
            "the model's chat template ends the assistant's turn with no special token, at which"
            " sampling could stop: use another model, or Run.chat = False"
        )

    @functools.cached_property
    def for_chat(self) -> Vocabulary:
        """The same vocabulary, in which the end of the assistant's turn also ends a text."""
        eos_ids = self.eos_ids | {self.turn_end_id}
        if eos_ids == self.eos_ids:
            return self
        changed = copy.copy(self)
        changed.specials = dataclasses.replace(self.specials, eos_ids=eos_ids)
        for name in ("fingerprint", "for_chat"):
            changed.__dict__.pop(name, None)
        return changed

    @abc.abstractmethod
    def _bytes_of(self, token_id: int) -> bytes:
        """Returns what `token_bytes` does for an id below `size`."""

    @functools.cached_property
    def _known_bytes(self) -> dict[int, bytes]:
        """The bytes of ids that were asked for; those of all take half a second."""
        return {}

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token adds to a text; b"" for control tokens and unused rows."""
        known = self._known_bytes
        if token_id not in known:
            known[token_id] = self._bytes_of(token_id) if 0 <= token_id < self.size else b""
        return known[token_id]

    def shown(self, token_id: int) -> str:
        """Returns a token for a human reader: its text in quotes, or its name if it has no text."""
        data = self.token_bytes(token_id)
        if data or not 0 <= token_id < self.size:
            return repr(data.decode("utf-8", errors="replace"))
        return self.token(token_id) or repr("")

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; bytes that are not UTF-8 (half a character) become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model and the special ids; equal vocabularies tokenise alike."""
        spec = self.to_spec()
        spec.pop("chat_template", None)
        text = json.dumps(spec, sort_keys=True)
        return hashlib.sha256(self.model + text.encode()).hexdigest()

    def to_spec(self) -> dict[str, Any]:
        """Returns, as JSON values, what `saved.load` needs besides the model file."""
        spec = {"file": self.file_name, **dataclasses.asdict(self.specials)}
        spec["eos_ids"] = sorted(self.eos_ids)
        if not self.specials.space_after_specials:
            del spec["space_after_specials"]  # as earlier versions wrote it, for equal fingerprints
        if self.chat_template is not None:
            spec["chat_template"] = dataclasses.asdict(self.chat_template)
        return spec

    def save(self, folder: epath.PathLike) -> None:
        """Writes the model file and its spec into `folder`, for `saved.load` to read."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.file_name).write_bytes(self.model)
        (folder / SPEC_FILE).write_text(json.dumps(self.to_spec(), indent=1) + "\n")


def piece_bytes(piece: str, may_be_byte: bool) -> bytes:
    """Returns the bytes of a SentencePiece piece; with `may_be_byte`, "<0x0A>" is one byte."""
    match = _BYTE_PIECE.fullmatch(piece) if may_be_byte else None
    if match:
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode()

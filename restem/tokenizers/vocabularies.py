"""Vocabularies: text to token ids and back, byte for byte.

Two kinds exist, after the library that does the work: `TokenizersVocabulary` (a Hugging Face
`tokenizer.json`: byte-level BPE of Llama 3, SmolLM2 and Qwen, or SentencePiece-like BPE) and
`SentencePieceVocabulary` (a `tokenizer.model`: Llama 1 and 2, Mistral, Gemma). Either can be read
from a Hugging Face folder (`from_hf`) or rebuilt from the metadata of a GGUF file
(`gguf_vocabulary.from_gguf`), and either travels with a checkpoint (`save`, `load`). Nothing here
imports TensorFlow.

Text is decoded by joining the bytes of its tokens, never by a library's own `decode`: that one
drops leading spaces or replaces half a character, and a sampler must find a stop string in exactly
the bytes that training will see.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from restem.errors import UserError

# A text ends at any of these, whichever of them a checkpoint happens to name as its own.
END_TOKENS = frozenset(
    {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
    | {"</s>", "<eos>", "<end_of_turn>"}
)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPEC_FILE = "vocabulary.json"
_CONTROL, _USER_DEFINED = 3, 4  # types of SentencePiece pieces


@dataclasses.dataclass(frozen=True)
class Specials:
    """The ids that stand for no text."""

    bos_id: int | None
    """Begins a text, if the family has such a token."""
    eos_ids: frozenset[int]
    """Every id that ends a text: end of text, of a turn, of a message."""
    pad_id: int
    """Fills rows; masked everywhere, so its value is free."""
    add_bos: bool
    """Whether texts of this family begin with `bos_id` (Gemma and Llama do, Qwen does not)."""


class Vocabulary(abc.ABC):
    """Text to token ids and back."""

    file_name: str
    """What the serialised model is called in a folder."""

    def __init__(self, model: bytes, specials: Specials):
        self.model = model
        self.specials = specials

    @property
    def bos_id(self) -> int | None:
        return self.specials.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends a text."""
        return self.specials.eos_ids

    @property
    def pad_id(self) -> int:
        return self.specials.pad_id

    @property
    def add_bos(self) -> bool:
        return self.specials.add_bos

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What stands before the first text of a sequence: the BOS id, or nothing."""
        return (self.bos_id,) if self.add_bos and self.bos_id is not None else ()

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Ids are below this; the embedding table may have more rows."""

    @abc.abstractmethod
    def token(self, token_id: int) -> str:
        """How the vocabulary's own file writes a token."""

    @abc.abstractmethod
    def encode(self, text: str, *, opening: bool = False) -> list[int]:
        """Ids of `text`, with no BOS or EOS added.

        Control tokens written out in the text (`<|im_start|>`) become those tokens.

        Args:
          text: any text; where the family's tokenizer normalises (Qwen: NFC), so does this.
          opening: the text is the first of its sequence. Llama 1 and 2 and Mistral put a space
            before such a text. Elsewhere it makes no difference.

        Returns:
          With `opening` false, ids whose bytes join to exactly the bytes of the text.
        """

    @abc.abstractmethod
    def _token_table(self) -> list[bytes]:
        """The bytes of every id."""

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        return self._token_table()

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text; b"" for control tokens and rows of no token."""
        table = self._bytes
        return table[token_id] if 0 <= token_id < len(table) else b""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 (half a character) become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model and the special ids: equal ones tokenise alike."""
        spec = json.dumps(self.to_spec(), sort_keys=True).encode()
        return hashlib.sha256(self.model + spec).hexdigest()

    def to_spec(self) -> dict[str, Any]:
        """What `load` needs to know besides the model file; JSON can hold it."""
        specials = dataclasses.asdict(self.specials)
        return {"file": self.file_name, **specials, "eos_ids": sorted(self.eos_ids)}

    def save(self, folder: epath.PathLike) -> None:
        """Writes the model file and its spec into `folder`, from which `load` reads them."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.file_name).write_bytes(self.model)
        (folder / _SPEC_FILE).write_text(json.dumps(self.to_spec(), indent=1) + "\n")


class TokenizersVocabulary(Vocabulary):
    """A vocabulary of the `tokenizers` library."""

    file_name = "tokenizer.json"

    def __init__(self, model: bytes, specials: Specials):
        super().__init__(model, specials)
        self._spec = json.loads(model)
        self._opening = _tokenizer(self._spec)
        continuing = _without_dummy_prefix(self._spec)
        self._continuing = self._opening if continuing == self._spec else _tokenizer(continuing)

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
            to_bytes = lambda token: _piece_bytes(token, byte_fallback)
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


class SentencePieceVocabulary(Vocabulary):
    """A vocabulary of the `sentencepiece` library."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes, specials: Specials):
        super().__init__(model, specials)
        proto = _parse_proto(model)
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
        for i, part in enumerate(pattern.split(text)):
            if part in control_ids:
                ids.append(control_ids[part])
            elif part:
                processor = self._opening if opening and i == 0 else self._continuing
                ids.extend(processor.encode(part))
        return ids

    def _token_table(self) -> list[bytes]:
        sp = self._opening
        table = []
        for i in range(sp.vocab_size()):
            if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
                table.append(b"")
            else:
                table.append(_piece_bytes(sp.id_to_piece(i), sp.is_byte(i)))
        return table


def load(folder: epath.PathLike) -> Vocabulary:
    """The vocabulary that `Vocabulary.save` wrote into `folder`."""
    folder = epath.Path(folder)
    spec_path = folder / _SPEC_FILE
    if not spec_path.exists():
        raise UserError(f"{spec_path} does not exist: {folder} holds no saved vocabulary")
    spec = json.loads(spec_path.read_text())
    file_name = spec.pop("file")
    for kind in (TokenizersVocabulary, SentencePieceVocabulary):
        if kind.file_name == file_name:
            specials = Specials(**{**spec, "eos_ids": frozenset(spec["eos_ids"])})
            return kind((folder / file_name).read_bytes(), specials)
    raise UserError(f"{spec_path} names an unknown vocabulary file {file_name!r}")


def from_hf(folder: epath.PathLike) -> Vocabulary:
    """The vocabulary of a Hugging Face model folder.

    `tokenizer.json` is preferred to `tokenizer.model`. The ids that end a text are those that
    `generation_config.json`, `config.json` or `tokenizer_config.json` name, and the well-known
    ones.
    """
    folder = epath.Path(folder)
    settings = _read_json(folder / "tokenizer_config.json")
    config = _read_json(folder / "config.json")
    config = {**config, **config.get("text_config", {})}
    generation = _read_json(folder / "generation_config.json")
    eos_ids = set()
    for source in (generation, config):
        named = source.get("eos_token_id")
        eos_ids.update(named if isinstance(named, list) else [] if named is None else [named])

    if (folder / "tokenizer.json").exists():
        kind: type[TokenizersVocabulary | SentencePieceVocabulary] = TokenizersVocabulary
        model = (folder / "tokenizer.json").read_bytes()
        spec = json.loads(model)
        tokenizer = _tokenizer(spec)
        to_id = tokenizer.token_to_id
        special_ids = {t["content"]: t["id"] for t in spec.get("added_tokens", ()) if t["special"]}
        starts = tokenizer.encode("a", add_special_tokens=True).ids
    elif (folder / "tokenizer.model").exists():
        kind, model = SentencePieceVocabulary, (folder / "tokenizer.model").read_bytes()
        proto = _parse_proto(model)
        to_id = {p.piece: i for i, p in enumerate(proto.pieces)}.get
        special_kinds = (_CONTROL, _USER_DEFINED)
        special_ids = {p.piece: i for i, p in enumerate(proto.pieces) if p.type in special_kinds}
        starts = [proto.trainer_spec.bos_id]
    else:
        raise UserError(
            f"{folder} holds neither tokenizer.json nor tokenizer.model: copy the tokenizer's "
            "files there"
        )

    def named_id(name: str) -> int | None:
        token = settings.get(f"{name}_token")
        if isinstance(token, Mapping):
            token = token["content"]
        token_id = config.get(f"{name}_token_id") if token is None else to_id(token)
        return token_id if isinstance(token_id, int) and token_id >= 0 else None

    bos_id = named_id("bos")
    if named_id("eos") is not None:
        eos_ids.add(named_id("eos"))
    # Only where it is a special token: Qwen has an ordinary one that is written "</s>".
    eos_ids.update(i for token, i in special_ids.items() if token in END_TOKENS)
    if not eos_ids:
        raise UserError(f"{folder}: nothing names an end-of-text token; add eos_token_id to its "
                        "generation_config.json")  # fmt: skip
    pad_id = named_id("pad")
    add_bos = settings.get("add_bos_token")
    if add_bos is None:
        add_bos = bos_id is not None and starts[:1] == [bos_id]
    specials = Specials(
        bos_id=bos_id,
        eos_ids=frozenset(eos_ids),
        pad_id=min(eos_ids) if pad_id is None else pad_id,
        add_bos=bool(add_bos),
    )
    return kind(model, specials)


def _piece_bytes(piece: str, may_be_byte: bool) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece) if may_be_byte else None
    if match:
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode()


@functools.cache
def _byte_characters() -> dict[str, int]:
    """The printable character by which byte-level BPE writes each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    rest = (b for b in range(256) if b not in printable)
    return table | {chr(256 + i): b for i, b in enumerate(rest)}


def _component_types(spec: Any) -> set[str]:
    """Types of all components in the parts of a tokenizer.json that see text."""
    if isinstance(spec, Mapping):
        parts = [spec.get(k) for k in ("decoder", "pre_tokenizer", "pretokenizers", "decoders")]
        return (
            {spec["type"]} | _component_types(parts) if "type" in spec else _component_types(parts)
        )
    if isinstance(spec, list):
        return set().union(*map(_component_types, spec))
    return set()


def _without_dummy_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that puts no space before a text."""

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


def _tokenizer(spec: Mapping[str, Any]):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _processor(model: bytes):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _parse_proto(model: bytes):
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def _read_json(path: epath.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}

"""What a published model carries besides config, weights and vocabulary.

Chat template, special tokens and the defaults of generation change no logit. They travel with a
policy and its checkpoints so that an exported model carries those of the original. Prompts of chats
are written with the template (`tokenizers.chat_template`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from restem.errors import UserError

SPEC_FILE = "hub_config.json"
"""Name of the file that `HubConfig.save` writes."""

_OF_ONE_FOLDER = ("auto_map", "name_or_path", "tokenizer_file", "processor_class")
"""Keys of tokenizer_config.json that name other files of the folder."""
_OF_ONE_VERSION = ("transformers_version", "_from_model_config")
"""Keys of generation_config.json that say which program wrote it."""


@dataclasses.dataclass(frozen=True)
class HubConfig:
    """Contents of the files that `transformers` keeps beside a model's weights."""

    tokenizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """tokenizer_config.json, including `chat_template` and the special tokens."""
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """generation_config.json."""

    @property
    def chat_template(self) -> str | None:
        """The chat template, as Jinja; of several named ones, the default; None without any."""
        template = self.tokenizer.get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template}
            return named.get("default")
        return template or None

    def save(self, folder: epath.PathLike) -> None:
        """Writes the contents into `folder`, for `load` to read."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def load(folder: epath.PathLike) -> HubConfig:
    """Returns what `HubConfig.save` wrote; empty for a checkpoint of a version that wrote none."""
    return HubConfig(**_read_json(epath.Path(folder) / SPEC_FILE))


def from_hf(folder: epath.PathLike) -> HubConfig:
    """Returns the contents of the files of a Hugging Face model folder.

    Of the places where the chat template may be, `transformers` prefers chat_template.jinja.

    Raises:
      UserError: one of the files is not JSON.
    """
    folder = epath.Path(folder)
    tokenizer = {
        **_read_json(folder / "special_tokens_map.json"),
        **_read_json(folder / "chat_template.json"),
        **_read_json(folder / "tokenizer_config.json"),
    }
    if (folder / "chat_template.jinja").exists():
        tokenizer["chat_template"] = (folder / "chat_template.jinja").read_text()
    generation = _read_json(folder / "generation_config.json")
    return HubConfig(_without(tokenizer, _OF_ONE_FOLDER), _without(generation, _OF_ONE_VERSION))


def from_gguf(metadata: Mapping[str, Any]) -> HubConfig:
    """Returns the chat template and the special tokens in the header of a GGUF file."""
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    special = {
        "bos_token": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token": metadata.get("tokenizer.ggml.eos_token_id"),
        "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    tokenizer: dict[str, Any] = {
        name: tokens[i] for name, i in special.items() if i is not None and 0 <= i < len(tokens)
    }
    if template := metadata.get("tokenizer.chat_template"):
        tokenizer["chat_template"] = template
    return HubConfig(tokenizer)


def _without(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error

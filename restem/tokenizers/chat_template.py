"""Chat templates: how an instruct model writes a conversation as text.

A template is a Jinja program that comes with the model: `chat_template.jinja` or the key
`chat_template` of `tokenizer_config.json` in a Hugging Face folder, `tokenizer.chat_template` in
the metadata of a GGUF file. It runs in Jinja's sandbox, in the environment that `transformers`
gives it, so the text is that of `tokenizer.apply_chat_template`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.records import CHAT_DATE
from restem.tokenizers.hub_config import HubConfig

Message = Mapping[str, str]
"""A turn: {"role": "system", "user" or "assistant", "content": its text}."""

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a model."""

    source: str
    """The Jinja program."""
    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Special tokens by the names that templates use, such as "bos_token"."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        date: str = CHAT_DATE,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns a conversation as text.

        Args:
          messages: the turns.
          add_generation_prompt: whether the text ends where the assistant's next turn begins.
          date: date for templates that write today's, as YYYY-MM-DD.
          options: more variables for the template, such as {"enable_thinking": False}.

        Raises:
          UserError: the template is no valid Jinja, or refuses the conversation.
        """
        import jinja2

        day = datetime.datetime.fromisoformat(date)
        try:
            return _compiled(self.source).render(
                **{**self.special_tokens, "tools": None, "documents": None, **(options or {})},
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                strftime_now=day.strftime,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the model's chat template cannot write a conversation of {roles}: "
                f"{' '.join(str(error).split())}"
            ) from error

    @functools.cached_property
    def after_answer(self) -> str:
        """What the template writes after the text of the assistant's turn."""
        answer = "e4b7f2a9"  # in no template
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        return self.render(turns, add_generation_prompt=False).rpartition(answer)[2]


@functools.lru_cache(maxsize=8)
def _compiled(source: str):
    """Returns the template, in the environment of `transformers`."""
    import jinja2
    from jinja2 import ext, sandbox

    class Generation(ext.Extension):
        """`{% generation %}`, which marks the assistant's text and does not change it."""

        tags = {"generation"}  # noqa: RUF012  as the base class has it

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
            sort_keys=sort_keys,
        )  # fmt: skip

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)


def of_hub(hub: HubConfig) -> ChatTemplate | None:
    """Returns the chat template among the files of a published model, or None."""
    if hub.chat_template is None:
        return None
    spelled = {
        name: token["content"] if isinstance(token, Mapping) else token
        for name in _SPECIAL_TOKENS
        if (token := hub.tokenizer.get(name)) is not None
    }
    return ChatTemplate(hub.chat_template, spelled)
